"""Our scores are coco-caption's: to 1e-9 against a golden file, and against pycocoevalcap itself on real captions."""

from __future__ import annotations

import importlib.util
import json
import random
from pathlib import Path
from types import ModuleType
from typing import Any

import pytest

from showtell.data.annotations import read_annotations
from showtell.metrics import bleu, cider_d, rouge_l, tokenize

GOLDEN = json.loads(Path(__file__).with_name("golden.json").read_text(encoding="utf-8"))
EXACT = {"rel": 0, "abs": 1e-9}


def compare(candidates: list[str], references: list[list[str]], expected: dict[str, Any]) -> None:
    ours = bleu(candidates, references)
    assert list(ours.corpus) == pytest.approx(expected["bleu"], **EXACT)
    for found, wanted in zip(ours.each, expected["bleu_each"], strict=True):
        assert list(found) == pytest.approx(wanted, **EXACT)
    for name, score in (("rouge_l", rouge_l(candidates, references)), ("cider", cider_d(candidates, references))):
        assert score.corpus == pytest.approx(expected[name], **EXACT)
        assert list(score.each) == pytest.approx(expected[f"{name}_each"], **EXACT)


def test_golden_scores() -> None:
    compare(GOLDEN["candidates"], GOLDEN["references"], GOLDEN["scores"])


def test_one_word_more_is_noticed() -> None:
    changed = [*GOLDEN["candidates"]]
    changed[8] += " again"
    with pytest.raises(AssertionError):
        compare(changed, GOLDEN["references"], GOLDEN["scores"])


def maker() -> ModuleType:
    pytest.importorskip("pycocoevalcap", reason="needs pycocoevalcap (the extra 'java')")
    spec = importlib.util.spec_from_file_location("make_golden", Path(__file__).with_name("make_golden.py"))
    assert spec is not None
    assert spec.loader is not None
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    return module


@pytest.mark.slow
@pytest.mark.parametrize("name", ["flickr8k", "ucm"])
def test_pycocoevalcap_says_the_same_of_real_captions(name: str, shared: Path) -> None:
    images = read_annotations(shared / "data" / name, require_images=False).split("val")
    captions = [[" ".join(tokenize(c)) for c in image.captions] for image in images]
    draw = random.Random(0)
    candidates = [draw.choice(captions[draw.choice([i, i - 1])]) for i in range(len(captions))]
    references = [row[1:] for row in captions]
    compare(candidates, references, maker().reference_scores(candidates, references))
