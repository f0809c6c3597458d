"""Milliseconds per training step on a GPU, for each kind of phase, with and without CUDA graphs.

python benchmarks/gpu.py DATA [--images 640] [--steps 12] [key=value …]

`flickr8k-attention` with Inception V3 up to `Mixed_7a`, whose weights are random (as fast as learnt ones): a phase of
the LSTM alone, one of CNN + LSTM, and both again with self-critical training. Each phase's first epoch, which records
the graphs, is left out, and so is validation; sampled captions may still bring a new length later. Both ways train one
after the other in one process. Without a GPU there are no graphs, and the times are the CPU's.
"""

from __future__ import annotations

import argparse
import json
import platform
import tempfile
import time
from collections.abc import Iterator
from pathlib import Path

import torch

from showtell.data.annotations import read_annotations
from showtell.recipe import load_recipe
from showtell.training import run

_BEFORE = 6  # steps at the start of an epoch that are not timed

_PHASES = (
    "train.phases=["
    "{epochs=2, lr=1e-3, cached_views=3}, "
    '{epochs=2, lr=3e-4, encoder_from="Mixed_6e", encoder_lr=1e-4, batch_images=16}, '
    '{epochs=2, lr=5e-5, cached_views=3, batch_images=16, objective="self-critical", temperature=0.5}, '
    '{epochs=2, lr=2e-5, encoder_from="Mixed_6e", encoder_lr=5e-6, batch_images=16, objective="self-critical", temperature=0.5}]'
)


def some_of(data: Path, out: Path, images: int) -> Path:
    """The first images of the train split, and a sixth as many of val."""
    annotations = read_annotations(data)
    with out.open("w", encoding="utf-8") as file:
        for split, many in (("train", images), ("val", max(20, images // 6))):
            for image in annotations.split(split)[:many]:
                row = {"image": str(image.path.resolve()), "captions": list(image.captions), "split": split}
                file.write(json.dumps(row) + "\n")
    return out


class TimedRun(run.Run):
    """A run that records how long its steps take, by phase."""

    steps = 12
    seconds: dict[int, float]

    def _epoch(self) -> Iterator[None]:
        started = 0.0
        for number, _ in enumerate(super()._epoch(), start=1):
            if number in (_BEFORE, _BEFORE + self.steps):
                if torch.cuda.is_available():
                    torch.cuda.synchronize()
                if number == _BEFORE:
                    started = time.perf_counter()
                else:  # a phase's last epoch counts
                    self.seconds[self.position.phase] = (time.perf_counter() - started) / self.steps
            yield


def measure(data: Path, folder: Path, *, graphs: bool, overrides: list[str]) -> list[float]:
    """Milliseconds per step, for each phase."""
    overrides = [
        "encoder.layer=Mixed_7a", "encoder.pretrained=false", "train.warmup=0", _PHASES, f"data.cache={folder / 'cache'}",
        f"train.cuda_graphs={str(graphs).lower()}", *overrides,
    ]  # fmt: skip
    TimedRun.seconds = {}
    run.train(load_recipe("flickr8k-attention", overrides), data=data, out=folder / f"run-{graphs}")
    return [1000 * TimedRun.seconds[phase] for phase in sorted(TimedRun.seconds)]


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("data", type=Path)
    parser.add_argument("--images", type=int, default=640)
    parser.add_argument("--steps", type=int, default=12)
    parser.add_argument("overrides", nargs="*", metavar="key=value")
    a = parser.parse_intermixed_args()
    if a.images < 32 * (_BEFORE + a.steps):
        parser.error(f"--images has to be {32 * (_BEFORE + a.steps)} or more for {a.steps} steps of 32 images")
    run.Run, TimedRun.steps = TimedRun, a.steps  # type: ignore[misc]
    with tempfile.TemporaryDirectory() as name:
        folder = Path(name)
        data = some_of(a.data, folder / "some.jsonl", a.images)
        found = {graphs: measure(data, folder, graphs=graphs, overrides=a.overrides) for graphs in (True, False)}
    kinds = ("LSTM", "CNN + LSTM", "LSTM, self-critical", "CNN + LSTM, self-critical")
    print(f"{'ms a step':26} {'recorded':>9} {'plain':>7} {'ratio':>6}")
    for kind, recorded, plain in zip(kinds, found[True], found[False], strict=True):
        print(f"{kind:26} {recorded:9.1f} {plain:7.1f} {plain / recorded:6.1f}")
    device = torch.cuda.get_device_name() if torch.cuda.is_available() else platform.machine()
    print(json.dumps({"device": device, "torch": torch.__version__, "recorded": found[True], "plain": found[False]}))


if __name__ == "__main__":
    main()
