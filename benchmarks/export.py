"""One image to features: the encoder in eager torch (float32 and as `Captioner` runs it) against exported ones.

python benchmarks/export.py BUNDLE EXPORTED...      (folders that `showtell export` wrote)
"""

from __future__ import annotations

import json
import statistics
import sys
import time
from collections.abc import Callable
from pathlib import Path

import numpy as np
import torch

from showtell.bundle import load_bundle
from showtell.runtime import OnnxCaptioner


def seconds(run: Callable[[], object], repeats: int = 15) -> float:
    run()
    times = []
    for _ in range(repeats):
        started = time.perf_counter()
        run()
        times.append(time.perf_counter() - started)
    return statistics.median(times)


def main(bundle: str, *exported: str) -> None:
    loaded = load_bundle(bundle)
    size = loaded.transform.size
    pixels = np.random.default_rng(0).standard_normal((1, 3, size, size)).astype(np.float32)
    image = torch.from_numpy(pixels)

    def eager() -> None:
        with torch.inference_mode():
            loaded.encoder(image)

    found = {"torch float32": seconds(eager), "torch as captioned": seconds(lambda: loaded.encoder.encode(image))}
    for folder in exported:
        encoder = OnnxCaptioner.load(Path(folder))._encoder
        found[folder] = seconds(lambda encoder=encoder: encoder.run(None, {"images": pixels}))  # type: ignore[misc]
    for name, value in found.items():
        print(f"{name:24s} {value * 1000:8.1f} ms   {found['torch float32'] / value:5.2f} × float32 eager")
    print(json.dumps({"torch": torch.__version__, "threads": torch.get_num_threads(), **found}))


if __name__ == "__main__":
    main(*sys.argv[1:])
