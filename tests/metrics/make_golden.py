"""Writes golden.json: captions of the scenes' grammar and what pycocoevalcap scores them. Run by hand, needs the extra `dev`.

python tests/metrics/make_golden.py
"""

from __future__ import annotations

import contextlib
import io
import json
import random
from pathlib import Path

from pycocoevalcap.bleu.bleu import Bleu
from pycocoevalcap.cider.cider import Cider
from pycocoevalcap.rouge.rouge import Rouge

from showtell.data.scenes import captions_of, make_scene

FILE = Path(__file__).with_name("golden.json")


def reference_scores(candidates: list[str], references: list[list[str]]) -> dict[str, object]:
    """pycocoevalcap's scores of captions that are tokens already, joined by spaces."""
    truth, spoken = dict(enumerate(references)), {i: [c] for i, c in enumerate(candidates)}
    with contextlib.redirect_stdout(io.StringIO()):
        bleu, bleu_each = Bleu(4).compute_score(truth, spoken)
    rouge, rouge_each = Rouge().compute_score(truth, spoken)
    cider, cider_each = Cider().compute_score(truth, spoken)
    return {
        "bleu": list(map(float, bleu)), "bleu_each": [list(map(float, row)) for row in zip(*bleu_each, strict=True)],
        "rouge_l": float(rouge), "rouge_l_each": list(map(float, rouge_each)),
        "cider": float(cider), "cider_each": list(map(float, cider_each)),
    }  # fmt: skip


def captions(images: int = 30) -> tuple[list[str], list[list[str]]]:
    """Candidates of all kinds: right, half right, of another image, empty, one word, repeated, far too long."""
    draw = random.Random(5)
    references = [[c.lower().rstrip(".") for c in captions_of(make_scene(draw), draw)] for _ in range(images)]
    candidates = [draw.choice(references[draw.choice([i, i, (i + 1) % images])]) for i in range(images)]
    for i in range(0, images, 3):
        candidates[i] = " ".join(draw.sample(candidates[i].split(), k=max(1, len(candidates[i].split()) - 2)))
    candidates[1], candidates[4], candidates[7] = "", "circle", "a a a a a a"
    candidates[10] = " ".join(candidates[10].split() * 4)
    references[2], references[5] = references[2][:1], references[5][:3]
    return candidates, references


if __name__ == "__main__":
    spoken, truth = captions()
    content = {"candidates": spoken, "references": truth, "scores": reference_scores(spoken, truth)}
    FILE.write_text(json.dumps(content, indent=1) + "\n", encoding="utf-8")
