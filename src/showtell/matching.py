"""Whose captions are these? Predictions made anywhere, and the images of a data set."""

from __future__ import annotations

import re
from collections import Counter
from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path, PureWindowsPath

from showtell.data.annotations import CaptionedImage


class Predictions:
    """Captions by the keys that a file has for them, asked for by image.

    A key is the data set's id; or the name of the image's file, that without its suffix or its number in COCO, where no other
    image of the data set has the same; or a path, as `showtell caption` prints it.
    """

    def __init__(self, found: Mapping[str, str], images: Sequence[CaptionedImage]) -> None:
        """`images` are all of the data set, those of other splits too: none gets the caption of another one."""
        self._found = found
        self._having = Counter(name for image in images for name in {image.image_id, *_other_names(image)})
        self._numbered = _only_ones(
            (number, caption) for key, caption in found.items() if (number := _coco_number(key))
        )
        self._paths = _Paths(found, images)

    def of(self, image: CaptionedImage) -> str | None:
        """An image's caption; None where there is none, or which it is cannot be told."""
        if image.image_id in self._found:
            return self._found[image.image_id]
        for name in _other_names(image):
            if name in self._found and self._having[name] == 1:
                return self._found[name]
        number = _coco_number(image.image_id)  # files of 2014 and of 2017 have other names and the same numbers
        known = image.image_id if number == "" or self._having[number] > 1 else number
        return self._numbered.get(known) or self._paths.of(image)


class _Paths:
    """Predictions whose keys are paths: each is of the image whose path ends so, or, made elsewhere, of the only one with the
    file's name."""

    def __init__(self, found: Mapping[str, str], images: Sequence[CaptionedImage]) -> None:
        self._by_name: dict[str, list[tuple[tuple[str, ...], str]]] = {}
        for key, caption in found.items():
            parts = PureWindowsPath(key).parts  # it parts at both separators
            if len(parts) > 1:
                self._by_name.setdefault(parts[-1], []).append((parts, caption))
        self._images = Counter(image.path.name for image in images)

    def of(self, image: CaptionedImage) -> str | None:
        named = self._by_name.get(image.path.name, [])
        own = PureWindowsPath(image.path).parts
        ends = [caption for parts, caption in named if own[-len(parts) :] == parts or parts[-len(own) :] == own]
        if len(ends) == 1:
            return ends[0]
        return named[0][1] if len(named) == 1 == self._images[image.path.name] else None


def _other_names(image: CaptionedImage) -> Iterator[str]:
    """What predictions may call an image that is not its id, the surest first."""
    for name in (image.path.name, image.path.stem, Path(image.image_id).stem, _coco_number(image.image_id)):
        if name and name != image.image_id:
            yield name


def _coco_number(name: str) -> str:
    """COCO_val2014_000000391895.jpg or 000000391895.jpg -> 391895; empty for other names."""
    match = re.fullmatch(r"(?:COCO_\w+_)?(\d{12})", Path(name).stem)
    return str(int(match[1])) if match else ""


def _only_ones(pairs: Iterator[tuple[str, str]]) -> dict[str, str]:
    """Of pairs, those whose first part occurs once."""
    listed = list(pairs)
    times = Counter(first for first, _ in listed)
    return {first: second for first, second in listed if times[first] == 1}
