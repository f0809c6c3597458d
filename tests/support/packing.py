"""Packed data sets of four things: Parquet files as the hub has them, and tars."""

from __future__ import annotations

import io
import tarfile
from collections.abc import Iterable, Mapping
from pathlib import Path
from typing import Any

from PIL import Image

NAMES = ("a", "b", "c", "d")


def picture(number: int, kind: str = "PNG") -> bytes:
    """An image file of its own content."""
    stream = io.BytesIO()
    Image.new("RGB", (8, 6), (60 * number, 90, 20)).save(stream, kind)
    return stream.getvalue()


PICTURES = {f"{name}.png": picture(number) for number, name in enumerate(NAMES)}
CAPTIONS = {f"{name}.png": [f"{word} thing {name}" for word in ("a plain", "a flat")] for name in NAMES}


def parquet(path: Path, *more: tuple[str, list[Any]], **columns: list[Any]) -> Path:
    """A Parquet file; images as the hub has them are dicts of bytes and a path."""
    import pyarrow as pa
    import pyarrow.parquet

    path.parent.mkdir(parents=True, exist_ok=True)
    names, values = zip(*columns.items(), *more, strict=True)
    pyarrow.parquet.write_table(pa.table(list(map(pa.array, values)), names=list(names)), path)
    return path


def cells(*names: str, path: bool = True) -> list[dict[str, Any]]:
    """The cells of images."""
    return [{"bytes": PICTURES[name], "path": name if path else None} for name in names]


def tar(path: Path, members: Mapping[str, bytes] | Iterable[tarfile.TarInfo], mode: str = "w") -> Path:
    """A tar of files, or of entries without content."""
    path.parent.mkdir(parents=True, exist_ok=True)
    with tarfile.open(path, mode) as opened:  # type: ignore[call-overload]
        for member in members.items() if isinstance(members, Mapping) else members:
            if isinstance(member, tarfile.TarInfo):
                opened.addfile(member)
            else:
                entry = tarfile.TarInfo(member[0])
                entry.size = len(member[1])
                opened.addfile(entry, io.BytesIO(member[1]))
    return path
