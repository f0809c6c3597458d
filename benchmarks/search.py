"""How fast captions are searched for, in batches and one image at a time, from features in memory.

python benchmarks/search.py [--decoder attention] [--regions 64] [--features 1280] [--hidden 512] [--words 2531] [--images 1000]

Weights are random and no caption ends, so each takes `--steps` steps whatever the batch. "plain" is the usual search of
tutorials with the same model and weights: one image at a time, each beam with its own copy of the grid, probabilities of
all words sorted, hypotheses as lists; "plain, keys each step" also projects the grid again before each word. Ratios are
taken within a round; they and the rates are medians of the rounds.
"""

from __future__ import annotations

import argparse
import json
import platform
import statistics
import time
from collections.abc import Callable
from typing import Any

import torch
from torch import Tensor

from showtell.decoding import SearchOptions
from showtell.model.decoders import build_decoder
from showtell.model.packing import packed
from showtell.search import beam_search, draw

START, END = 1, 2


def plain(decoder: Any, features: Tensor, *, beam: int, steps: int, every_step: bool) -> list[int]:
    """The usual beam search of one image; features (1,R,F)."""
    with torch.no_grad():
        copies = features.expand(beam, -1, -1).contiguous()
        memory = decoder.prepare(copies)
        state = decoder.init_state(memory, 1)
        beams: list[tuple[float, list[int]]] = [(0.0, [START])]
        for _ in range(steps):
            if every_step:
                memory = decoder.prepare(copies)
            tokens = torch.tensor([[words[-1]] for _, words in beams] + [[END]] * (beam - len(beams)))
            step = decoder.step(tokens, state, memory)
            log_probs = step.logits[:, 0].log_softmax(-1)  # (K,V)
            found = []
            for row, (score, words) in enumerate(beams):
                values, ids = log_probs[row].sort(descending=True)
                for value, word in zip(values[:beam].tolist(), ids[:beam].tolist(), strict=True):
                    found.append((score + value, [*words, word], row))
            found = sorted(found, key=lambda item: -item[0])[:beam]
            beams = [(score, words) for score, words, _ in found]
            rows = torch.tensor([row for _, _, row in found])
            state = type(state)(*(x[rows] for x in step.state))
    return beams[0][1][1:]


def main() -> None:
    parser = argparse.ArgumentParser()
    parser.add_argument("--decoder", default="attention")
    for name, default in {
        "regions": 64, "features": 1280, "hidden": 512, "words": 2531, "images": 1000, "single": 20, "steps": 14,
        "beam": 5, "rounds": 5,
    }.items():  # fmt: skip
        parser.add_argument(f"--{name}", type=int, default=default)
    a = parser.parse_args()
    torch.manual_seed(0)
    torch.set_flush_denormal(True)
    decoder = build_decoder(
        a.decoder, feature_size=a.features, vocabulary_size=a.words, embedding=a.hidden, hidden=a.hidden, layers=1,
        attention=a.hidden, dropout=0.0, tied=False,
    ).eval().requires_grad_(False)  # fmt: skip
    decoder.output.bias[END] = -100.0
    ours = packed(decoder)
    features = torch.randn(a.images, a.regions, a.features)

    def search(beam: int, batch: int, images: int) -> None:
        options = SearchOptions(beam=beam, max_length=a.steps)
        for first in range(0, images, batch):
            beam_search(ours, features[first : first + batch], options=options, start_id=START, end_id=END)

    def one_by_one(every_step: bool) -> None:
        for i in range(a.single):
            plain(decoder, features[i : i + 1], beam=a.beam, steps=a.steps, every_step=every_step)

    samples = SearchOptions(n=5, max_length=a.steps)
    contestants: dict[str, tuple[int, Callable[[], object]]] = {
        "plain, keys each step": (a.single, lambda: one_by_one(True)),
        "plain": (a.single, lambda: one_by_one(False)),
        "batches of 1": (a.single, lambda: search(a.beam, 1, a.single)),
        "batches of 10": (10 * a.single, lambda: search(a.beam, 10, 10 * a.single)),
        "batches of 100": (a.images, lambda: search(a.beam, 100, a.images)),
        "greedy, batches of 1": (a.single, lambda: search(1, 1, a.single)),
        "greedy, batches of 100": (a.images, lambda: search(1, 100, a.images)),
        "5 samples of 64 images": (
            5 * 64, lambda: draw(ours, features[:64], options=samples, start_id=START, end_id=END)
        ),
    }  # fmt: skip
    check_same(decoder, ours, features, a)
    rates: dict[str, list[float]] = {name: [] for name in contestants}
    for _ in range(a.rounds):
        for name, (captions, run) in contestants.items():
            started = time.perf_counter()
            run()
            rates[name].append(captions / (time.perf_counter() - started))
    medians = {name: statistics.median(values) for name, values in rates.items()}
    print(
        f"{a.decoder}, grid {a.regions}×{a.features}, hidden {a.hidden}, {a.words} words, beam {a.beam}, {a.steps} steps"
    )
    for name, rate in medians.items():
        print(f"{name:24s} {rate:8.1f} captions/s")

    def ratio(fast: str, slow: str) -> float:
        return round(statistics.median(x / y for x, y in zip(rates[fast], rates[slow], strict=True)), 2)

    ratios = {
        "to plain, keys each step": ratio("batches of 100", "plain, keys each step"),
        "to plain": ratio("batches of 100", "plain"),
        "to batches of 1": ratio("batches of 100", "batches of 1"),
        "greedy to batches of 1": ratio("greedy, batches of 100", "greedy, batches of 1"),
    }
    for name, value in ratios.items():
        print(f"batches of 100 {name}: {value}×")
    versions = {"torch": torch.__version__, "python": platform.python_version(), "threads": torch.get_num_threads()}
    rounded = {name: round(rate, 2) for name, rate in medians.items()}
    print(json.dumps({"captions_per_second": rounded, "ratios": ratios, "sizes": vars(a), "versions": versions}))


def check_same(decoder: Any, ours: Any, features: Tensor, a: argparse.Namespace) -> None:
    """Asserts that both searches find the same captions, so that the comparison is fair."""
    options = SearchOptions(beam=a.beam, max_length=a.steps)
    found = beam_search(ours, features[:3], options=options, start_id=START, end_id=END)
    for i, (best, *_) in enumerate(found):
        words = plain(decoder, features[i : i + 1], beam=a.beam, steps=a.steps, every_step=False)
        assert list(best.tokens) == words, (best.tokens, words)


if __name__ == "__main__":
    main()
