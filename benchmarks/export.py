"""Captions, scores and times of exported captioners, beside those of the bundle that they came from.

python benchmarks/export.py BUNDLE DATA EXPORTED... [--split test] [--beam 5] [--repeats 30]

Each folder is compared with torch in float32 on every image of the split: how many captions have the same tokens, and
CIDEr. Then the encoder alone is timed with one image on all cores, the variants in turn, so that other load slows them
all; medians, and the median of the rounds' ratios. Last, a new process captions one photo; does it import torch?
"""

from __future__ import annotations

import argparse
import json
import os
import statistics
import subprocess
import sys
import time
from collections.abc import Callable
from pathlib import Path

import numpy as np
import torch

from showtell import Captioner
from showtell.evaluation import images_of, make_protocol
from showtell.inference import BundleEngine
from showtell.metrics import evaluate
from showtell.runtime import OnnxEngine

COLD = "import sys; from showtell.cli import main\ntry: main()\nfinally: print('torch' in sys.modules, file=sys.stderr)"


def seconds(run: Callable[[], object]) -> float:
    started = time.perf_counter()
    run()
    return time.perf_counter() - started


def encoders(bundle: BundleEngine, exported: dict[str, OnnxEngine]) -> dict[str, Callable[[], object]]:
    """The encoder of each variant on the same image, as a function to time."""
    size = bundle.transform.size
    pixels = np.random.default_rng(0).standard_normal((1, 3, size, size)).astype(np.float32)
    image, encoder = torch.from_numpy(pixels), bundle.bundle.encoder
    runs: dict[str, Callable[[], object]] = {
        "torch float32": lambda: encoder.encode(image, exact=True),
        "torch": lambda: encoder.encode(image),
    }
    return runs | {name: (lambda one=one: one.features(pixels)) for name, one in exported.items()}  # type: ignore[misc]


def time_encoders(runs: dict[str, Callable[[], object]], repeats: int) -> dict[str, list[float]]:
    times: dict[str, list[float]] = {name: [] for name in runs}
    for _ in range(repeats + 3):
        for name, run in runs.items():
            times[name].append(seconds(run))
    return {name: values[3:] for name, values in times.items()}


def cold(folder: Path, photo: Path, repeats: int = 5) -> tuple[float, bool]:
    """Median seconds that a new process takes, and whether it imported torch."""
    command, times = [sys.executable, "-c", COLD, "caption", str(folder), str(photo)], []
    for _ in range(repeats):
        started = time.perf_counter()
        done = subprocess.run(command, capture_output=True, text=True, check=True)
        times.append(time.perf_counter() - started)
    return statistics.median(times), "True" in done.stderr


def main() -> None:
    parser = argparse.ArgumentParser()
    parser.add_argument("bundle", type=Path)
    parser.add_argument("data", type=Path)
    parser.add_argument("exported", type=Path, nargs="+")
    parser.add_argument("--split", default="test")
    parser.add_argument("--beam", type=int, default=5)
    parser.add_argument("--repeats", type=int, default=30)
    options = parser.parse_args()
    bundle = BundleEngine.load(options.bundle, "cpu", precision="float32")
    exported = {folder.name: OnnxEngine.load(folder) for folder in options.exported}
    annotations, images = images_of(bundle.recipe, options.data, options.split)
    references = [list(image.captions) for image in images]
    protocol = make_protocol(annotations, options.split, references, decoding=f"beam {options.beam}")
    everyone = {name: Captioner(engine) for name, engine in {"torch float32": bundle, **exported}.items()}
    captions = {
        name: one.caption([image.path for image in images], beam=options.beam) for name, one in everyone.items()
    }
    ciders = {
        name: evaluate([c.text for c in said], references, protocol=protocol).scores["cider"]
        for name, said in captions.items()
    }
    tokens = {name: [[word.text for word in c.words] for c in said] for name, said in captions.items()}
    same = {
        name: sum(a == b for a, b in zip(tokens["torch float32"], said, strict=True)) for name, said in tokens.items()
    }
    times = time_encoders(encoders(bundle, exported), options.repeats)
    starts = {name: cold(folder, images[0].path) for name, folder in zip(exported, options.exported, strict=True)}
    print(f"{protocol}; encoder: one image, {torch.get_num_threads()} torch threads, {os.cpu_count()} cores")
    print(
        f"{'':16s}{'same tokens':>13s}{'CIDEr ×100':>12s}{'change':>10s}{'encoder':>11s}{'× float32':>11s}{'cold':>9s}"
    )
    results = {}
    for name, values in times.items():
        row: dict[str, object] = {"encoder_seconds": statistics.median(values)}
        row["speedup"] = statistics.median(a / b for a, b in zip(times["torch float32"], values, strict=True))
        line = f"{name:16s}"
        if name in ciders:
            change = ciders[name] / ciders["torch float32"] - 1
            row |= {"same_tokens": same[name], "cider": ciders[name], "cider_change": change}
            line += f"{same[name]:>9d}/{len(images):<3d}{100 * ciders[name]:12.2f}{100 * change:+8.2f} %"
        else:
            line += " " * 35
        line += f"{1000 * statistics.median(values):8.1f} ms{row['speedup']:11.2f}"
        if name in starts:
            row |= {"cold_seconds": starts[name][0], "cold_imports_torch": starts[name][1]}
            line += f"{starts[name][0]:7.2f} s" + ("  imports torch" if starts[name][1] else "")
        print(line)
        results[name] = row
    print(
        json.dumps({"protocol": str(protocol), "torch": torch.__version__, "images": len(images), "variants": results})
    )


if __name__ == "__main__":
    main()
