"""What the readers of all formats fill: captions by image, splits, and what is wrong. Nothing here imports torch."""

from __future__ import annotations

import os
import re
import unicodedata
from collections.abc import Iterable
from dataclasses import dataclass, field
from pathlib import Path

from showtell.data.copies import differ
from showtell.data.pictures import Pictures
from showtell.data.splits import SPLIT_NAMES, Split

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
    instead: dict[str, str] = field(default_factory=dict)  # what lies there in place of an image without a file
    names: dict[str, str] | None = None  # what the data call each image's file, where that is not its id
    places: dict[str, tuple[str, int | None]] = field(default_factory=dict)  # where an image was first mentioned
    problems: list[Problem] = field(default_factory=list)
    has_splits: bool = False
    unknown_splits: dict[str, None] = field(default_factory=dict)  # values that name no split

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

    def assign(self, image: str, split: object, *, file: Path, line: int | None, column: str = "split") -> None:
        """Puts an image into a split; an unknown split, or a second one, becomes a problem. `column` is where it stands."""
        known = SPLIT_NAMES.get(str(split or "").strip().lower())
        if known is None:
            if split:
                if column == "split":  # a "set", "subset" or "fold" may be one of something else
                    self.unknown_splits[str(split)] = None
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

    def find(self, pictures: Pictures) -> None:
        """Looks up, by name, the images whose path the format does not give."""
        images = sorted(self.captions.keys() | self.splits.keys())
        names = {image: image for image in images} if self.names is None else self.names
        said = {image: names[image] for image in images if image in names}
        for image, found, alone in pictures.look_up(pictures.respelt(said), self.splits):
            if image in self.paths:
                continue
            which = image if image == said[image] else f"{image} ({said[image]})"
            if len(found) == 1 or (alone and found):
                self.paths[image] = found[0]
                if differ(found):
                    read, *others = (self.name(path) for path in found)
                    self.problem(
                        self.root,
                        None,
                        "ambiguous-image",
                        f"{which} may be {read}, which is read, or {', '.join(others)}",
                    )
            else:  # as with cameras' file numbers
                self.problem(
                    self.root, None, "ambiguous-image",
                    f"{which} is one of several images of that name, and {len(found)} files lie in folders of the same names; expected one",
                )  # fmt: skip
        missing = ((image, pictures.instead(name)) for image, name in said.items() if image not in self.paths)
        self.instead |= {image: there for image, there in missing if there}
        if self.names is None:  # else the data list their images, so that those without captions are known
            self._name_uncaptioned(pictures)

    def no_caption(self, path: Path) -> None:
        """Records an image that is there and has no caption."""
        self.problem(path, None, "no-caption", "has no caption; it is left out")

    def _name_uncaptioned(self, pictures: Pictures) -> None:
        uncaptioned = [p for p in pictures.firsts() if p.name not in self.captions and p.stem not in self.captions]
        used = {Path(os.path.abspath(path)) for path in self.paths.values()}  # a table may have absolute ones
        homes = {folder.resolve() for folder in {path.parent for path in used}}
        own = {
            folder
            for folder in {path.parent for path in uncaptioned}
            if folder.resolve() in homes or folder.is_relative_to(self.root)
        }
        for path in dict.fromkeys(uncaptioned):
            if Path(os.path.abspath(path)) not in used and path.parent in own:  # unrelated folders may hold any files
                self.no_caption(path)


def has_a_word(caption: str) -> bool:
    """Whether a caption has a letter or digit, of any script."""
    return any(map(str.isalnum, unicodedata.normalize("NFKC", caption)))
