"""One training step of a decoder, against a plain loop of the same model and the speed of a matrix product.

python benchmarks/training.py [--regions 64] [--features 1280] [--hidden 512] [--words 3500] [--images 16] [--captions 4] [--steps 20]

"plain" is the attention decoder as tutorials write it, with the same weights: every caption has its own copy of the
grid, keys are projected again at each step, tanh is computed for each pair, and the output layer runs at every step. It
runs in single precision; showtell in single precision, and in bfloat16 where the processor has it. First the gradients
of both are compared. All take turns; times are medians of the rounds, and ratios are taken within a round.
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
from torch.nn import functional as F
from torch.utils.flop_counter import FlopCounterMode

from showtell.model.contract import Output
from showtell.model.decoders import build_decoder
from showtell.model.encoder import fast_bfloat16
from showtell.training.losses import caption_loss


def plain_loss(d: Any, features: Tensor, tokens: Tensor) -> Tensor:
    """The attention decoder's loss, step by step and caption by caption; features (B,R,F), tokens (B,K,T+1)."""
    rows = tokens.shape[1]
    copies, fed = features.repeat_interleave(rows, 0), tokens.flatten(0, 1)  # (N,R,F), (N,T+1)
    mean = d.regions(copies).mean(1)
    h, c = torch.tanh(d.start(mean)).chunk(2, -1)
    total = torch.zeros(())
    for t in range(fed.shape[1] - 1):
        values = d.regions(copies)  # (N,R,E)
        mixed = torch.tanh(d.attention.key(values) + d.attention.query(h)[:, None])  # (N,R,A)
        weights = d.attention.score(mixed).squeeze(-1).softmax(-1)  # (N,R)
        context = torch.sigmoid(d.beta(h)) * (weights[..., None] * values).sum(1)  # (N,E)
        word = d.embedding(fed[:, t])
        i, f, o, g = (d.word_gates(word) + d.gates(torch.cat((context, h), -1))).chunk(4, -1)
        c = torch.sigmoid(f) * c + torch.sigmoid(i) * torch.tanh(g)
        h = torch.sigmoid(o) * torch.tanh(c)
        logits = d.output(word + d.deep_hidden(h) + d.deep_context(context))
        total = total + F.cross_entropy(logits, fed[:, t + 1])
    return total / (fed.shape[1] - 1)


def fast_loss(d: Any, features: Tensor, tokens: Tensor, *, bfloat16: bool = False) -> Tensor:
    with torch.autocast("cpu", torch.bfloat16, enabled=bfloat16):
        output: Output = d(features, tokens[..., :-1])
    return caption_loss(output, tokens[..., 1:])


def gradients(d: Any, loss: Tensor) -> dict[str, Tensor]:
    d.zero_grad()
    loss.backward()
    return {name: p.grad.clone() for name, p in d.named_parameters() if p.grad is not None}


def check_same(d: Any, features: Tensor, tokens: Tensor) -> float:
    """The largest difference between two gradients, as a share of the norm; asserts that it is small."""
    plain, fast = (gradients(d, loss(d, features, tokens)) for loss in (plain_loss, fast_loss))
    worst = max(float((plain[name] - fast[name]).norm() / plain[name].norm().clamp(min=1e-8)) for name in plain)
    assert plain.keys() == fast.keys() and worst < 1e-3, worst
    return worst


def step(d: Any, loss: Callable[[], Tensor]) -> None:
    d.zero_grad()
    loss().backward()


def median_seconds(contestants: dict[str, Callable[[], object]], rounds: int) -> dict[str, list[float]]:
    times: dict[str, list[float]] = {name: [] for name in contestants}
    for number in range(rounds + 1):
        for name, run in contestants.items():
            started = time.perf_counter()
            run()
            if number:  # the first round warms up
                times[name].append(time.perf_counter() - started)
    return times


def products(d: Any, features: Tensor, tokens: Tensor, a: argparse.Namespace) -> float:
    """Floating-point operations in the matrix products of one step, forward and backward."""
    with FlopCounterMode(display=False) as counter:
        step(d, lambda: fast_loss(d, features, tokens))
    found = float(counter.get_total_flops())
    if hasattr(d, "lstm"):  # its fused kernel is not counted: input and state to four gates, and twice as much backward
        found += 3 * 2 * a.images * (a.captions * a.steps + 1) * 2 * a.hidden * 4 * a.hidden
    return found


def main() -> None:
    parser = argparse.ArgumentParser()
    for name, default in {
        "regions": 64, "features": 1280, "hidden": 512, "words": 3500, "images": 16, "captions": 4, "steps": 20, "rounds": 5,
    }.items():  # fmt: skip
        parser.add_argument(f"--{name}", type=int, default=default)
    a = parser.parse_args()
    torch.manual_seed(0)
    torch.set_flush_denormal(True)
    tokens = torch.randint(4, a.words, (a.images, a.captions, a.steps + 1))
    bfloat16 = fast_bfloat16("cpu")
    kinds = {"float32": False, **({"bfloat16": True} if bfloat16 else {})}
    side = 2048
    matrices = {
        kind: torch.randn(side, side).to(torch.bfloat16 if half else torch.float32) for kind, half in kinds.items()
    }
    contestants: dict[str, Callable[[], object]] = {}
    work: dict[str, float] = {}
    worst = 0.0
    for name in ("attention", "lstm"):
        d = build_decoder(
            name, feature_size=a.features, vocabulary_size=a.words, embedding=a.hidden, hidden=a.hidden, layers=1,
            attention=a.hidden, dropout=0.0, tied=True,
        )  # fmt: skip
        d.train()
        features = torch.randn(a.images, a.regions if name == "attention" else 1, a.features)
        if name == "attention":
            worst = check_same(d, features, tokens)
            contestants["attention, plain loop"] = lambda d=d, f=features: step(d, lambda: plain_loss(d, f, tokens))  # type: ignore[misc]
        for kind, half in kinds.items():
            contestants[f"{name}, {kind}"] = lambda d=d, f=features, half=half: step(  # type: ignore[misc]
                d, lambda: fast_loss(d, f, tokens, bfloat16=half)
            )
        work[name] = products(d, features, tokens, a)
    for kind, matrix in matrices.items():
        contestants[f"product of matrices, {kind}"] = lambda m=matrix: m @ m  # type: ignore[misc]
    times = median_seconds(contestants, a.rounds)
    print(
        f"{a.images * a.captions} captions of {a.images} images, {a.steps} steps, grid {a.regions}×{a.features}, hidden {a.hidden}"
    )
    print(f"gradients of the plain loop and of showtell differ by {worst:.1e} of their norm at most")
    rates, shares, ratios = {}, {}, {}
    for name, seconds in times.items():
        took = statistics.median(seconds)
        decoder, kind = name.split(", ")
        if decoder in work:
            rates[name] = a.images * a.captions / took
        line = f"{name:32s} {1000 * took:8.1f} ms"
        if decoder in work and kind in kinds:
            peers = zip(seconds, times[f"product of matrices, {kind}"], strict=True)
            shares[name] = statistics.median(work[decoder] / s / (2 * side**3 / m) for s, m in peers)
            line += f"  {rates[name]:7.0f} captions/s  {work[decoder] / took / 1e9:6.0f} Gflop/s, {100 * shares[name]:.0f} % of the rate"
        if decoder == "attention" and kind in kinds:
            pairs = zip(times["attention, plain loop"], seconds, strict=True)
            ratios[kind] = statistics.median(slow / fast for slow, fast in pairs)
            line += f"  {ratios[kind]:.1f}× the plain loop"
        if decoder.startswith("product"):
            line += f"  {2 * side**3 / took / 1e9:21.0f} Gflop/s"
        print(line)
    print(
        json.dumps(
            {
                "ratio_to_plain_loop": {k: round(v, 2) for k, v in ratios.items()},
                "captions_per_second": {k: round(v, 1) for k, v in rates.items()},
                "share_of_product_rate": {k: round(v, 3) for k, v in shares.items()},
                "gradient_difference": worst,
                "sizes": vars(a),
                "versions": {
                    "torch": torch.__version__,
                    "python": platform.python_version(),
                    "threads": torch.get_num_threads(),
                },
            }
        )
    )


if __name__ == "__main__":
    main()
