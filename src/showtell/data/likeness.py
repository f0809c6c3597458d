"""Which pictures show the same though their files differ: resized, squashed, or compressed again. No torch here."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np
from numpy.typing import NDArray
from PIL import Image

SIDE = 16
ENOUGH = 4 * SIDE  # pixels of a photo's shorter side that a thumbnail is averaged from
ALIKE = 0.98  # copies of 80x60 pixels reach it, no two different ones of Flickr8k's photos do: experiments/LOG.md
_FLAT = 4.0  # of 255, standard deviation: fainter pictures are told apart by noise
_TOGETHER = 256

Thumbnail = NDArray[np.uint8]  # (SIDE, SIDE, 3)
_Floats = NDArray[np.float32]


def thumbnail(image: Image.Image) -> Thumbnail | None:
    """The mean colours of a picture's 16 x 16 parts; None for one of nearly a single colour, which is like any such."""
    small = np.asarray(image.convert("RGB").resize((SIDE, SIDE), Image.Resampling.BOX))
    return small if small.std((0, 1)).max() >= _FLAT else None


def most_alike(pictures: Sequence[Thumbnail], others: Sequence[Thumbnail]) -> list[tuple[int, float]]:
    """For each of `pictures`, which of `others` is most like it, by index, and how much: the correlation of their
    thumbnails, -1 to 1. Pictures of another brightness, contrast, size or shape are like each other; parts of a picture,
    mirror images and grey copies are not."""
    if not others:
        return [(-1, -1.0) for _ in pictures]
    known = _normal(others)
    best: list[tuple[int, float]] = []
    for start in range(0, len(pictures), _TOGETHER):
        alike = _normal(pictures[start : start + _TOGETHER]) @ known.T
        at = alike.argmax(1)
        best += zip(at.tolist(), np.take_along_axis(alike, at[:, None], 1)[:, 0].tolist(), strict=True)
    return best


def _normal(pictures: Sequence[Thumbnail]) -> _Floats:
    """(N, 16·16·3), each colour of mean 0 and each picture of length 1."""
    seen = np.stack(pictures).astype(np.float32)
    seen -= seen.mean((1, 2), keepdims=True)
    seen /= np.sqrt(np.square(seen).sum((1, 2, 3), keepdims=True))
    return seen.reshape(len(seen), -1)
