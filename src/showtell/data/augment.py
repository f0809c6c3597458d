"""Augmentation of images and their captions: crops, mirroring, quarter turns, brightness and contrast."""

from __future__ import annotations

import hashlib
import random
import re
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray
from PIL import Image, ImageEnhance

from showtell.config import Augmentation
from showtell.data.mirror import mirror_caption, mirrorable
from showtell.images import ImageTransform

_VERSION = 1  # of `vary` and `turn`: raised on a change, so that views cached before it are not used

# Words that turning makes untrue, besides those that mirroring does.
_DIRECTION = re.compile(
    r"\b(?:(?:top|bottom|upper|lower)(?:most)?|(?:up|down)(?:wards?)?|above|below|beneath|upright|upside"
    r"|vertical(?:ly)?|horizontal(?:ly)?|(?:north|south)(?:ern|wards?)?|oben|unten|senkrecht|waagerecht|haut|bas|arriba|abajo)\b",
    re.IGNORECASE,
)


def turnable(caption: str) -> bool:
    """Whether the caption stays true when the picture is turned by a quarter."""
    return _DIRECTION.search(caption) is None and may_mirror((caption,), swap_words=False)


def may_mirror(captions: tuple[str, ...], *, swap_words: bool) -> bool:
    """Whether the captions can be made true of the mirrored picture; without `swap_words`, whether they already are."""
    return all(map(mirrorable, captions)) and (swap_words or tuple(map(mirror_caption, captions)) == captions)


def augment_sample(
    image: Image.Image,
    captions: tuple[str, ...],
    draw: random.Random,
    level: Augmentation,
    *,
    swap_words: bool = True,
    known: tuple[str, ...] = (),
) -> tuple[Image.Image, tuple[str, ...]]:
    """Varies the image, turns it by up to three quarters if `level` is "aerial", and mirrors it half of the time.

    Mirroring swaps "left" and "right". An image is turned or mirrored only if all its captions allow it; without
    `swap_words`, mirrored only if none changes. `known` are all captions of the image if `captions` are only some.
    """
    known = known or captions
    image = vary(image, draw, strong=level == "strong")
    if level == "aerial" and all(map(turnable, known)):
        image = turn(image, draw.randrange(4))
    if draw.random() < 0.5 and may_mirror(known, swap_words=swap_words):
        return image.transpose(Image.Transpose.FLIP_LEFT_RIGHT), tuple(map(mirror_caption, captions))
    return image, captions


def vary(image: Image.Image, draw: random.Random, *, strong: bool = False) -> Image.Image:
    """A random crop of at least 80 % of each side.

    `strong`: at least 60 %, with brightness and contrast changed by up to 30 %; colours stay, as captions name them.
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


def turn(image: Image.Image, quarters: int) -> Image.Image:
    """The picture turned counterclockwise by 0 to 3 `quarters`."""
    ways = (Image.Transpose.ROTATE_90, Image.Transpose.ROTATE_180, Image.Transpose.ROTATE_270)
    return image.transpose(ways[quarters - 1]) if quarters else image


@dataclass(frozen=True, slots=True)
class AugmentedView:
    """One way to see any image, always the same for the same picture, so that its features can be cached.

    Number 0 is the image as `transform` sees it; each other number varies it in its own way. Every second one is
    mirrored; with level "aerial", eight in a row cover all turns and mirrorings.
    """

    transform: ImageTransform
    number: int
    level: Augmentation = "light"
    decoded_for: int = 0  # another transform's `enough`, whose crops are wanted; 0: its own

    @property
    def enough(self) -> int:
        """The transform's: what a crop leaves of the picture is still larger than what it is resized to.

        For crops the pixels decide, so that views of several transforms crop alike only if they decode alike.
        """
        return (self.decoded_for if self.number else 0) or self.transform.enough

    @property
    def mirrored(self) -> bool:
        """Whether it mirrors the picture."""
        return self.number % 2 == 1

    @property
    def quarters(self) -> int:
        """How many quarters it turns the picture by."""
        return self.number // 2 % 4 if self.level == "aerial" else 0

    @property
    def name(self) -> str:
        """The name of its cache's folder, as in "strong-3-v1"."""
        otherwise = f"-{self.enough}" if self.enough != self.transform.enough else ""
        return f"{self.level}-{self.number}-v{_VERSION}{otherwise}"

    def __call__(self, image: Image.Image) -> NDArray[np.float32]:
        """An RGB image -> float32 (3,size,size), normalised."""
        if self.number:
            content = hashlib.blake2b(image.tobytes(), digest_size=8).hexdigest()
            image = vary(image, random.Random(f"view {self.number} {content}"), strong=self.level == "strong")
        image = turn(image, self.quarters)
        if self.mirrored:
            image = image.transpose(Image.Transpose.FLIP_LEFT_RIGHT)
        return self.transform(image)

    def suits(self, captions: tuple[str, ...], *, swap_words: bool = True) -> bool:
        """Whether an image's captions can be made true of this view; without `swap_words`, whether they already are."""
        if self.quarters and not all(map(turnable, captions)):
            return False
        return not self.mirrored or may_mirror(captions, swap_words=swap_words)

    def captions(self, captions: tuple[str, ...]) -> tuple[str, ...]:
        """An image's captions made true of this view, which must suit them."""
        return tuple(map(mirror_caption, captions)) if self.mirrored else captions

    def fingerprint(self, encoder: str) -> str:
        """The fingerprint of the view's features: the encoder's own for number 0."""
        return hashlib.sha256(f"{encoder} {self.name}".encode()).hexdigest() if self.number else encoder
