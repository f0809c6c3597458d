"""Which files are the same, byte for byte; nothing here imports torch."""

from __future__ import annotations

import hashlib
import os
from collections.abc import Callable, Sequence
from pathlib import Path

_END = 4096  # bytes: pictures of the same size that differ nearly always differ here


def first_equals(paths: Sequence[Path]) -> list[int]:
    """For each file, the index in `paths` of the first file equal to it: its own if there is none before it.

    Files are read in full only where their sizes and ends are equal. An empty or unreadable file equals none.
    """
    first = list(range(len(paths)))
    for group in _groups(paths, _size, _end, _digest):
        for index in group:
            first[index] = group[0]
    return first


def differ(paths: Sequence[Path]) -> bool:
    """Whether not all files have the same size and end; none is read in full. An empty or unreadable one differs."""
    return max(map(len, _groups(paths, _size, _end)), default=1) < len(paths)


def _groups(paths: Sequence[Path], *looks: Callable[[Path], object]) -> list[list[int]]:
    """The groups of files, two at least in each, that look alike in all these ways, each for those alike so far."""
    groups = [[*range(len(paths))]]
    for look in looks:
        groups = [alike for group in groups for alike in _alike(group, paths, look)]
    return groups


def _alike(group: Sequence[int], paths: Sequence[Path], look: Callable[[Path], object]) -> list[list[int]]:
    """The subgroups, of two files at least, that look alike."""
    found: dict[object, list[int]] = {}
    for index in group:
        try:
            found.setdefault(look(paths[index]), []).append(index)
        except (OSError, ValueError):  # nothing to compare, or a name that is no valid path
            continue
    return [alike for alike in found.values() if len(alike) > 1]


def _size(path: Path) -> int:
    """The size of a file; `ValueError` for an empty one, as an interrupted write leaves of any picture."""
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
