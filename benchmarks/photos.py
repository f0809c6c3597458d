"""From a camera's photo to what an encoder sees: decoded only as large as needed, against decoded whole.

python benchmarks/photos.py FOLDER [--images 6] [--rounds 5] [--width 4032] [--height 3024]

The folder's pictures are enlarged to a camera's size, given sensor noise, and saved as JPEG (about 3 MB). Both ways
take turns in one thread; times are medians over pictures and rounds. Their results' mean difference is out of 255.
"""

from __future__ import annotations

import argparse
import io
import json
import platform
import statistics
import time
from pathlib import Path

import numpy as np
import PIL
from PIL import Image

from showtell.images import ImageTransform, find_images, open_image


def as_from_a_camera(path: Path, width: int, height: int) -> bytes:
    large = np.asarray(open_image(path).resize((width, height), Image.Resampling.BICUBIC)).astype(np.int16)
    noise = np.random.default_rng(0).normal(0, 6, (height, width, 1)).astype(np.int16)
    file = io.BytesIO()
    Image.fromarray((large + noise).clip(0, 255).astype(np.uint8)).save(file, "JPEG", quality=88)
    return file.getvalue()


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("folder")
    for name, default in {"images": 6, "rounds": 5, "width": 4032, "height": 3024}.items():
        parser.add_argument(f"--{name}", type=int, default=default)
    a = parser.parse_args()
    transform = ImageTransform(299, 299, "squash", (0.0, 0.0, 0.0), (1.0, 1.0, 1.0), "bicubic")  # Inception V3's size
    photos = [as_from_a_camera(path, a.width, a.height) for path in list(find_images([a.folder]))[: a.images]]
    times: dict[int, list[float]] = {0: [], transform.enough: []}
    apart = []
    for _ in range(a.rounds):
        for photo in photos:
            seen = {}
            for enough, found in times.items():
                started = time.perf_counter()
                seen[enough] = transform(open_image(photo, enough=enough))
                found.append(1000 * (time.perf_counter() - started))
            apart.append(255 * float(np.abs(seen[0] - seen[transform.enough]).mean()))
    whole, part = (statistics.median(found) for found in times.values())
    print(f"decoded whole {whole:.0f} ms, as large as it has to be {part:.0f} ms: {whole / part:.1f}×")
    print(f"mean difference {statistics.mean(apart):.2f} of 255")
    sizes = {"width": a.width, "height": a.height, "bytes": statistics.median(map(len, photos))}
    print(
        json.dumps(
            {**sizes, "whole": whole, "part": part, "pillow": PIL.__version__, "python": platform.python_version()}
        )
    )


if __name__ == "__main__":
    main()
