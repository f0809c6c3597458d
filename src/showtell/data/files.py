"""The files of a data set: caption candidates, the splits that names tell, lines as text; nothing here imports torch."""

from __future__ import annotations

import json
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

from showtell.data.draft import Draft
from showtell.data.splits import split_in
from showtell.paths import entries


def candidates(path: Path, suffixes: tuple[str, ...]) -> list[Path]:
    """Files that may hold captions: `path` itself, or those in the folder and one level below it; the nearest first."""
    if path.is_file():
        return [path] if path.suffix.lower() in suffixes else []
    near = sorted(p for p in path.iterdir() if p.is_file())
    folders = sorted(p for p in path.iterdir() if p.is_dir() and not p.name.startswith("."))
    below = [p for folder in folders for p in entries(folder) if p.is_file()]
    left_out = ("readme", "._")  # macOS writes "._" files beside others
    return [p for p in near + below if p.suffix.lower() in suffixes and not p.name.lower().startswith(left_out)]


def split_in_the_name(file: Path) -> str:
    """The split in a file's name, as in "flickr_val_images.txt"; empty if there is none."""
    return split_in(file.stem)


def split_named(file: Path, root: Path) -> str:
    """The split in a file's name, else in those of its folders below `root`; empty if there is none."""
    return split_in_the_name(file) or split_of_the_folder(file, root)


def split_of_the_folder(file: Path, root: Path) -> str:
    """The split in the name of the nearest folder of a file below `root` that has one; empty if there is none."""
    return next(filter(None, map(split_in, reversed(file.relative_to(root).parts[:-1]))), "")


def head(file: Path) -> str:
    """The beginning of a file as text, whatever its encoding."""
    with file.open("rb") as opened:
        raw = opened.read(4096)
    encoding = "utf-16" if raw[:2] in (b"\xff\xfe", b"\xfe\xff") else "utf-8-sig"
    return raw.decode(encoding, "replace")


def numbered_lines(draft: Draft, file: Path) -> Iterator[tuple[int, str]]:
    """Numbered lines as text; one that is not UTF-8 is read as Windows-1252 and recorded."""
    return decoded_lines(file.read_bytes(), lambda line, message: draft.problem(file, line, "encoding", message))


def decoded_lines(
    raw: bytes, report: Callable[[int | None, str], None] = lambda line, message: None
) -> Iterator[tuple[int, str]]:
    """Numbered lines of a file's content; `report` is told where it is not UTF-8: a line, or None for all, and how it is
    read."""
    if raw[:2] in (b"\xff\xfe", b"\xfe\xff"):
        text = raw.decode("utf-16", "replace")
        broken = "" if text == raw.decode("utf-16", "ignore") else ", but for broken characters, read as \ufffd"
        report(None, f"UTF-16, expected UTF-8; read all the same{broken}")
        raw = text.encode()
    last = raw.count(b"\n") + 1
    for number, line in enumerate(raw.removeprefix(b"\xef\xbb\xbf").split(b"\n"), start=1):
        line = line.removesuffix(b"\r")
        if number > 1 and not line and number == last:
            return
        try:
            yield number, line.decode("utf-8")
        except UnicodeDecodeError:
            report(number, "not UTF-8; read as Windows-1252")
            yield number, line.decode("cp1252", "replace")


def parse_json(text: str) -> Any:
    """What a JSON text says; `ValueError` where it is none, or is nested too deeply to be read."""
    try:
        return json.loads(text)
    except RecursionError:
        raise ValueError("nested too deeply") from None
