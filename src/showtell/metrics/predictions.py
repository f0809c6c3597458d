"""Captions that some captioner wrote, from a file."""

from __future__ import annotations

import csv
import json
from pathlib import Path
from typing import Any

from showtell.errors import DataError

_IDS = ("image_id", "image", "file_name", "filename", "id")
_CAPTIONS = ("caption", "text", "prediction")


def read_predictions(path: Path) -> dict[str, str]:
    """Image id or file name -> caption, of a COCO results JSON, JSONL or CSV file.

    `DataError` for a missing file, another shape, or two captions of one image.
    """
    if not path.is_file():
        raise DataError(f"no file {path}; expected predictions as COCO results JSON, JSONL or CSV")
    try:
        rows = _rows(path)
    except (ValueError, UnicodeDecodeError, csv.Error) as error:
        raise DataError(f"{path} cannot be read ({error}); expected COCO results JSON, JSONL or CSV") from None
    found: dict[str, str] = {}
    for number, row in enumerate(rows, start=1):
        image, caption = _first(row, _IDS), _first(row, _CAPTIONS)
        if image is None or caption is None:
            raise DataError(
                f"{path}, entry {number}: expected the keys image_id and caption, found {', '.join(row) or 'none'}"
            )
        if str(image) in found:
            raise DataError(f"{path}, entry {number}: a second caption of {image}; expected one an image")
        found[str(image)] = str(caption)
    if not found:
        raise DataError(f"{path} holds no predictions; expected one caption an image")
    return found


def _rows(path: Path) -> list[dict[str, Any]]:
    text = path.read_text(encoding="utf-8-sig")
    if path.suffix.lower() == ".csv":
        return [dict(row) for row in csv.DictReader(text.splitlines())]
    if path.suffix.lower() in (".jsonl", ".ndjson"):
        rows = [json.loads(line) for line in text.splitlines() if line.strip()]
    else:
        rows = json.loads(text)
    if not isinstance(rows, list) or not all(isinstance(row, dict) for row in rows):
        raise ValueError("not a list of objects")
    return rows


def _first(row: dict[str, Any], keys: tuple[str, ...]) -> Any:
    return next((row[key] for key in keys if row.get(key) is not None), None)
