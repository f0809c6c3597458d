"""What a phase that trains the CNN costs with the maps below its trained layers cached, against reading the images.

python benchmarks/finetuning.py FOLDER WEIGHTS [--layer Mixed_7a] [--encoder-from Mixed_6e] [--batch 16] [--rounds 5]

A step goes from files, or from rows of the cache, to gradients: the encoder from the named module on, an attention
decoder of the recipe's size, five captions of 14 tokens per image, bfloat16 where it is native. Then the CNN's features
alone are computed, from files and from rows. The contestants take turns; gains are ratios of the rounds' medians.
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
import torch
from torch import Tensor

from showtell.bundle import build_model
from showtell.data.encoding import encode_into
from showtell.data.features import FeatureCache
from showtell.images import find_images, open_image
from showtell.model.encoder import Encoder, fast_bfloat16
from showtell.recipe import load_recipe
from showtell.training.losses import caption_loss

WORDS, CAPTIONS, STEPS = 2500, 5, 14


def main() -> None:
    parser = argparse.ArgumentParser()
    parser.add_argument("folder")
    parser.add_argument("weights", type=Path)
    parser.add_argument("--name", default="inception_v3.tf_in1k")
    parser.add_argument("--layer", default="Mixed_7a")
    parser.add_argument("--encoder-from", default="Mixed_6e")
    for option, default in {"batch": 16, "rounds": 5}.items():
        parser.add_argument(f"--{option}", type=int, default=default)
    a = parser.parse_args()
    torch.manual_seed(0)
    torch.set_flush_denormal(True)
    paths = list(find_images([a.folder]))[: a.batch]
    encoder = Encoder(name=a.name, layer=a.layer, crop="squash", weights=a.weights)
    model = build_model(load_recipe("flickr8k-attention"), encoder, WORDS)
    stem = encoder.part_before(a.encoder_from)
    tokens = torch.randint(4, WORDS, (len(paths), CAPTIONS, STEPS))

    def images() -> Tensor:
        return torch.from_numpy(np.stack([encoder.transform(open_image(path)) for path in paths]))

    def step(inputs: Tensor) -> None:
        with torch.autocast("cpu", torch.bfloat16, enabled=fast_bfloat16("cpu")):
            output = model(inputs, tokens[..., :-1])
        caption_loss(output, tokens[..., 1:], label_smoothing=0.1, doubly_stochastic=0.5).backward()
        model.zero_grad(set_to_none=True)

    with tempfile.TemporaryDirectory() as temporary:
        cache = FeatureCache(
            Path(temporary) / "cache", fingerprint="x", regions=stem.regions, feature_size=stem.feature_size
        )
        assert not encode_into(cache, paths, encode=encoder.encode_below, transform=encoder.transform)
        rows = [row for path in paths if (row := cache.row(path)) is not None]
        assert len(rows) == len(paths)

        def maps() -> Tensor:
            return stem.unpack(cache.rows(rows))

        assert torch.allclose(encoder.encode(maps()), encoder.encode(images()), atol=1e-2)
        contestants: dict[str, Callable[[], object]] = {
            "step, from files": lambda: step(images()),
            "step, from rows": lambda: step(maps()),
            "features, from files": lambda: encoder.encode(images()),
            "features, from rows": lambda: encoder.encode(maps()),
        }
        times: dict[str, list[float]] = {name: [] for name in contestants}
        for call in contestants.values():
            call()
        for _ in range(a.rounds):
            for name, call in contestants.items():
                start = time.perf_counter()
                call()
                times[name].append((time.perf_counter() - start) / len(paths))
    each = {name: statistics.median(values) for name, values in times.items()}
    for name, seconds in each.items():
        print(f"{name:22} {1000 * seconds:7.1f} ms an image")
    gains = {what: each[f"{what}, from files"] / each[f"{what}, from rows"] for what in ("step", "features")}
    print(", ".join(f"{what} {gain:.2f}×" for what, gain in gains.items()))
    sizes = {"batch": len(paths), "encoder_from": a.encoder_from, "threads": torch.get_num_threads()}
    print(
        json.dumps(
            {"seconds": each, "gains": gains, **sizes, "torch": torch.__version__, "machine": platform.machine()}
        )
    )


if __name__ == "__main__":
    main()
