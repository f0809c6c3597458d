"""Matches predictions, whatever made them, with the images of a data set."""

from __future__ import annotations

import re
from collections import Counter
from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path, PureWindowsPath

from showtell.data.annotations import CaptionedImage


class Predictions:
    """Captions by the keys of a file of predictions, looked up by image.

    A key is the data set's id; the name of the image's file, with or without its suffix, or its COCO number, where no
    other image of the data set shares it; or a path, as `showtell caption` prints it. Where COCO's files count their
    images anew, it is the number in the file of the images that are scored.
    """

    def __init__(
        self, found: Mapping[str, str], images: Sequence[CaptionedImage], scored: Sequence[CaptionedImage] = ()
    ) -> None:
        """`images` are those of all splits, so that no image gets the caption of another one; `scored` those of one."""
        self._found = found
        self._having, self._counted = _having(images), _counted(found, images, scored)
        self._numbered = _only_ones(
            (number, caption) for key, caption in found.items() if (number := _coco_number(key))
        )
        self._paths = _Paths(found, images)

    def of(self, image: CaptionedImage) -> str | None:
        """An image's caption; None where there is none, or where more than one fits."""
        if image.image_id in self._found:
            return self._found[image.image_id]
        for name in _other_names(image):
            if name in self._found and self._having[name] == 1:
                return self._found[name]
        if image.image_id in self._counted:
            return self._found.get(self._counted[image.image_id])
        number = _coco_number(image.image_id)  # COCO's 2014 and 2017 files have different names but the same numbers
        known = image.image_id if number == "" or self._having[number] > 1 else number
        return self._numbered.get(known) or self._paths.of(image)


class _Paths:
    """Predictions whose keys are paths.

    A prediction belongs to the image whose path ends like its own or, if it was made elsewhere, to the only image with
    its file name.
    """

    def __init__(self, found: Mapping[str, str], images: Sequence[CaptionedImage]) -> None:
        self._by_name: dict[str, list[tuple[tuple[str, ...], str]]] = {}
        for key, caption in found.items():
            parts = PureWindowsPath(key).parts  # splits at both separators
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


def _having(images: Sequence[CaptionedImage]) -> Counter[str]:
    """How many images each name may mean."""
    return Counter(name for image in images for name in {image.image_id, *_other_names(image)})


def _counted(
    found: Mapping[str, str], images: Sequence[CaptionedImage], scored: Sequence[CaptionedImage]
) -> dict[str, str]:
    """Scored images and the numbers that end their ids ("val/7" is 7), if each key of `found` is the number of one.

    Otherwise they may be those of another split, which has the same numbers. A number that is an image's id is that one.
    """
    having, ids = _having(scored), {image.image_id for image in images}
    numbers = {image.image_id: image.image_id.rpartition("/")[2] for image in scored}
    only = {
        image: number
        for image, number in numbers.items()
        if number.isdecimal() and having[number] == 1 and (number == image or number not in ids)
    }
    return only if found.keys() <= {*only.values()} else {}


def _other_names(image: CaptionedImage) -> Iterator[str]:
    """What predictions may call an image instead of its id, the surest first."""
    for name in (image.path.name, image.path.stem, Path(image.image_id).stem, _coco_number(image.image_id)):
        if name and name != image.image_id:
            yield name


def _coco_number(name: str) -> str:
    """COCO_val2014_000000391895.jpg or 000000391895.jpg -> 391895; empty for other names."""
    match = re.fullmatch(r"(?:COCO_\w+_)?(\d{12})", Path(name).stem)
    return str(int(match[1])) if match else ""


def _only_ones(pairs: Iterator[tuple[str, str]]) -> dict[str, str]:
    """The pairs whose first part occurs once."""
    listed = list(pairs)
    times = Counter(first for first, _ in listed)
    return {first: second for first, second in listed if times[first] == 1}
