"""Which files are the same, byte for byte; nothing here imports torch."""

from __future__ import annotations

import hashlib
import os
from collections.abc import Callable, Sequence
from pathlib import Path

_END = 4096  # bytes: where two pictures of one size differ, they nearly always do so here


def first_equals(paths: Sequence[Path]) -> list[int]:
    """For each file the place in `paths` of the first one that is equal to it: its own, where none before it is.

    Files are read as a whole only where their sizes and their ends are the same. One that cannot be read, or is empty, equals none.
    """
    first = list(range(len(paths)))
    groups = [first]
    for look in (_size, _end, _digest):
        groups = [alike for group in groups for alike in _alike(group, paths, look)]
    for group in groups:
        for index in group:
            first[index] = group[0]
    return first


def _alike(group: Sequence[int], paths: Sequence[Path], look: Callable[[Path], object]) -> list[list[int]]:
    """Those of a group that look alike, two at least."""
    found: dict[object, list[int]] = {}
    for index in group:
        try:
            found.setdefault(look(paths[index]), []).append(index)
        except (OSError, ValueError):  # nothing to compare; a name may hold what no path can
            continue
    return [alike for alike in found.values() if len(alike) > 1]


def _size(path: Path) -> int:
    """Its size; `ValueError` for an empty file, which is what is left of any picture that was not written to its end."""
    size = path.stat().st_size
    if not size:
        raise ValueError(f"{path} is empty")
    return size


def _end(path: Path) -> bytes:
    with path.open("rb", buffering=0) as file:
        file.seek(max(0, file.seek(0, os.SEEK_END) - _END))
        return hashlib.blake2b(file.read(_END), digest_size=16).digest()


def _digest(path: Path) -> bytes:
    with path.open("rb") as file:
        return hashlib.file_digest(file, "sha256").digest()
