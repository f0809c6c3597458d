"""Reads captions that any captioner wrote to a file."""

from __future__ import annotations

import csv
import io
import itertools
import json
import re
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Any

from showtell.delimited import Header
from showtell.errors import DataError

_IDS = ("image_id", "image", "file_name", "filename", "id")
_CAPTIONS = ("caption", "text", "prediction")
_FORMATS = "COCO results JSON, JSONL, CSV, or text with one caption a line"
_UTF16 = (b"\xff\xfe", b"\xfe\xff")

Row = tuple[str, str]  # image, caption


def read_predictions(path: Path, order: Sequence[str] = (), *, listed_in: str = "the split") -> dict[str, str]:
    """Image id or file name -> caption, from a COCO results JSON, JSONL, CSV or text file.

    Text has lines of `image<TAB>caption` (or `image#0`, as in Flickr8k), or captions alone, for the images in `order`,
    which errors call `listed_in`. `DataError` for a missing file, an unexpected shape or number of lines, or two
    captions of one image.
    """
    found: dict[str, str] = {}
    for number, (image, caption) in enumerate(_read(path, order, listed_in), start=1):
        if image in found:
            raise DataError(
                f"{path}, entry {number}: a second caption of {image}; expected one an image, or --n with their number"
            )
        found[image] = caption
    return found


def read_sets(path: Path, order: Sequence[str] = (), *, listed_in: str = "the split") -> dict[str, tuple[str, ...]]:
    """`read_predictions` where images may have several captions: image id or file name -> its captions, the best first.

    They are an entry's caption and its `alternatives`, as  showtell caption --n  writes them in JSON lines; entries with
    a `rank`, as in its CSV, in the order of that; or several entries of an image, in the file's order.
    """
    found: dict[str, list[str]] = {}
    for image, caption in _read(path, order, listed_in, every=True):
        found.setdefault(image, []).append(caption)
    return {image: tuple(captions) for image, captions in found.items()}


def _read(path: Path, order: Sequence[str], listed_in: str, *, every: bool = False) -> list[Row]:
    """The rows of a file, one or more; of several captions of an image the first alone, unless `every`."""
    if not path.is_file():
        what = f"{path} is a folder" if path.is_dir() else f"no file {path}"
        raise DataError(f"{what}; expected predictions as {_FORMATS}")
    try:
        rows = _rows(path, read_text(path), order, listed_in, every)
    except RecursionError:
        raise DataError(f"{path} cannot be read (nested too deeply); expected {_FORMATS}") from None
    except (ValueError, csv.Error) as error:
        raise DataError(f"{path} cannot be read ({error}); expected {_FORMATS}") from None
    if not rows:
        raise DataError(f"{path} holds no predictions; expected one caption an image")
    return rows


def is_text(path: Path) -> bool:
    """Whether `read_predictions` reads a file as lines of text, judging by its name and first bytes."""
    if path.suffix.lower() in (".csv", ".json", ".jsonl", ".ndjson"):
        return False
    with path.open("rb") as file:
        raw = file.read(64)
    begins = raw.decode("utf-16" if raw.startswith(_UTF16) else "utf-8-sig", "replace")
    return not begins.lstrip().startswith(("[", "{"))


def read_text(path: Path) -> str:
    """The text of a file, decoded as that of a data set: lines that are not UTF-8 as Windows-1252, and UTF-16 by its
    mark. `DataError` for anything else."""
    raw = path.read_bytes()
    try:
        text = raw.decode("utf-16") if raw.startswith(_UTF16) else _lines_decoded(raw.removeprefix(b"\xef\xbb\xbf"))
    except UnicodeDecodeError:
        text = "\0"
    if "\0" in text:
        raise DataError(f"{path} is no text that can be read; save it as UTF-8, as {_FORMATS}")
    return text


def _lines_decoded(raw: bytes) -> str:
    try:
        return raw.decode()
    except UnicodeDecodeError:
        return "\n".join(map(_decoded, raw.split(b"\n")))


def _decoded(line: bytes) -> str:
    try:
        return line.decode()
    except UnicodeDecodeError:
        return line.decode("cp1252", "replace")


def _rows(path: Path, text: str, order: Sequence[str], listed_in: str, every: bool) -> list[Row]:
    objects: Any
    if path.suffix.lower() == ".csv" or (is_text(path) and _has_columns(text)):
        objects = _table(path, text)
    elif is_text(path):
        lines = [line.removesuffix("\r") for line in text.removesuffix("\n").split("\n")]  # not at U+2028 and the like
        tabs = [number for number, line in enumerate(lines, start=1) if "\t" in line]
        return _pairs(path, lines) if tabs else _in_order(path, lines, order, listed_in)
    elif path.suffix.lower() in (".jsonl", ".ndjson"):
        objects = [json.loads(line) for line in text.split("\n") if line.strip()]
    else:
        objects = json.loads(text)
    if not isinstance(objects, list) or not all(isinstance(row, dict) for row in objects):
        raise ValueError("not a list of objects")
    numbered = [
        (number, {_key(key): value for key, value in row.items()}) for number, row in enumerate(objects, start=1)
    ]
    ranked = [(_rank(path, number, row), number, row) for number, row in numbered]
    if every:
        by_rank = sorted(ranked, key=lambda item: item[0])  # stable: as in the file where ranks are equal
        return [pair for _, number, row in by_rank for pair in _captions(path, number, row)]
    chosen = [(number, row) for rank, number, row in ranked if rank == 1]
    if numbered and not chosen:
        raise DataError(
            f"{path}: none of its {len(numbered)} entries has rank 1; expected the best caption's rank to be 1"
        )
    return [_row(path, number, row) for number, row in chosen]


def _has_columns(text: str) -> bool:
    """Whether text begins with a header of a table with tabs and more columns than image and caption."""
    names = [_key(name) for name in text.partition("\n")[0].split("\t")]
    return len(names) > 2 and any(name in _IDS for name in names) and any(name in _CAPTIONS for name in names)


def _table(path: Path, text: str) -> list[dict[str, str | None]]:
    """The rows of a table by the names in its header; None for cells that a short row lacks."""
    first = text.lstrip().partition("\n")[0]
    header = Header.of(first.removesuffix("\r"), lambda names: [name for name in names if name in _CAPTIONS])
    found: list[dict[str, str | None]] = []
    rows, line = csv.reader(io.StringIO(text, newline=""), delimiter=header.delimiter), 1
    for cells in rows:
        fitted = header.fit(cells) if header.captions else cells[: len(header.names)]
        if fitted is None:
            raise DataError(f"{path}, line {line}: {header.misfit(cells)}")
        if cells:
            found.append(dict(itertools.zip_longest(header.names, fitted)))
        line = rows.line_num + 1
    return found[1:]


def _key(name: Any) -> str:
    return str(name).strip().lower()


def _rank(path: Path, number: int, row: dict[str, Any]) -> float:
    """The place among several captions of an image, from `showtell caption --n`; 1 is the best, and where none is told."""
    rank = row.get("rank", 1)
    try:
        return float(rank)
    except (TypeError, ValueError):
        raise DataError(f"{path}, entry {number}: the rank is {json.dumps(rank)[:60]}; expected a number") from None


def _captions(path: Path, number: int, row: dict[str, Any]) -> Iterator[Row]:
    """An entry's caption, then its alternatives."""
    image, caption = _row(path, number, row)
    yield image, caption
    others = row.get("alternatives") or []
    if not isinstance(others, list) or not all(isinstance(other, dict | str) for other in others):
        raise DataError(f"{path}, entry {number}: the alternatives are no list of captions; expected one")
    for other in others:
        named = {"caption": other} if isinstance(other, str) else {_key(key): value for key, value in other.items()}
        yield _row(path, number, {"image": image, **named})


def _row(path: Path, number: int, row: dict[str, Any]) -> Row:
    image, caption = _first(row, _IDS), _first(row, _CAPTIONS)
    for value, names, what in ((image, _IDS, "image_id"), (caption, _CAPTIONS, "caption")):
        if value is None and any(name in row for name in names):
            raise DataError(f"{path}: the {what} of entry {number} is empty; fill it in, or leave the entry out")
    if image is None or caption is None:
        keys = ", ".join(row) or "none"
        raise DataError(f"{path}, entry {number}: expected the keys image_id and caption, found {keys}")
    if not isinstance(image, str | int | float) or isinstance(image, bool):
        raise DataError(
            f"{path}, entry {number}: the image_id is {json.dumps(image)[:60]}; expected a file's name or a number"
        )
    if not isinstance(caption, str):
        raise DataError(
            f"{path}, entry {number}: the caption is no text but {json.dumps(caption)[:60]}; expected one caption"
        )
    return str(image), caption


def _pairs(path: Path, lines: Sequence[str]) -> list[Row]:
    """`image<TAB>caption` lines, with or without a header."""
    rows = []
    for number, line in enumerate(lines, start=1):
        image, tab, caption = line.partition("\t")
        if number == 1 and _key(image) in _IDS and _key(caption) in _CAPTIONS:
            continue
        if not tab and line.strip():
            raise DataError(
                f"{path}, line {number}: no tab, and other lines have one; expected image<TAB>caption in each"
            )
        if tab:
            rows.append((re.sub(r"#\d+$", "", image.strip()), caption.strip()))
    return rows


def _in_order(path: Path, lines: Sequence[str], order: Sequence[str], listed_in: str) -> list[Row]:
    if lines == [""]:
        return []  # an empty file
    if len(lines) != len(order):
        raise DataError(
            f"{path} has {len(lines)} lines and {listed_in} {len(order)} images; expected one caption an image in their "
            "order, or name the images of the lines with --images"
        )
    return list(zip(order, (line.strip() for line in lines), strict=True))


def _first(row: dict[str, Any], keys: tuple[str, ...]) -> Any:
    return next((row[key] for key in keys if row.get(key) is not None), None)
