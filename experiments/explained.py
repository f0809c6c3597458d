"""Which map shows what a word was made from: `explain`'s, attention, or chance?

    python experiments/explained.py BUNDLE DATA [PHOTOS]

For each word of the captioner's own captions of val photos, the eight cells (of 64) that a map ranks highest are covered
together with the photo's mean colour. Printed: the nats that words lose by it, on average, for words that the whole photo
gives a nat or more and for the others; and how well attention ranks cells as `explain` does (Spearman). Needs a captioner
with attention over a grid of 8×8. Five seconds a photo on two cores; LOG.md has the figures (1.81, 1.22 and 0.29 nats).
"""

from __future__ import annotations

import random
import sys
from collections.abc import Sequence
from pathlib import Path

import numpy as np
import torch
from numpy.typing import NDArray

from showtell import Captioner, explain, read_annotations
from showtell.explaining import _log_probs, _pixels
from showtell.images import open_image
from showtell.inference import BundleEngine

TOP, CELLS = 8, 8


def cover(pixels: torch.Tensor, cells: Sequence[int]) -> torch.Tensor:
    """The image (3,S,S) with some of its cells in its mean colour."""
    covered, side = pixels.clone(), pixels.shape[-1]
    for cell in cells:
        rows, columns = (_pixels(slice(at, at + 1), side) for at in divmod(cell, CELLS))
        covered[:, rows, columns] = pixels.mean((1, 2), keepdim=True)
    return covered


def ranks(values: NDArray[np.float32]) -> NDArray[np.intp]:
    return values.argsort().argsort()


def main(bundle: str, data: str, photos: int = 40) -> None:
    engine, draw = BundleEngine.load(bundle, "cpu"), random.Random(0)
    captioner = Captioner(engine)
    images = draw.sample(list(read_annotations(Path(data)).split("val")), photos)
    lost: dict[tuple[bool, str], list[float]] = {}
    agreement: dict[bool, list[float]] = {}
    for image in images:
        picture = open_image(image.path, enough=captioner.transform.enough)
        found = explain(captioner, picture)
        tokens = engine.bundle.vocabulary.encode(found.text)
        said = engine.bundle.vocabulary.tokens(tokens[1:])
        pixels = torch.from_numpy(captioner.transform(picture))
        ids = torch.tensor(tokens)[None, None, :-1]
        with torch.inference_mode():
            looked = engine.bundle.decoder(engine.features(pixels[None]), ids).attention[0, 0, :, : CELLS**2]
        chosen: list[tuple[int, bool, str, list[int]]] = []
        for place in range(len(said)):
            word, attention = found.words[place], looked[place].numpy()
            seen = word.log_prob - word.unseen >= 1
            for name, values in (("explain", word.cells.flatten()), ("attention", attention)):
                chosen.append((place, seen, name, np.argsort(-values)[:TOP].tolist()))
            chosen.append((place, seen, "chance", draw.sample(range(CELLS**2), TOP)))
            rho = np.corrcoef(ranks(word.cells.flatten()), ranks(attention))[0, 1]
            agreement.setdefault(seen, []).append(float(rho))
        variants = torch.stack([pixels, *(cover(pixels, cells) for *_, cells in chosen)])
        with torch.inference_mode():
            before, *after = torch.cat([_log_probs(engine, part, tokens) for part in torch.split(variants, 16)])
        for (place, seen, name, _), changed in zip(chosen, after, strict=True):
            lost.setdefault((seen, name), []).append(float(before[place] - changed[place]))
    for seen in (True, False):
        print(f"words that the photo gives {'a nat or more' if seen else 'less'}: {len(agreement[seen])}")
        print(f"    attention ranks cells as explain does: {np.mean(agreement[seen]):.2f}")
        for name in ("explain", "attention", "chance"):
            print(f"    {TOP} cells covered, by {name}: {np.mean(lost[seen, name]):.2f} nats")


if __name__ == "__main__":
    main(sys.argv[1], sys.argv[2], *map(int, sys.argv[3:4]))
