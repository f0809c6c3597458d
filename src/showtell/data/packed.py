"""Packed data sets, files of images and captions: which there are, and what is read from them."""

from __future__ import annotations

import contextlib
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

from showtell.data.files import parse_json
from showtell.data.tables import text_of

TARS = (".tar", ".tar.gz", ".tgz")
PACKED = (".parquet", *TARS)


@dataclass(frozen=True, slots=True)
class Sample:
    """An image, as its content or the file that holds it, and its captions; `name` is what its source calls it."""

    place: str  # for messages
    name: str
    image: bytes | Path
    captions: tuple[str, ...]
    split: str


@dataclass(frozen=True, slots=True)
class Broken:
    """Something that should have been a sample."""

    place: str
    reason: str

    def __str__(self) -> str:
        return printable(f"{self.place}: {self.reason}")


@dataclass(frozen=True, slots=True)
class Columns:
    """The columns of tables, or keys of a tar's JSON, that a user names; what is empty is found out."""

    image: str = ""
    captions: tuple[str, ...] = ()
    split: str = ""


@dataclass(frozen=True, slots=True)
class Source:
    """A packed file, its name in messages, the split that its name tells, and the folder that images may lie in."""

    file: Path
    name: str
    split: str
    root: Path


def printable(text: str) -> str:
    """A text for a terminal: names in archives may hold anything."""
    return "".join(c if c.isprintable() else "\ufffd" for c in text)


def packed_files(path: Path, *, depth: int = 0) -> list[Path]:
    """The Parquet files and tars at `path` and below it, without hidden ones and the tables that describe a tar.

    `depth`: so many levels of folders are looked through; 0: all.
    """
    if path.is_file():
        return [path] if path.name.lower().endswith(PACKED) else []
    found = [
        file
        for file in (
            sorted(path.rglob("*")) if not depth else sorted(f for k in range(depth) for f in path.glob("*/" * k + "*"))
        )
        if file.name.lower().endswith(PACKED)
        and not any(part.startswith(".") for part in file.relative_to(path).parts)
        and file.is_file()
    ]
    # img2dataset writes 00000.parquet, without images, beside 00000.tar
    tars = {file.with_name(_without(file.name)) for file in found if file.suffix.lower() != ".parquet"}
    return [file for file in found if file.suffix.lower() != ".parquet" or file.with_suffix("") not in tars]


def _without(name: str) -> str:
    """A tar's name without its suffix."""
    return name[: -max(len(suffix) for suffix in TARS if name.lower().endswith(suffix))]


def most_unpacked(size: int) -> int:
    """The bytes that `size` packed bytes may be unpacked to: pictures are compressed already."""
    return 20 * size + 2**30


def texts_in(value: object) -> Iterator[str]:
    """The texts of a cell or a JSON value: one, a list, or a list written as JSON; objects with a text count too."""
    if isinstance(value, str) and value.lstrip().startswith('["'):
        with contextlib.suppress(ValueError):  # a caption that begins so
            value = parse_json(value)
    for item in value if isinstance(value, list) else [value]:
        text = text_of(item)
        if isinstance(text, str) and text.strip():
            yield text
