"""How fast a feature cache is written, against a plain loop over a DataLoader and against the encoder alone.

python benchmarks/encoding.py FOLDER WEIGHTS [--layer Mixed_7a] [--images 256] [--rounds 5] [--workers 2]

"plain" is the obvious loop: timm's model cut at the same layer, single precision, timm's own transform over Pillow, a
DataLoader with workers, features kept as they are. "encoder alone" runs on pixels already in memory. The three take
turns; ratios are taken within a round, and their medians reported.
"""

from __future__ import annotations

import argparse
import json
import platform
import statistics
import tempfile
import time
from collections.abc import Callable
from pathlib import Path

import numpy as np
import timm
import torch
from PIL import Image
from timm.data import create_transform, resolve_model_data_config
from torch import Tensor, nn
from torch.utils.data import DataLoader, Dataset
from torchvision.models.feature_extraction import create_feature_extractor

from showtell.data.encoding import encode_into
from showtell.data.features import FeatureCache
from showtell.images import find_images, open_image
from showtell.model.encoder import Encoder

BATCH = 32


class Photos(Dataset[Tensor]):
    def __init__(self, paths: list[Path], model: nn.Module) -> None:
        self.paths, self.transform = paths, create_transform(**resolve_model_data_config(model))

    def __len__(self) -> int:
        return len(self.paths)

    def __getitem__(self, index: int) -> Tensor:
        with Image.open(self.paths[index]) as image:
            tensor: Tensor = self.transform(image.convert("RGB"))
        return tensor


def plain(loader: DataLoader[Tensor], network: nn.Module) -> int:
    with torch.no_grad():
        return sum(len(network(images)["features"].flatten(2).transpose(1, 2).numpy()) for images in loader)


def into_cache(paths: list[Path], encoder: Encoder) -> int:
    with tempfile.TemporaryDirectory() as temporary:
        cache = FeatureCache(
            Path(temporary) / "cache", fingerprint="x", regions=encoder.regions, feature_size=encoder.feature_size
        )
        assert not encode_into(cache, paths, encode=encoder.encode, transform=encoder.transform)
        return len(cache)


def alone(pixels: Tensor, encoder: Encoder, images: int) -> int:
    for _ in range(images // BATCH):
        encoder.encode(pixels)
    return images // BATCH * BATCH


def main() -> None:
    parser = argparse.ArgumentParser()
    parser.add_argument("folder")
    parser.add_argument("weights", type=Path)
    parser.add_argument("--name", default="inception_v3.tf_in1k")
    parser.add_argument("--layer", default="Mixed_7a")
    for option, default in {"images": 256, "rounds": 5, "workers": 2}.items():
        parser.add_argument(f"--{option}", type=int, default=default)
    a = parser.parse_args()
    paths = list(find_images([a.folder]))[: a.images]
    encoder = Encoder(name=a.name, layer=a.layer, crop="squash", weights=a.weights)
    pixels = torch.from_numpy(np.stack([encoder.transform(open_image(path)) for path in paths[:BATCH]]))
    model = timm.create_model(a.name, pretrained=False, num_classes=0, global_pool="").eval()
    loader = DataLoader(Photos(paths, model), batch_size=BATCH, num_workers=a.workers)
    network = create_feature_extractor(model, {a.layer: "features"}).eval()
    contestants: dict[str, Callable[[], int]] = {
        "plain loop": lambda: plain(loader, network),
        "files to cache": lambda: into_cache(paths, encoder),
        "encoder alone": lambda: alone(pixels, encoder, len(paths)),
    }
    rates: dict[str, list[float]] = {name: [] for name in contestants}
    encoder.encode(pixels)
    for _ in range(a.rounds):
        for name, run in contestants.items():
            started = time.perf_counter()
            images = run()
            rates[name].append(images / (time.perf_counter() - started))
    for name, values in rates.items():
        print(f"{name:16s} {statistics.median(values):7.1f} images/s   ({min(values):.1f} to {max(values):.1f})")

    def ratio(slow: str) -> float:
        pairs = zip(rates["files to cache"], rates[slow], strict=True)
        return round(statistics.median(fast / other for fast, other in pairs), 3)

    ratios = {"to the plain loop": ratio("plain loop"), "to the encoder alone": ratio("encoder alone")}
    for name, value in ratios.items():
        print(f"files to cache {name}: {value}×")
    medians = {name: round(statistics.median(values), 2) for name, values in rates.items()}
    versions = {"torch": torch.__version__, "timm": timm.__version__, "python": platform.python_version()}
    sizes = {"images": len(paths), "layer": a.layer, "side": encoder.transform.size, "threads": torch.get_num_threads()}
    print(json.dumps({"images_per_second": medians, "ratios": ratios, "sizes": sizes, "versions": versions}))


if __name__ == "__main__":
    main()
