"""Writes an evaluation's captions and per-image scores as COCO results or a table; `--predictions` reads both."""

from __future__ import annotations

import csv
import io
import json
import re
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

from showtell.errors import DataError, check_target
from showtell.paths import write_whole

if TYPE_CHECKING:
    from showtell.scores import Evaluation

Rows = Sequence[dict[str, Any]]


def check_results(path: Path, n: int = 1) -> None:
    """`DataError` where `write_results` could not write n captions an image, or would replace a file: a data set's
    captions, perhaps."""
    check_target(path, tuple(_FORMATS), option="--captions")
    if path.suffix.lower() == ".csv" and n > 1:
        raise DataError(f"--captions {path}: a row an image has no room for --n {n} captions; name a .json")
    if path.exists():
        raise DataError(f"{path} is there already and is not replaced; name another file, or remove it")


def write_results(path: Path, evaluation: Evaluation) -> None:
    """Writes one object or row per image, whole or not at all.

    Each has `image_id`, `caption`, where there are several captions an image the others as `alternatives`, the captioner's `confidence` where there is one, and the image's own scores under the
    names of `Evaluation.report.each`, as fractions (CIDEr 0 … 10). `path` ends in .json (a list, as in COCO results) or
    .csv. Ids are written as numbers where all are numbers, as COCO's tools expect. Raises `DataError` as `check_results`
    does, and for a .csv with names that it cannot hold.
    """
    check_results(path, 1 if evaluation.several is None else evaluation.several.own.n)
    ids = [image.image_id for image in evaluation.images]
    if path.suffix.lower() == ".csv" and (odd := next((i for i in ids if "\r" in i or not _is_text(i)), None)):
        raise DataError(f"{path}: a table cannot hold the name {odd!r} so that it is read back; name a .json")
    numbered = all(re.fullmatch(r"0|[1-9][0-9]*", image_id) for image_id in ids)
    each = ({"confidence": evaluation.confidences} if evaluation.confidences else {}) | evaluation.report.each
    others = evaluation.alternatives
    rows = [
        {"image_id": int(image_id) if numbered else image_id, "caption": caption}
        | {name: values[place] for name, values in each.items()}
        | ({"alternatives": [{"caption": other} for other in others[place]]} if others else {})
        for place, (image_id, caption) in enumerate(zip(ids, evaluation.candidates, strict=True))
    ]
    # A file's name may not be valid text; backslashreplace escapes it as JSON does.
    write_whole(path, _FORMATS[path.suffix.lower()](rows).encode("utf-8", "backslashreplace"))


def _is_text(name: str) -> bool:
    """Whether a file's name is valid text; others hold bytes that are not characters."""
    return name.encode("utf-8", "ignore").decode("utf-8") == name


def _json(rows: Rows) -> str:
    return "[\n" + ",\n".join(json.dumps(row, ensure_ascii=False) for row in rows) + "\n]\n"


def _csv(rows: Rows) -> str:
    table = io.StringIO()
    writer = csv.DictWriter(table, list(rows[0]), lineterminator="\n", quoting=csv.QUOTE_NONNUMERIC)
    writer.writeheader()
    writer.writerows(rows)
    return table.getvalue()


_FORMATS: dict[str, Callable[[Rows], str]] = {".json": _json, ".csv": _csv}
