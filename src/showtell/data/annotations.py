"""Reads any known format into `CaptionedImage`s; later code knows no formats. Nothing here imports torch."""

from __future__ import annotations

import itertools
import os
import random
import re
import unicodedata
from collections import Counter
from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field, replace
from pathlib import Path, PureWindowsPath
from typing import Literal

from showtell.data.copies import first_equals
from showtell.data.markers import find_markers, told, without_markers
from showtell.errors import DataError
from showtell.images import SUFFIXES

Split = Literal["train", "val", "test"]
SPLITS: tuple[Split, ...] = ("train", "val", "test")
SPLIT_NAMES: dict[str, Split] = {
    "train": "train", "training": "train", "restval": "train", "val": "val", "valid": "val", "validation": "val",
    "dev": "val", "test": "test", "testing": "test",
}  # fmt: skip
_LONE_SURROGATE = re.compile("[\ud800-\udfff]")  # JSON can spell one; it is half a character


@dataclass(frozen=True, slots=True)
class CaptionedImage:
    """One image and its captions by people. `split` is None where the data's own lists leave it out."""

    image_id: str
    path: Path
    captions: tuple[str, ...]
    split: Split | None


@dataclass(frozen=True, slots=True)
class Problem:
    """Something wrong in the data, by file and line (None: the file as a whole)."""

    file: str
    line: int | None
    kind: str
    message: str

    def __str__(self) -> str:
        place = f"{self.file}:{self.line}" if self.line is not None else self.file
        return f"{place}: {self.message}"


@dataclass(frozen=True)
class Annotations:
    """A data set as it was read."""

    format: str
    root: Path
    images: tuple[CaptionedImage, ...]
    problems: tuple[Problem, ...]
    drawn: str = ""  # how it was split; empty for its own splits and for the default
    notes: tuple[str, ...] = ()  # on how it was read, a sentence each
    given: bool = True  # whether the data has its own splits, even if val was taken from train
    moved: int = 0  # copies moved to the split of the first of them

    @property
    def dataset(self) -> str:
        """The data set as a protocol names it: its folder, and how it was split unless that is by its own or as usual."""
        name = self.root.resolve().name
        return f"{name} ({self.drawn})" if self.drawn else name

    def split(self, name: str) -> tuple[CaptionedImage, ...]:
        """The images of a split ("dev" means "val"); `DataError` naming the other splits if it is empty."""
        wanted = SPLIT_NAMES.get(name.lower())
        chosen = tuple(image for image in self.images if wanted is not None and image.split == wanted)
        if not chosen:
            sizes = ", ".join(f"{s} ({n})" for s in SPLITS if (n := sum(i.split == s for i in self.images)))
            raise DataError(f"{self.root} has no image in the split '{name}'; it has {sizes or 'no splits'}")
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
        yield f"{self.root}: {self.format}, {len(self.images)} images with captions ({counted})"
        yield from self.notes
        if self.problems:
            yield f"{len(self.problems)} problems in the data; see  showtell data check {self.root}"


@dataclass
class Draft:
    """What a reader has gathered: captions by image, splits and problems. The readers of all formats fill one."""

    root: Path
    format: str
    captions: dict[str, list[str]] = field(default_factory=dict)
    splits: dict[str, Split] = field(default_factory=dict)
    paths: dict[str, Path] = field(default_factory=dict)  # image files, from the format or by `find`
    places: dict[str, tuple[str, int | None]] = field(default_factory=dict)  # where an image was first mentioned
    problems: list[Problem] = field(default_factory=list)
    has_splits: bool = False

    def add(self, image: str, caption: object, *, file: Path, line: int | None, entry: str = "") -> None:
        """Adds one caption of an image; one that is empty, without a word or no text becomes a problem instead.

        `entry` says which it is where there are no lines, as in "annotations[3]".
        """
        self.places.setdefault(image, (self.name(file), line))
        which = f"the caption of {image} ({entry})" if entry else f"the caption of {image}"
        if not isinstance(caption, str):
            self.problem(file, line, "not-a-caption", f"{which} is no text; it is left out")
        elif not _has_a_word(caption):
            wrong = "has no word" if caption.strip() else "is empty"
            self.problem(file, line, "empty-caption", f"{which} {wrong}; it is left out")
        else:
            text = _LONE_SURROGATE.sub("\ufffd", caption)
            if text != caption:
                self.problem(file, line, "encoding", f"{which} has half a character (a lone surrogate); read as \ufffd")
            self.captions.setdefault(image, []).append(" ".join(text.split()))

    def assign(self, image: str, split: object, *, file: Path, line: int | None) -> None:
        """Puts an image into a split; an unknown split, or a second one, becomes a problem."""
        known = SPLIT_NAMES.get(str(split or "").strip().lower())
        if known is None:
            if split:
                self.problem(
                    file, line, "unknown-split", f"'{split}' of {image} is no split; expected train, val or test"
                )
            return
        self.has_splits = True
        if self.splits.setdefault(image, known) != known:
            self.problem(
                file, line, "two-splits", f"{image} is in {self.splits[image]} and in {known}; kept in the first"
            )

    def problem(self, file: Path, line: int | None, kind: str, message: str) -> None:
        """Records a problem."""
        self.problems.append(Problem(self.name(file), line, kind, message))

    def not_read(self, file: Path, instead: Iterable[Path]) -> None:
        """Records that a file looks like captions but others are read instead."""
        read = " and ".join(self.name(other) for other in instead)
        self.problem(file, None, "unread-table", f"looks like captions too and is not read, as {read} is")

    def name(self, file: Path) -> str:
        """A file's path as printed in problems: relative to the data set."""
        return str(file.relative_to(self.root)) if file.is_relative_to(self.root) else str(file)

    def _in_the_same_folders(self, image: str, paths: Iterable[Path]) -> list[Path]:
        """Of the files with an image's name, those that share the most of the folders in it, at least one.

        Shared folders directly above the file count first, then shared ones anywhere.
        """
        said, shared = _parts(image)[:-1], dict[tuple[int, int], list[Path]]()
        for path in paths:
            folder = path.parent
            folders = folder.relative_to(self.root).parts if folder.is_relative_to(self.root) else folder.parts
            near = itertools.takewhile(
                lambda pair: pair[0] == pair[1], zip(reversed(said), reversed(folders), strict=False)
            )
            shared.setdefault((len(list(near)), len(set(said) & set(folders))), []).append(path)
        most = max(shared, default=(0, 0))
        return shared[most] if any(most) else []

    def find(self, folders: Iterable[Path]) -> None:
        """Looks up, by name in `folders`, the images whose path the format does not give."""
        found: dict[str, list[Path]] = {}
        for folder in folders:
            for path in sorted(folder.iterdir()):
                if path.suffix.lower() in SUFFIXES:
                    for name in dict.fromkeys((path.name, path.stem)):
                        found.setdefault(name, []).append(path)
        images = sorted(self.captions.keys() | self.splits.keys())
        called = Counter(_parts(image)[-1] for image in images)
        for image in images:
            paths = found.get(_parts(image)[-1], [])
            if image in self.paths or not paths:
                continue
            agreeing = self._in_the_same_folders(image, paths)
            paths = agreeing or paths
            if called[_parts(image)[-1]] > 1:  # as with cameras' file numbers: the name is ambiguous
                paths = agreeing
                if len(paths) != 1:
                    self.problem(
                        self.root, None, "ambiguous-image",
                        f"{image} is one of several images of that name, and {len(paths)} files lie in folders of the same names; expected one",
                    )  # fmt: skip
                    continue
            self.paths[image] = paths[0]
        firsts = (paths[0] for paths in found.values())
        uncaptioned = [p for p in firsts if p.name not in self.captions and p.stem not in self.captions]
        used = set(self.paths.values())
        homes = {folder.resolve() for folder in {path.parent for path in used}}
        own = {
            folder
            for folder in {path.parent for path in uncaptioned}
            if folder.resolve() in homes or folder.is_relative_to(self.root)
        }
        for path in dict.fromkeys(uncaptioned):
            if path not in used and path.parent in own:  # unrelated folders may hold any files
                self.problem(path, None, "no-caption", f"{path.name} has no caption; it is left out")


def _has_a_word(caption: str) -> bool:
    """Whether a caption has a letter or digit, of any script."""
    return any(map(str.isalnum, unicodedata.normalize("NFKC", caption)))


def _parts(image: str) -> tuple[str, ...]:
    return PureWindowsPath(image).parts or ("",)  # splits at both separators


def read_annotations(
    path: Path, *, val: float = 0.1, test: float = 0.1, seed: int = 0, require_images: bool = True
) -> Annotations:
    """Reads the data set in a folder, or the one that an annotation file describes; the format is detected.

    Images whose file is missing are problems and are left out, unless `require_images` is False. Data without splits
    are split by image, seeded, in the proportions `val` and `test`; if there is a train split but no val split, the
    share `val` of train becomes val. In both cases, files that are equal, byte for byte, share the split of the first
    by name, unless that would leave a split empty; otherwise missing files change no image's split. Markers around
    captions ("startseq … endseq") are removed where at least half of the captions begin, or end, with one.
    Raises `DataError` where nothing can be read.
    """
    from showtell.data.formats import read_draft

    draft = read_draft(path)
    marked = _remove_markers(draft)
    images, missing = _images(draft)
    draw = _with_splits(images, given=draft.has_splits, val=val, test=test, seed=seed)
    images = draw.images
    if require_images:
        images = [image for image in images if image.image_id not in missing]
    if not images:
        raise DataError(_nothing(draft))
    _assert_disjoint(images)
    return Annotations(
        draft.format, draft.root, tuple(images), tuple(draft.problems), draw.how, (*marked, *draw.notes), draft.has_splits, draw.moved
    )  # fmt: skip


def _remove_markers(draft: Draft) -> list[str]:
    """Removes the markers that `find_markers` finds, and captions of markers alone; returns a note naming them."""
    markers = find_markers(caption for captions in draft.captions.values() for caption in captions)
    if not markers:
        return []
    for image, captions in list(draft.captions.items()):
        kept = [caption for caption in map(without_markers, captions) if _has_a_word(caption)]
        if len(kept) < len(captions):
            file, line = draft.places[image]
            message = f"a caption of {image} has no word but for markers; it is left out"
            draft.problems.append(Problem(file, line, "empty-caption", message))
        draft.captions[image] = kept
        if not kept:
            del draft.captions[image]
    return [told(markers, of="the captions")]


def _images(draft: Draft) -> tuple[list[CaptionedImage], set[str]]:
    """Images with captions, and the ids of those without a file. Records these, and listed images without captions."""
    images, missing = [], set()
    for image, captions in draft.captions.items():
        path = draft.paths.get(image)
        if path is None or not os.path.isfile(path):  # Path.is_file raises an error where a name is too long
            file, line = draft.places[image]
            message = f"{image} has {len(captions)} captions and no image file; it is left out"
            draft.problems.append(Problem(file, line, "missing-image", message))
            missing.add(image)
        images.append(CaptionedImage(image, path or draft.root / image, tuple(captions), draft.splits.get(image)))
    for image in draft.splits.keys() - draft.captions.keys():
        file, line = draft.places.get(image, (str(draft.root), None))
        draft.problems.append(
            Problem(file, line, "no-caption", f"{image} is in {draft.splits[image]} and has no caption")
        )
    return images, missing


@dataclass(frozen=True)
class _Draw:
    images: list[CaptionedImage]
    how: str = ""  # see `Annotations.drawn`
    notes: tuple[str, ...] = ()
    moved: int = 0  # copies


def _with_splits(images: list[CaptionedImage], *, given: bool, val: float, test: float, seed: int) -> _Draw:
    """The images with any splits added that their data lacks."""
    if not given:
        as_usual = (val, test, seed) == (0.1, 0.1, 0)
        how = "" if as_usual else f"split by seed {seed}, val {val:g}, test {test:g}"
        return replace(_split(images, val=val, test=test, seed=seed), how=how)
    train = [image for image in images if image.split == "train"]
    if not train or not val or any(image.split == "val" for image in images):
        return _Draw(images)
    draw = _split(train, val=val, test=0, seed=seed)
    parted = {image.image_id: image for image in draw.images}
    held_out = sum(image.split == "val" for image in draw.images)
    note = (
        f"the data has no val split: {held_out} of its {len(train)} train images are taken for it "
        f"(data.val={val:g}, data.split_seed={seed})"
    )
    return replace(
        draw,
        images=[parted.get(image.image_id, image) for image in images],
        how=f"val {val:g} of train by seed {seed}",
        notes=(note, *draw.notes),
    )


def _split(images: list[CaptionedImage], *, val: float, test: float, seed: int) -> _Draw:
    """Splits by image, whatever the order of the data.

    Copies move to the split of the first of them by name, which moves no other image; none moves where that would empty
    a split.
    """
    if val + test >= 1:
        raise DataError(f"val {val} and test {test} leave nothing to train on; their sum must be below 1")
    ordered = sorted(images, key=lambda image: image.image_id)
    shuffled = ordered.copy()
    random.Random(seed).shuffle(shuffled)
    held_out, tested = (max(1, round(share * len(images))) if share else 0 for share in (val, test))
    drawn: dict[str, Split] = {i.image_id: "train" for i in ordered}
    drawn |= {i.image_id: "val" for i in shuffled[:held_out]}
    drawn |= {i.image_id: "test" for i in shuffled[held_out : held_out + tested]}
    firsts = first_equals([image.path for image in ordered])
    followed = {image.image_id: drawn[ordered[first].image_id] for image, first in zip(ordered, firsts, strict=True)}
    moved = sum(followed[image] != split for image, split in drawn.items())
    emptied = [split for split in SPLITS if split in drawn.values() and split not in followed.values()]
    kept = drawn if emptied else followed
    return _Draw(
        [replace(image, split=kept[image.image_id]) for image in images],
        notes=_of_copies(moved, emptied),
        moved=0 if emptied else moved,
    )


def _of_copies(moved: int, emptied: Sequence[str]) -> tuple[str, ...]:
    if not moved:
        return ()
    what = "1 image is a copy of another" if moved == 1 else f"{moved} images are copies of others"
    if emptied:
        return (
            f"{what} in another split, byte for byte, and left there, as {' and '.join(emptied)} would be empty without them; scores flatter",
        )
    return (f"{what}, byte for byte, and put into the split of the first of them",)


def _assert_disjoint(images: Iterable[CaptionedImage]) -> None:
    seen: dict[str, Split | None] = {}
    for image in images:
        assert seen.setdefault(image.image_id, image.split) == image.split, image.image_id


def _nothing(draft: Draft) -> str:
    kinds = _counted(problem.kind for problem in draft.problems)
    found = ", ".join(f"{count} {kind}" for kind, count in kinds.items()) or "no captions"
    return f"{draft.root} was read as {draft.format} and holds no image with a caption ({found}); expected both"


def _counted(kinds: Iterable[str]) -> Mapping[str, int]:
    counts: dict[str, int] = {}
    for kind in kinds:
        counts[kind] = counts.get(kind, 0) + 1
    return counts
