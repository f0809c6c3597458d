"""What the readers of all formats fill: captions by image, splits, and what is wrong. Nothing here imports torch."""

from __future__ import annotations

import itertools
import re
import unicodedata
from collections import Counter
from collections.abc import Iterable
from dataclasses import dataclass, field
from pathlib import Path, PureWindowsPath

from showtell.data.splits import SPLIT_NAMES, Split
from showtell.images import SUFFIXES

_LONE_SURROGATE = re.compile("[\ud800-\udfff]")  # JSON can spell one; it is half a character


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


@dataclass
class Draft:
    """What a reader has gathered: captions by image, splits and problems."""

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
        elif not has_a_word(caption):
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


def has_a_word(caption: str) -> bool:
    """Whether a caption has a letter or digit, of any script."""
    return any(map(str.isalnum, unicodedata.normalize("NFKC", caption)))


def _parts(image: str) -> tuple[str, ...]:
    return PureWindowsPath(image).parts or ("",)  # splits at both separators
