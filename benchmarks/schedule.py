"""Hours for the whole schedule of 80 epochs from cached features, extrapolated from real epochs.

python benchmarks/schedule.py DATA WEIGHTS [--layer Mixed_7a] [--epochs 2] [--recipes flickr8k-lstm flickr8k-attention] [--set encoder.pooled=false]

Each recipe trains for some epochs, with free-running validation and checkpoints; the median epoch counts. Encoding is
done once and reported separately, as the time that the run takes beyond its epochs.
"""

from __future__ import annotations

import argparse
import json
import platform
import statistics
import tempfile
import time
from pathlib import Path
from typing import Any

import torch

from showtell.recipe import load_recipe
from showtell.training.run import train
from showtell.training.runlog import EpochReport


def epochs_of(name: str, a: argparse.Namespace, folder: Path) -> dict[str, Any]:
    recipe = load_recipe(name, [*a.set, f"encoder.layer={a.layer}", f"train.phases=[{{epochs={a.epochs}, lr=1e-3}}]"])
    reports: list[EpochReport] = []
    started = time.perf_counter()
    train(recipe, data=a.data, encoder_weights=a.weights, out=folder / name, report=reports.append)
    seconds = [report.seconds for report in reports]
    return {
        "epoch_seconds": [round(s, 1) for s in seconds],
        "start_and_encoding_seconds": round(time.perf_counter() - started - sum(seconds), 1),
        "hours_for_80_epochs": round(80 * statistics.median(seconds) / 3600, 2),
        "cider_after_these": round(reports[-1].scores["cider"], 4),
    }


def main() -> None:
    parser = argparse.ArgumentParser()
    parser.add_argument("data", type=Path)
    parser.add_argument("weights", type=Path)
    parser.add_argument("--layer", default="Mixed_7a")
    parser.add_argument("--epochs", type=int, default=2)
    parser.add_argument("--recipes", nargs="+", default=["flickr8k-lstm", "flickr8k-attention"])
    parser.add_argument("--set", nargs="*", default=[], metavar="SECTION.KEY=VALUE")
    a = parser.parse_args()
    with tempfile.TemporaryDirectory() as temporary:
        found = {name: epochs_of(name, a, Path(temporary)) for name in a.recipes}
    for name, value in found.items():
        print(f"{name:20s} epochs of {value['epoch_seconds']} s: {value['hours_for_80_epochs']} h for 80")
    versions = {"torch": torch.__version__, "python": platform.python_version(), "threads": torch.get_num_threads()}
    print(json.dumps({"recipes": found, "versions": versions}))


if __name__ == "__main__":
    main()
