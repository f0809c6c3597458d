"""Reads captions that any captioner wrote to a file."""

from __future__ import annotations

import csv
import io
import json
import re
from collections.abc import Sequence
from pathlib import Path
from typing import Any

from showtell.errors import DataError

_IDS = ("image_id", "image", "file_name", "filename", "id")
_CAPTIONS = ("caption", "text", "prediction")
_FORMATS = "COCO results JSON, JSONL, CSV, or text with one caption a line"

Row = tuple[str, str]  # image, caption


def read_predictions(path: Path, order: Sequence[str] = (), *, listed_in: str = "the split") -> dict[str, str]:
    """Image id or file name -> caption, from a COCO results JSON, JSONL, CSV or text file.

    Text has lines of `image<TAB>caption` (or `image#0`, as in Flickr8k), or captions alone, for the images in `order`,
    which errors call `listed_in`. `DataError` for a missing file, an unexpected shape or number of lines, or two
    captions of one image.
    """
    if not path.is_file():
        what = f"{path} is a folder" if path.is_dir() else f"no file {path}"
        raise DataError(f"{what}; expected predictions as {_FORMATS}")
    try:
        text = path.read_text(encoding="utf-8-sig")
        rows = _rows(path, text, order, listed_in)
    except (ValueError, csv.Error) as error:
        raise DataError(f"{path} cannot be read ({error}); expected {_FORMATS}") from None
    found: dict[str, str] = {}
    for number, (image, caption) in enumerate(rows, start=1):
        if image in found:
            raise DataError(f"{path}, entry {number}: a second caption of {image}; expected one an image")
        found[image] = caption
    if not found:
        raise DataError(f"{path} holds no predictions; expected one caption an image")
    return found


def is_text(path: Path) -> bool:
    """Whether `read_predictions` reads a file as lines of text, judging by its name and first bytes."""
    if path.suffix.lower() in (".csv", ".json", ".jsonl", ".ndjson"):
        return False
    with path.open("rb") as file:
        return not file.read(64).removeprefix(b"\xef\xbb\xbf").lstrip().startswith((b"[", b"{"))


def _rows(path: Path, text: str, order: Sequence[str], listed_in: str) -> list[Row]:
    if is_text(path):
        lines = [line.removesuffix("\r") for line in text.removesuffix("\n").split("\n")]  # not at U+2028 and the like
        tabs = [number for number, line in enumerate(lines, start=1) if "\t" in line]
        return _pairs(path, lines) if tabs else _in_order(path, lines, order, listed_in)
    if path.suffix.lower() == ".csv":
        objects: Any = list(csv.DictReader(io.StringIO(text, newline="")))
        if objects and "rank" in objects[0]:  # several captions per image, from `showtell caption --n`
            objects = [row for row in objects if row["rank"] == "1"]
    elif path.suffix.lower() in (".jsonl", ".ndjson"):
        objects = [json.loads(line) for line in text.split("\n") if line.strip()]
    else:
        objects = json.loads(text)
    if not isinstance(objects, list) or not all(isinstance(row, dict) for row in objects):
        raise ValueError("not a list of objects")
    return [_row(path, number, row) for number, row in enumerate(objects, start=1)]


def _row(path: Path, number: int, row: dict[str, Any]) -> Row:
    image, caption = _first(row, _IDS), _first(row, _CAPTIONS)
    if image is None or caption is None:
        keys = ", ".join(map(str, row)) or "none"
        raise DataError(f"{path}, entry {number}: expected the keys image_id and caption, found {keys}")
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
        if number == 1 and image.strip() in _IDS and caption.strip() in _CAPTIONS:
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
