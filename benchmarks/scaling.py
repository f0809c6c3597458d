"""Time and memory of each stage as the data grows: 1×, 4× and 16× the images.

python benchmarks/scaling.py [--images 200] [--rounds 3] [--plot scaling.png]

Each measurement is a process of its own on drawn scenes: encoding files into the cache with the small CNN (96 px), one
epoch of the attention decoder from the cache, beam search, or BLEU + ROUGE-L + CIDEr-D. Memory is the peak of the
process's own pages (not those of mapped files, which the system may reclaim) above that at the start of the stage.
Figures are medians of the rounds. Linear time is a constant time per image; flat memory does not grow.
"""

from __future__ import annotations

import argparse
import json
import statistics
import subprocess
import sys
import tempfile
import threading
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

STAGES = ("encode", "train", "search", "evaluate")
FACTORS = (1, 4, 16)


def own_pages() -> float:
    """This process's anonymous memory in MiB."""
    for line in Path("/proc/self/status").read_text().splitlines():
        if line.startswith("RssAnon:"):
            return int(line.split()[1]) / 1024
    raise SystemExit("needs Linux: /proc/self/status has no RssAnon here")


class Peak:
    """The largest `own_pages` inside the `with` block, above that at its start."""

    def __enter__(self) -> Peak:
        self.start = self.most = own_pages()
        self._done = threading.Event()
        self._thread = threading.Thread(target=self._watch)
        self._thread.start()
        return self

    def _watch(self) -> None:
        while not self._done.wait(0.01):
            self.most = max(self.most, own_pages())

    def __exit__(self, *_: object) -> None:
        self._done.set()
        self._thread.join()

    @property
    def grown(self) -> float:
        return self.most - self.start


def stage(name: str, folder: Path, images: int) -> dict[str, float]:
    """Runs one stage on the first `images` drawn scenes; returns seconds and MiB."""
    run = prepare(name, folder, images)
    with Peak() as peak:
        started = time.perf_counter()
        run()
        seconds = time.perf_counter() - started
    return {"seconds": seconds, "megabytes": peak.grown}


def prepare(name: str, folder: Path, images: int) -> Callable[[], Any]:
    import torch

    from showtell.bundle import build_encoder, build_model
    from showtell.data.annotations import read_annotations
    from showtell.data.augment import AugmentedView
    from showtell.data.dataset import epoch_order, feature_batches, make_groups
    from showtell.data.encoding import encode_into
    from showtell.data.features import FeatureCache
    from showtell.data.vocabulary import Vocabulary
    from showtell.decoding import SearchOptions
    from showtell.generate import find_captions
    from showtell.metrics import Protocol, evaluate
    from showtell.recipe import load_recipe
    from showtell.training.losses import caption_loss

    torch.manual_seed(0)
    torch.set_flush_denormal(True)
    recipe = load_recipe("scenes", ["encoder.image_size=96"])
    chosen = list(read_annotations(folder).images)[:images]
    references = [list(image.captions) for image in chosen]
    if name == "evaluate":
        protocol = Protocol("scenes", "all", images, "5", "PTB", "none", "")
        return lambda: evaluate([captions[0] for captions in references], references, protocol=protocol)
    vocabulary = Vocabulary.train([c for captions in references[:200] for c in captions], min_count=1)
    encoder = build_encoder(recipe)
    model = build_model(recipe, encoder, len(vocabulary))
    place = folder.parent / (f"cache-{images}-{time.time_ns()}" if name == "encode" else "cache")
    cache = FeatureCache(place, fingerprint="x", regions=encoder.regions, feature_size=encoder.feature_size)
    paths = [image.path for image in chosen]

    def encode() -> None:
        assert not encode_into(cache, paths, encode=encoder.encode, transform=encoder.transform)

    if name == "encode":
        return encode
    encode()
    rows = [row for path in paths if (row := cache.row(path)) is not None]

    def search() -> None:
        for start in range(0, len(rows), 100):
            find_captions(
                model.decoder, cache.rows(rows[start : start + 100]), vocabulary, SearchOptions(max_length=12)
            )

    def train() -> None:
        groups = make_groups(chosen, vocabulary, captions_per_image=5, max_tokens=30)
        optimizer = torch.optim.AdamW(model.decoder.parameters(), fused=True)
        order = epoch_order(groups, batch_images=32, seed=0, epoch=0)
        for batch in feature_batches(
            order,
            {AugmentedView(encoder.transform, 0): cache},
            vocabulary=vocabulary,
            swap_words=True,
            seed=0,
            epoch=0,
            max_tokens=30,
        ):
            caption_loss(model(batch.inputs, batch.tokens[..., :-1]), batch.tokens[..., 1:]).backward()
            optimizer.step()
            optimizer.zero_grad()

    model.decoder.eval() if name == "search" else model.train()
    return {"search": search, "train": train}[name]


def measure(folder: Path, images: int, rounds: int) -> dict[str, dict[int, dict[str, float]]]:
    found: dict[str, dict[int, dict[str, float]]] = {}
    for name in STAGES:
        for factor in FACTORS:
            runs = [
                json.loads(
                    subprocess.run(
                        [sys.executable, __file__, "--stage", name, "--folder", str(folder), "--images", str(images * factor)],
                        check=True, capture_output=True, text=True,
                    ).stdout
                )
                for _ in range(rounds)
            ]  # fmt: skip
            found.setdefault(name, {})[factor] = {
                key: statistics.median(run[key] for run in runs) for key in ("seconds", "megabytes")
            }
    return found


def draw(found: dict[str, dict[int, dict[str, float]]], images: int, path: Path) -> None:
    """Two charts on logarithmic axes: a line of slope one is linear time, a level line is flat memory."""
    try:
        import matplotlib.pyplot as plt
    except ImportError:
        raise SystemExit("--plot needs matplotlib: run  pip install matplotlib") from None
    figure, axes = plt.subplots(1, 2, figsize=(9, 3.6), layout="constrained")
    for axis, key, label in zip(axes, ("seconds", "megabytes"), ("seconds", "MB above the start"), strict=True):
        for name, by_factor in found.items():
            axis.loglog(
                [images * f for f in by_factor], [max(v[key], 0.1) for v in by_factor.values()], "o-", label=name
            )
        axis.set(xlabel="images", ylabel=label)
        axis.grid(alpha=0.3)
    axes[0].legend()
    figure.savefig(path, dpi=110)


def main() -> None:
    parser = argparse.ArgumentParser()
    parser.add_argument("--images", type=int, default=200)
    parser.add_argument("--rounds", type=int, default=3)
    parser.add_argument("--plot", type=Path)
    parser.add_argument("--stage", help=argparse.SUPPRESS)
    parser.add_argument("--folder", type=Path, help=argparse.SUPPRESS)
    a = parser.parse_args()
    if a.stage:
        print(json.dumps(stage(a.stage, a.folder, a.images)))
        return
    from showtell.data.scenes import draw_scenes

    with tempfile.TemporaryDirectory() as temporary:
        folder = draw_scenes(Path(temporary) / "scenes", images=a.images * max(FACTORS), size=96)
        found = measure(folder, a.images, a.rounds)
    growth = {}
    for name, by_factor in found.items():
        for factor, value in by_factor.items():
            each = 1000 * value["seconds"] / (a.images * factor)
            print(
                f"{name:9s} {a.images * factor:6d} images  {value['seconds']:8.2f} s  {each:7.2f} ms an image  {value['megabytes']:7.1f} MB"
            )
        first, last = by_factor[1], by_factor[max(FACTORS)]
        growth[name] = {
            "time_an_image": round(last["seconds"] / first["seconds"] / max(FACTORS), 2),
            "megabytes": [round(first["megabytes"], 1), round(last["megabytes"], 1)],
        }
    if a.plot:
        draw(found, a.images, a.plot)
    print(json.dumps({"growth_16x": growth, "stages": found, "images": a.images}))


if __name__ == "__main__":
    main()
