"""A small recipe, and runs that are stopped, compared and refused."""

from __future__ import annotations

import json
from collections.abc import Callable
from pathlib import Path

import pytest
import torch
from safetensors.torch import load_file

from showtell.config import Recipe
from showtell.data.annotations import read_annotations
from showtell.training.run import TrainResult, train

# A CNN of its own size, two phases (LSTM on cached features, then CNN + LSTM), dropout, averaged weights, accumulation:
# all that has a state is in it.
SMALL = """
[data]
min_count = 1
[encoder]
name = "small"
pretrained = false
image_size = 32
[decoder]
name = "attention"
embedding = 24
hidden = 32
attention = 16
dropout = 0.3
[train]
batch_images = 4
accumulate = 2
ema = 0.9
warmup = 3
label_smoothing = 0.1
doubly_stochastic = 0.1
precision = "no"
checkpoint_steps = 2
[[train.phases]]
epochs = 2
lr = 5e-3
[[train.phases]]
epochs = 2
lr = 2e-3
encoder_from = "layers"
encoder_lr = 1e-3
[search]
beam = 2
max_length = 12
"""


def same(one: Path, other: Path) -> None:
    """Asserts that two runs ended with the same weights, checkpoints and scores, to the last bit."""
    for name in ("bundle/model.safetensors", "checkpoint.safetensors"):
        first, second = load_file(one / name), load_file(other / name)
        assert first.keys() == second.keys()
        assert all(bool((first[key] == second[key]).all()) for key in first), name
    assert lines(one) == lines(other)


def lines(out: Path) -> list[dict[str, object]]:
    """The log without its clock."""
    read = [json.loads(line) for line in (out / "log.jsonl").read_text(encoding="utf-8").splitlines()]
    return [{key: value for key, value in line.items() if key != "seconds"} for line in read]


class Stop(Exception):
    """What a test raises in the middle of a run."""


def stopped(recipe: Recipe, data: Path, out: Path, *, after: int) -> None:
    """Runs until the `after`-th step of training is reported, then dies without a goodbye."""
    steps = 0

    def progress(what: str, done: int, total: int) -> None:
        nonlocal steps
        steps += what.startswith("epoch")
        if steps == after:
            raise Stop

    with pytest.raises(Stop):
        train(recipe, data=data, out=out, resume=(out / "checkpoint.safetensors").exists(), progress=progress)


def on_the_cpu() -> dict[str, str]:
    """What several processes need in their environment to train on the CPU of this machine: nothing, unless it has a GPU."""
    return {"ACCELERATE_USE_CPU": "1"} if torch.accelerator.is_available() else {}


def steps_an_epoch(data: Path) -> int:
    """Of the small recipe: batches of 4 images, two of them a step."""
    batches = -(-len(read_annotations(data).split("train")) // 4)
    return -(-batches // 2)


def refuse(error: type[Exception], match: str, call: Callable[[], TrainResult]) -> None:
    with pytest.raises(error, match=match) as caught:
        call()
    assert "\n" not in str(caught.value)
