"""Reads any known format into `CaptionedImage`s; later code knows no formats. Nothing here imports torch."""

from __future__ import annotations

import os
from collections import Counter
from collections.abc import Iterator
from dataclasses import dataclass, replace
from pathlib import Path

from showtell.data.copies import first_equals
from showtell.data.draft import Draft, Problem, has_a_word
from showtell.data.formats import read_draft
from showtell.data.markers import find_markers, told, without_markers
from showtell.data.splits import SPLIT_NAMES, SPLITS, Split, complete, split_called
from showtell.errors import DataError


@dataclass(frozen=True, slots=True)
class CaptionedImage:
    """One image and its captions by people. `split` is None where the data's own lists leave it out."""

    image_id: str
    path: Path
    captions: tuple[str, ...]
    split: Split | None


@dataclass(frozen=True)
class Annotations:
    """A data set as it was read."""

    format: str
    source: Path  # the folder or the annotation file that was given
    root: Path  # the folder that paths in problems are relative to
    images: tuple[CaptionedImage, ...]
    problems: tuple[Problem, ...]
    drawn: str = ""  # how it was split; empty for its own splits and for the default
    notes: tuple[str, ...] = ()  # on how it was read, a sentence each
    given: bool = True  # whether the data has its own splits, even if val was taken from train
    moved: int = 0  # copies moved to the split of the first of them

    @property
    def dataset(self) -> str:
        """The data set as a protocol names it: its folder, which annotation file if that was given, and how it was split
        unless that is by its own or as usual."""
        name = self.root.resolve().name + (f"/{self.source.name}" if self.source != self.root else "")
        return f"{name} ({self.drawn})" if self.drawn else name

    def split(self, name: str) -> tuple[CaptionedImage, ...]:
        """The images of a split, called as `split_called` knows it; `DataError` naming the other splits if it is empty."""
        wanted = split_called(name)
        chosen = tuple(image for image in self.images if image.split == wanted)
        if not chosen:
            sizes = ", ".join(f"{s} ({n})" for s in SPLITS if (n := sum(i.split == s for i in self.images)))
            raise DataError(f"{self.source} has no image in the split '{name}'; it has {sizes or 'no splits'}")
        return chosen

    def in_two_splits(self) -> Iterator[tuple[CaptionedImage, CaptionedImage]]:
        """Pairs of an image and the first copy of its file, byte for byte, where the two are in different splits."""
        listed = [image for image in self.images if image.split is not None]
        for image, first in zip(listed, first_equals([image.path for image in listed]), strict=True):
            if listed[first].split != image.split:
                yield image, listed[first]

    def summary(self) -> Iterator[str]:
        """What was found, in a sentence or two."""
        counted = ", ".join(f"{sum(image.split == name for image in self.images)} {name}" for name in SPLITS)
        yield f"{self.source}: {self.format}, {len(self.images)} images with captions ({counted})"
        yield from self.notes
        if self.problems:
            yield f"{len(self.problems)} problems in the data; see  showtell data check {self.source}"


def read_annotations(
    path: Path, *, val: float = 0.1, test: float = 0.1, seed: int = 0, require_images: bool = True
) -> Annotations:
    """Reads the data set in a folder, or the one that an annotation file describes; the format is detected.

    Images whose file is missing are problems and are left out, unless `require_images` is False. Data without splits
    are split by image, seeded, in the proportions `val` and `test`; if there is a train split but no val split, the
    share `val` of train becomes val. In both cases, files that are equal, byte for byte, share the split of the first
    by name, unless that would leave a split empty; otherwise missing files change no image's split. Markers around
    captions ("startseq … endseq") are removed where at least half of the captions begin, or end, with one.
    Raises `DataError` where nothing can be read, and where the data name splits of which none is known.
    """
    source = Path(path)  # callers from Python may give a text
    draft = read_draft(source)
    if draft.unknown_splits and not draft.has_splits:
        raise DataError(_unknown(draft, source))
    marked = _remove_markers(draft)
    images, missing = _images(draft)
    drawn = complete(
        {image.image_id: image.path for image in images}, draft.splits if draft.has_splits else {},
        val=val, test=test, seed=seed,
    )  # fmt: skip
    images = [replace(image, split=drawn.splits[image.image_id]) for image in images]
    if require_images:
        images = [image for image in images if image.image_id not in missing]
    if not images:
        raise DataError(_nothing(draft, source))
    return Annotations(
        draft.format, source, draft.root, tuple(images), tuple(draft.problems), drawn.how, (*marked, *drawn.notes), draft.has_splits, drawn.moved
    )  # fmt: skip


def _remove_markers(draft: Draft) -> list[str]:
    """Removes the markers that `find_markers` finds, and captions of markers alone; returns a note naming them."""
    markers = find_markers(caption for captions in draft.captions.values() for caption in captions)
    if not markers:
        return []
    for image, captions in list(draft.captions.items()):
        kept = [caption for caption in map(without_markers, captions) if has_a_word(caption)]
        if len(kept) < len(captions):
            file, line = draft.places[image]
            message = f"a caption of {image} has no word but for markers; it is left out"
            draft.problems.append(Problem(file, line, "empty-caption", message))
        draft.captions[image] = kept
        if not kept:
            del draft.captions[image]
    return [told(markers, of="the captions")]


def _images(draft: Draft) -> tuple[list[CaptionedImage], set[str]]:
    """Images with captions, in no split yet, and the ids of those without a file. Records these, and listed images without captions."""
    images, missing = [], set()
    for image, captions in draft.captions.items():
        path = draft.paths.get(image)
        if path is None or not os.path.isfile(path):  # Path.is_file raises an error where a name is too long
            file, line = draft.places[image]
            said = "1 caption" if len(captions) == 1 else f"{len(captions)} captions"
            there = f" ({draft.instead[image]})" if image in draft.instead else ""
            message = f"{image} has {said} and no image file{there}; it is left out"
            draft.problems.append(Problem(file, line, "missing-image", message))
            missing.add(image)
        images.append(CaptionedImage(image, path or draft.root / image, tuple(captions), None))
    for image in draft.splits.keys() - draft.captions.keys():
        file, line = draft.places.get(image, (str(draft.root), None))
        draft.problems.append(
            Problem(file, line, "no-caption", f"{image} is in {draft.splits[image]} and has no caption")
        )
    return images, missing


def _nothing(draft: Draft, source: Path) -> str:
    kinds = Counter(problem.kind for problem in draft.problems)
    found = ", ".join(f"{count} {kind}" for kind, count in kinds.items()) or "no captions"
    found += f"; first {draft.problems[0]}" if draft.problems else ""
    where = "its" if source.is_file() else "this"
    looked = (
        f"; images are looked for by name in {where} folder and two levels below" if "missing-image" in kinds else ""
    )
    return f"{source} was read as {draft.format} and holds no image with a caption ({found}); expected both{looked}"


def _unknown(draft: Draft, source: Path) -> str:
    values = list(draft.unknown_splits)
    shown = ", ".join(f"'{value[:40]}'" for value in values[:5]) + ", …" * (len(values) > 5)
    return (
        f"{source} was read as {draft.format}; of its splits, {shown}, none is known: expected {', '.join(SPLIT_NAMES)}; "
        "rename them, or call them by another word than 'split', as 'subset', and showtell draws splits"
    )
