"""Pictures seen in other ways, so that a captioner learns what stays the same: crops, mirror images, light."""

from __future__ import annotations

import hashlib
import random
import re
from dataclasses import dataclass
from typing import Literal

import numpy as np
from numpy.typing import NDArray
from PIL import Image, ImageEnhance

from showtell.data.mirror import mirror_caption, mirrorable
from showtell.images import ImageTransform

_VERSION = 1  # of what `vary` and `turn` do: views that were cached before a change are not those after it

Augmentation = Literal["none", "light", "strong", "aerial"]

# What a turned picture would make untrue, beside left and right. A picture whose captions hold one of them is not turned.
_DIRECTION = re.compile(
    r"\b(?:left|right|(?:top|bottom|upper|lower)(?:most)?|(?:up|down)(?:wards?)?|above|below|beneath|upright|upside"
    r"|vertical(?:ly)?|horizontal(?:ly)?|(?:north|south)?-?(?:north|south|east|west)(?:ern|wards?)?"
    r"|oben|unten|senkrecht|waagerecht|haut|bas|arriba|abajo"
    r"|letters?|numbers?|words?|text|written|signs?|says|saying|reads|reading|logo|banner)\b",
    re.IGNORECASE,
)


def turnable(caption: str) -> bool:
    """Whether the caption stays true of the picture turned by a quarter."""
    return _DIRECTION.search(caption) is None and mirror_caption(caption) == caption


def augment_sample(
    image: Image.Image,
    captions: tuple[str, ...],
    draw: random.Random,
    level: Augmentation,
    *,
    swap_words: bool = True,
    known: tuple[str, ...] = (),
) -> tuple[Image.Image, tuple[str, ...]]:
    """`vary`; aerial pictures turned by up to three quarters; half of the time mirrored, "left" and "right" swapped.

    An image is turned or mirrored only where each of its captions can be; without `swap_words` mirrored only where none changes.
    `known` are all of them, where `captions` are some.
    """
    known = known or captions
    image = vary(image, draw, strong=level == "strong")
    if level == "aerial" and all(map(turnable, known)):
        image = turn(image, draw.randrange(4))
    as_it_is = tuple(map(mirror_caption, known)) == known
    if draw.random() < 0.5 and all(map(mirrorable, known)) and (swap_words or as_it_is):
        return image.transpose(Image.Transpose.FLIP_LEFT_RIGHT), tuple(map(mirror_caption, captions))
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


def turn(image: Image.Image, quarters: int) -> Image.Image:
    """The picture turned counterclockwise by so many quarters, 0 to 3."""
    ways = (Image.Transpose.ROTATE_90, Image.Transpose.ROTATE_180, Image.Transpose.ROTATE_270)
    return image.transpose(ways[quarters - 1]) if quarters else image


@dataclass(frozen=True, slots=True)
class AugmentedView:
    """One way to see any image, always the same for the same picture: features of it can be cached.

    Number 0 is the image as `transform` sees it; the others are `vary`'s, each its own. Every second one is mirrored; of aerial
    pictures, eight one after the other are turned and mirrored in all ways.
    """

    transform: ImageTransform
    number: int
    level: Augmentation = "light"

    @property
    def mirrored(self) -> bool:
        """Whether it shows a mirror image."""
        return self.number % 2 == 1

    @property
    def quarters(self) -> int:
        """By how many quarters it turns the picture."""
        return self.number // 2 % 4 if self.level == "aerial" else 0

    @property
    def name(self) -> str:
        """As in "strong-3-v1": its cache's folder."""
        return f"{self.level}-{self.number}-v{_VERSION}"

    def __call__(self, image: Image.Image) -> NDArray[np.float32]:
        """An RGB image -> float32 (3,size,size), normalised."""
        if self.number:
            content = hashlib.blake2b(image.tobytes(), digest_size=8).hexdigest()
            image = vary(image, random.Random(f"view {self.number} {content}"), strong=self.level == "strong")
        image = turn(image, self.quarters)
        if self.mirrored:
            image = image.transpose(Image.Transpose.FLIP_LEFT_RIGHT)
        return self.transform(image)

    def captions(self, captions: tuple[str, ...]) -> tuple[str, ...] | None:
        """What is true of the image as it is seen here, given what is true of it; None where that cannot be said."""
        if self.quarters and not all(map(turnable, captions)):
            return None
        if not self.mirrored:
            return captions
        return tuple(map(mirror_caption, captions)) if all(map(mirrorable, captions)) else None

    def fingerprint(self, encoder: str) -> str:
        """Whose features these are: the encoder's own fingerprint for number 0."""
        return hashlib.sha256(f"{encoder} {self.name}".encode()).hexdigest() if self.number else encoder
