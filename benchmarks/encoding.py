"""How fast a feature cache is written, against the encoder alone on pixels that wait in memory.

python benchmarks/encoding.py FOLDER WEIGHTS [LAYER] [IMAGES]
"""

from __future__ import annotations

import statistics
import sys
import tempfile
import time
from pathlib import Path

import numpy as np
import torch

from showtell.data.features import FeatureCache, encode_into
from showtell.images import find_images, open_image
from showtell.model.encoder import Encoder


def main(folder: str, weights: str, layer: str = "Mixed_7a", count: str = "512") -> None:
    paths = list(find_images([folder]))[: int(count)]
    encoder = Encoder(name="inception_v3.tf_in1k", layer=layer, crop="squash", weights=Path(weights))
    pixels = torch.from_numpy(np.stack([encoder.transform(open_image(path)) for path in paths[:32]]))
    encoder.encode(pixels)
    ratios = []
    for _ in range(3):
        started = time.perf_counter()
        for _ in range(len(paths) // 32):
            encoder.encode(pixels)
        bare = len(paths) // 32 * 32 / (time.perf_counter() - started)
        with tempfile.TemporaryDirectory() as temporary:
            cache = FeatureCache(
                Path(temporary) / "cache", fingerprint="x", regions=encoder.regions, feature_size=encoder.feature_size
            )
            started = time.perf_counter()
            encode_into(cache, paths, encode=encoder.encode, transform=encoder.transform)
            written = len(paths) / (time.perf_counter() - started)
        ratios.append(written / bare)
        print(f"encoder alone {bare:.1f} images/s, cache written {written:.1f} images/s, ratio {ratios[-1]:.3f}")
    print(f"median ratio {statistics.median(ratios):.3f}")


if __name__ == "__main__":
    main(*sys.argv[1:])
