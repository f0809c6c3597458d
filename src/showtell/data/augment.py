"""Pictures seen in other ways, so that a captioner learns what stays the same: crops, mirror images, light."""

from __future__ import annotations

import hashlib
import random
from dataclasses import dataclass
from typing import Literal

import numpy as np
from numpy.typing import NDArray
from PIL import Image, ImageEnhance

from showtell.data.mirror import mirror_caption, mirrorable
from showtell.images import ImageTransform

Augmentation = Literal["none", "light", "strong"]


def augment_sample(
    image: Image.Image,
    captions: tuple[str, ...],
    draw: random.Random,
    *,
    mirror: bool = True,
    strong: bool = False,
) -> tuple[Image.Image, tuple[str, ...]]:
    """`vary`, and with `mirror` half of the time mirrored, "left" and "right" swapped.

    An image is mirrored only where each of its captions can be.
    """
    image = vary(image, draw, strong=strong)
    if mirror and draw.random() < 0.5 and all(map(mirrorable, captions)):
        image = image.transpose(Image.Transpose.FLIP_LEFT_RIGHT)
        captions = tuple(map(mirror_caption, captions))
    return image, captions


def vary(image: Image.Image, draw: random.Random, *, strong: bool = False) -> Image.Image:
    """A random crop of at least 80 % of each side.

    `strong`: of at least 60 %, and brightness and contrast changed by up to 30 %; colours stay, as captions name them.
    """
    width, height = image.size
    least = 0.6 if strong else 0.8
    w, h = (max(1, round(side * draw.uniform(least, 1.0))) for side in (width, height))
    left, top = draw.randint(0, width - w), draw.randint(0, height - h)
    image = image.crop((left, top, left + w, top + h))
    if strong:
        for change in (ImageEnhance.Brightness, ImageEnhance.Contrast):
            image = change(image).enhance(draw.uniform(0.7, 1.3))
    return image


def is_mirrored(number: int) -> bool:
    """Whether the `AugmentedView` of that number is a mirror image: every second one."""
    return number % 2 == 1


@dataclass(frozen=True, slots=True)
class AugmentedView:
    """One way to see any image, always the same for the same picture: features of it can be cached.

    Number 0 is the image as `transform` sees it; the others are `vary`'s, each its own.
    """

    transform: ImageTransform
    number: int
    strong: bool = False

    def __call__(self, image: Image.Image) -> NDArray[np.float32]:
        """An RGB image -> float32 (3,size,size), normalised."""
        if self.number:
            content = hashlib.blake2b(image.tobytes(), digest_size=8).hexdigest()
            image = vary(image, random.Random(f"view {self.number} {content}"), strong=self.strong)
        if is_mirrored(self.number):
            image = image.transpose(Image.Transpose.FLIP_LEFT_RIGHT)
        return self.transform(image)

    @property
    def name(self) -> str:
        """As in "strong-3"."""
        return f"{'strong' if self.strong else 'light'}-{self.number}"

    def fingerprint(self, encoder: str) -> str:
        """Whose features these are: the encoder's own fingerprint for number 0."""
        return hashlib.sha256(f"{encoder} {self.name}".encode()).hexdigest() if self.number else encoder
