"""Which map shows what a word was made from: `explain`'s, attention, or chance?

    python experiments/explained.py BUNDLE DATA [PHOTOS]

For each word of the captioner's own captions of val photos, the eight cells (of 64) that a map ranks highest are covered
together with the photo's mean colour. Printed: the nats that words lose by it, on average, for words that the whole photo
gives a nat or more and for the others; and how well attention ranks cells as `explain` does (Spearman). Needs a captioner
with attention over a grid of 8×8.
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
from showtell.images import open_image

TOP, CELLS = 8, 8


@torch.inference_mode()
def loss(
    captioner: Captioner, pixels: torch.Tensor, tokens: Sequence[int], place: int, covered: Sequence[int]
) -> float:
    """The nats that token number `place` of `tokens` loses where the `covered` cells of the image (3,S,S) are."""
    side = pixels.shape[-1]
    changed = pixels.clone()
    for cell in covered:
        rows, columns = (slice(at * side // CELLS, (at + 1) * side // CELLS) for at in divmod(cell, CELLS))
        changed[:, rows, columns] = pixels.mean((1, 2), keepdim=True)
    features = captioner.features(torch.stack((pixels, changed)))
    ids = torch.tensor(tokens).expand(2, 1, -1)
    logits = captioner.bundle.decoder(features, ids[..., :-1]).logits[:, 0, place].float()
    before, after = logits.log_softmax(-1)[:, tokens[place + 1]].tolist()
    return float(before - after)


def ranks(values: NDArray[np.float32]) -> NDArray[np.intp]:
    return values.argsort().argsort()


def main(bundle: str, data: str, photos: int = 40) -> None:
    captioner, draw = Captioner.load(bundle), random.Random(0)
    images = draw.sample(list(read_annotations(Path(data)).split("val")), photos)
    lost: dict[tuple[bool, str], list[float]] = {}
    agreement: dict[bool, list[float]] = {}
    for image in images:
        picture = open_image(image.path, enough=captioner.transform.enough)
        found = explain(captioner, picture)
        tokens = captioner.bundle.vocabulary.encode(found.text)
        said = captioner.bundle.vocabulary.tokens(tokens[1:])
        pixels = torch.from_numpy(captioner.transform(picture))
        ids = torch.tensor(tokens)[None, None, :-1]
        with torch.inference_mode():
            looked = captioner.bundle.decoder(captioner.features(pixels[None]), ids).attention[0, 0, :, : CELLS**2]
        for place in range(len(said)):
            word, attention = found.words[place], looked[place].numpy()
            seen = word.log_prob - word.unseen >= 1
            maps = {"explain": word.cells.flatten(), "attention": attention}
            chosen = {name: np.argsort(-values)[:TOP].tolist() for name, values in maps.items()}
            chosen["chance"] = draw.sample(range(CELLS**2), TOP)
            for name, cells in chosen.items():
                lost.setdefault((seen, name), []).append(loss(captioner, pixels, tokens, place, cells))
            rho = np.corrcoef(ranks(maps["explain"]), ranks(attention))[0, 1]
            agreement.setdefault(seen, []).append(float(rho))
    for seen in (True, False):
        print(f"words that the photo gives {'a nat or more' if seen else 'less'}: {len(agreement[seen])}")
        print(f"    attention ranks cells as explain does: {np.mean(agreement[seen]):.2f}")
        for name in ("explain", "attention", "chance"):
            print(f"    {TOP} cells covered, by {name}: {np.mean(lost[seen, name]):.2f} nats")


if __name__ == "__main__":
    main(sys.argv[1], sys.argv[2], *map(int, sys.argv[3:4]))
