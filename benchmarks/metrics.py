"""How fast 1,000 candidates are scored against five references each, beside pycocoevalcap's Python (without Java).

python benchmarks/metrics.py FLICKR8K [REPEATS]   (the folder with Flickr8k_text; images are not needed)

Candidates were written by people: one caption of each test image, with its other four and one of the train split as
references. Both sides score the same tokens to the same numbers (checked first); then both tokenise. pycocoevalcap's
tokenizer is a Java program, timed only if Java is installed. The sides take turns; figures are medians. CPU seconds,
children's included, are given too, as they depend less on other load.
"""

from __future__ import annotations

import contextlib
import io
import json
import os
import platform
import shutil
import statistics
import subprocess
import sys
import time
from collections.abc import Callable
from pathlib import Path

import numpy as np
from pycocoevalcap.bleu.bleu import Bleu
from pycocoevalcap.cider.cider import Cider
from pycocoevalcap.rouge.rouge import Rouge
from pycocoevalcap.tokenizer.ptbtokenizer import PTBTokenizer

import showtell
from showtell.data.annotations import read_annotations
from showtell.metrics import Protocol, bootstrap, evaluate, tokenize
from showtell.metrics.bleu import bleu_counted
from showtell.metrics.cider import cider_counted
from showtell.metrics.ngrams import Corpus
from showtell.metrics.reward import Reward
from showtell.metrics.rouge import rouge_counted
from showtell.metrics.tokenize import _tokenize

Captions = tuple[list[str], list[list[str]]]


def main(folder: str, repeats: str = "7") -> None:
    images = read_annotations(Path(folder), require_images=False)
    test, train = images.split("test"), images.split("train")
    raw = [im.captions[0] for im in test], [[*im.captions[1:], train[i].captions[0]] for i, im in enumerate(test)]
    tokens = [joined(c) for c in raw[0]], [[joined(c) for c in captions] for captions in raw[1]]
    check(ours(*tokens), theirs(*tokens))
    protocol = Protocol("Flickr8k", "test", len(test), "5", "PTB", "people", showtell.__version__)
    sides: dict[str, Callable[[], object]] = {
        "showtell, tokens given": lambda: ours(*tokens),
        "pycocoevalcap, tokens given": lambda: theirs(*tokens),
        "showtell, with tokenization": lambda: whole(raw, protocol),
    }
    if shutil.which("java"):
        sides["pycocoevalcap, with tokenization"] = lambda: theirs(*java_tokens(*raw))
    report = evaluate(*raw, protocol=protocol)
    sides["bootstrap, 1,000 draws"] = lambda: bootstrap(report)
    reward, batch = rewards([[tokenize(c) for c in im.captions] for im in train])
    sides["reward, 64 images × 5 samples"] = lambda: reward.cider_d(*batch)
    seconds: dict[str, list[float]] = {name: [] for name in sides}
    cpu: dict[str, list[float]] = {name: [] for name in sides}
    for _ in range(int(repeats)):
        for name, run in sides.items():
            started, worked = time.perf_counter(), processor_seconds()
            run()
            seconds[name].append(time.perf_counter() - started)
            cpu[name].append(processor_seconds() - worked)
    show(seconds, {name: statistics.median(times) for name, times in cpu.items()}, len(test))


def show(seconds: dict[str, list[float]], cpu: dict[str, float], images: int) -> None:
    median = {name: statistics.median(times) for name, times in seconds.items()}
    ratios = {
        kind: statistics.median(
            b / a for a, b in zip(seconds[f"showtell, {kind}"], seconds[f"pycocoevalcap, {kind}"], strict=True)
        )
        for kind in ("tokens given", "with tokenization")
        if f"pycocoevalcap, {kind}" in seconds
    }
    print(
        f"{images} candidates × 5 references: BLEU-1…4, ROUGE-L, CIDEr-D; {len(next(iter(seconds.values())))} repeats"
    )
    print(f"{'':36s}{'median s':>10s}{'least':>9s}{'most':>9s}{'CPU s':>9s}")
    for name, times in seconds.items():
        print(f"{name:36s}{median[name]:10.4f}{min(times):9.4f}{max(times):9.4f}{cpu[name]:9.4f}")
    for kind, ratio in ratios.items():
        print(f"times as fast, {kind}: {ratio:.1f}")
    first = fresh_process()
    print(f"torch imported: {first['torch']}; a fresh process's first evaluation: {first['seconds']:.3f} s")
    about = {"python": platform.python_version(), "numpy": np.__version__, "cores": os.cpu_count()}
    print(
        json.dumps({"images": images, "seconds": median, "cpu_seconds": cpu, "ratios": ratios, "first": first, **about})
    )


def processor_seconds() -> float:
    """CPU seconds of this process and its children."""
    children = os.times()
    return time.process_time() + children.children_user + children.children_system


def ours(candidates: list[str], references: list[list[str]]) -> dict[str, object]:
    corpus = Corpus.of(candidates, references)
    bleu, rouge, cider = bleu_counted(corpus), rouge_counted(corpus), cider_counted(corpus)
    each = {"bleu_4": [row[3] for row in bleu.each], "rouge_l": rouge.each, "cider": cider.each}
    return {"bleu": bleu.corpus, "rouge_l": rouge.corpus, "cider": cider.corpus, "each": each}


def theirs(candidates: list[str], references: list[list[str]]) -> dict[str, object]:
    truth, spoken = dict(enumerate(references)), {i: [c] for i, c in enumerate(candidates)}
    with contextlib.redirect_stdout(io.StringIO()):
        bleu, bleu_each = Bleu(4).compute_score(truth, spoken)
    rouge, rouge_each = Rouge().compute_score(truth, spoken)
    cider, cider_each = Cider().compute_score(truth, spoken)
    each = {"bleu_4": bleu_each[3], "rouge_l": rouge_each.tolist(), "cider": cider_each.tolist()}
    return {"bleu": tuple(bleu), "rouge_l": rouge, "cider": cider, "each": each}


def check(found: dict[str, object], wanted: dict[str, object]) -> None:
    for name in ("bleu", "rouge_l", "cider"):
        np.testing.assert_allclose(found[name], wanted[name], rtol=0, atol=1e-9)
    for name, values in wanted["each"].items():  # type: ignore[attr-defined]
        np.testing.assert_allclose(found["each"][name], values, rtol=0, atol=1e-9)  # type: ignore[index]


def whole(raw: Captions, protocol: Protocol) -> object:
    """What `showtell evaluate` computes, without tokens cached from an earlier run."""
    _tokenize.cache_clear()
    return evaluate(*raw, protocol=protocol)


def java_tokens(candidates: list[str], references: list[list[str]]) -> Captions:
    tokenizer = PTBTokenizer()
    with contextlib.redirect_stderr(io.StringIO()):
        truth = tokenizer.tokenize({i: [{"caption": c} for c in row] for i, row in enumerate(references)})
        spoken = tokenizer.tokenize({i: [{"caption": c}] for i, c in enumerate(candidates)})
    return [spoken[i][0] for i in range(len(candidates))], [truth[i] for i in range(len(references))]


def rewards(train: list[list[list[str]]]) -> tuple[Reward, tuple[np.ndarray, np.ndarray]]:
    """Statistics of a train split, and a batch as in self-critical training: 64 images, five captions of each."""
    ids: dict[str, int] = {}
    references = [[[ids.setdefault(word, len(ids) + 1) for word in words] for words in row] for row in train]
    draw = np.random.default_rng(0)
    images = np.repeat(draw.choice(len(train), 64, replace=False), 5)
    rows = np.zeros((len(images), 20), dtype=np.int64)
    for row, image in zip(rows, images, strict=True):
        other = int(image) if draw.random() < 0.5 else int(draw.integers(len(train)))
        words = references[other][int(draw.integers(5))][:20]
        row[: len(words)] = words
    return Reward.from_references(references, end=0), (rows, images)


def fresh_process() -> dict[str, object]:
    """Whether scoring loads torch, and how long a process's first evaluation takes, without imports."""
    program = """
import json, sys, time
from showtell.data.scenes import captions_of, make_scene
from showtell.metrics import Protocol, evaluate
import random
draw = random.Random(0)
captions = [(captions_of(make_scene(draw), draw) * 6)[:6] for _ in range(1000)]
protocol = Protocol("scenes", "drawn", 1000, "5", "PTB", "grammar", "")
started = time.perf_counter()
evaluate([row[0] for row in captions], [row[1:] for row in captions], protocol=protocol)
print(json.dumps({"seconds": time.perf_counter() - started, "torch": "torch" in sys.modules}))
"""
    done = subprocess.run([sys.executable, "-c", program], capture_output=True, text=True, check=True)
    return dict(json.loads(done.stdout))


def joined(caption: str) -> str:
    return " ".join(tokenize(caption))


if __name__ == "__main__":
    main(*sys.argv[1:])
