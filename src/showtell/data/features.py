"""The feature cache: every image is encoded once, stored in half precision and memory-mapped.

A cache is a folder: `cache.json` (which encoder's features these are), `features.f16` (rows of R·F numbers) and
`index.jsonl` (one line per image: content digest, row, path, size, time). Rows are written before their lines, so a
process that dies leaves at worst rows without a line, which the next one overwrites. Images are identified by content,
so that they are found again in another folder, split or data set.
"""

from __future__ import annotations

import contextlib
import json
import logging
import os
import shutil
from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import IO, Any

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from showtell.errors import CacheError
from showtell.paths import lock, write_whole

_log = logging.getLogger(__name__)

_VERSION = 1
_LARGEST_HALF = 65504.0


@dataclass(frozen=True, slots=True)
class Key:
    """Identifies an image file without reading it."""

    path: str
    size: int
    mtime_ns: int

    @classmethod
    def of(cls, path: Path) -> Key:
        """The key of a file as it is now."""
        stat = path.stat()
        return cls(os.path.abspath(path), stat.st_size, stat.st_mtime_ns)


class FeatureCache:
    """Half-precision features of images, keyed by content. One process writes at a time."""

    def __init__(self, folder: Path, *, fingerprint: str, regions: int, feature_size: int, of: str = "") -> None:
        """Opens or creates the cache in `folder`; `of` names the encoder for people.

        `CacheError` if the folder holds another encoder's features or is no cache.
        """
        self.folder, self.regions, self.feature_size = folder, regions, feature_size
        self._by_key: dict[Key, int] = {}
        self._by_digest: dict[str, int] = {}
        self._digests: dict[int, str] = {}  # of each row; earlier versions wrote some contents to several rows
        self._known: dict[Path, int] = {}
        self._mapped: NDArray[np.float16] | None = None
        self._length = 0  # stored, as every batch asks for it
        folder.mkdir(parents=True, exist_ok=True)
        header = {"version": _VERSION, "fingerprint": fingerprint, "regions": regions, "feature_size": feature_size}
        _check_header(folder / "cache.json", header)
        if of and not (folder / "of.txt").exists():
            write_whole(folder / "of.txt", of + "\n")
        self._read_index()

    def __len__(self) -> int:
        return self._length

    def row(self, path: Path) -> int | None:
        """The row of an image's features; None if it was never encoded or has changed since.

        Once found, a row stays the image's, even if the file changes later.
        """
        known = self._known.get(path)
        if known is None:
            with contextlib.suppress(OSError):
                known = self._by_key.get(Key.of(path))
            if known is not None:
                self._known[path] = known
        return known

    def knows(self, digest: str) -> bool:
        """Whether the features of this content are in the cache."""
        return digest in self._by_digest

    def digest_of(self, row: int) -> str:
        """The digest of the content whose features are in a row."""
        return self._digests[row]

    def rows(self, indices: Sequence[int]) -> Tensor:
        """Features (B,R,F) in single precision, on the CPU."""
        if self._mapped is None or len(self._mapped) < len(self):
            shape = (len(self), self.regions, self.feature_size)
            self._mapped = np.memmap(self.folder / "features.f16", np.float16, "r", shape=shape)
        return torch.from_numpy(self._mapped[np.asarray(indices, dtype=np.int64)]).float()

    def chunks(self, indices: Sequence[int], size: int = 100) -> Iterator[Tensor]:
        """`rows`, for `size` images at a time."""
        return (self.rows(indices[i : i + size]) for i in range(0, len(indices), size))

    @contextlib.contextmanager
    def writer(self) -> Iterator[CacheWriter]:
        """Locks the cache for adding to it; waits for any other writing process and reads what it wrote."""
        with (self.folder / "index.jsonl").open("r+b") as index, (self.folder / "features.f16").open("r+b") as data:
            if not lock(index):
                _log.warning("%s is being written by another process; waiting for it", self.folder)
                lock(index, wait=True)
            _drop_torn_line(index)
            self._read_index()
            yield CacheWriter(self, index, data)

    def _read_index(self) -> None:
        (self.folder / "features.f16").touch()
        index = self.folder / "index.jsonl"
        index.touch()
        whole = (self.folder / "features.f16").stat().st_size // (self.regions * self.feature_size * 2)
        for key, digest, row in _entries(index):
            if row < whole:
                self._enter(key, digest, row)

    def _enter(self, key: Key, digest: str, row: int) -> None:
        self._by_key[key] = self._by_digest[digest] = row
        self._digests[row] = digest
        self._length = max(self._length, row + 1)


class CacheWriter:
    """Adds to a locked cache."""

    def __init__(self, cache: FeatureCache, index: IO[bytes], data: IO[bytes]) -> None:
        self._cache, self._index, self._data = cache, index, data

    def append(self, images: Sequence[tuple[Key, str]], features: Tensor) -> None:
        """Appends the features (B,R,F) of B files, given as keys with content digests."""
        cache = self._cache
        first = len(cache)
        self._data.seek(first * cache.regions * cache.feature_size * 2)
        half = features.float().clamp(-_LARGEST_HALF, _LARGEST_HALF).half().cpu().numpy()
        self._data.write(half.tobytes())
        self._data.flush()
        self._add([(key, digest, first + i) for i, (key, digest) in enumerate(images)])

    def alias(self, images: Sequence[tuple[Key, str]]) -> None:
        """Indexes further files whose content is already in the cache; ignores those whose content is not."""
        rows = self._cache._by_digest
        self._add([(key, digest, rows[digest]) for key, digest in images if digest in rows])

    def _add(self, entries: Sequence[tuple[Key, str, int]]) -> None:
        self._index.seek(0, os.SEEK_END)
        for key, digest, row in entries:
            line = {"digest": digest, "row": row, "path": key.path, "size": key.size, "mtime_ns": key.mtime_ns}
            self._index.write(json.dumps(line).encode() + b"\n")
            self._cache._enter(key, digest, row)
        self._index.flush()


def space_needed(wanted: Iterable[tuple[FeatureCache, Sequence[Path]]]) -> int:
    """The most bytes that the features of files will add to their caches.

    It may be fewer, as only reading a file tells whether its content is in a cache already. `CacheError` where the disk
    has no room even for the files that cannot be.
    """
    most = least = 0
    for cache, paths in wanted:
        rows = {path: cache.row(path) for path in paths}
        missing = sum(row is None for row in rows.values())
        of_others = len(cache) - len({row for row in rows.values() if row is not None})
        size = cache.regions * cache.feature_size * 2
        most, least = most + missing * size, least + max(0, missing - of_others) * size
        free = shutil.disk_usage(cache.folder).free
        if least > free:
            raise CacheError(
                f"the features of {len(rows)} images need {least / 1e9:.1f} GB in {cache.folder}, which has {free / 1e9:.1f} GB free; "
                "make room there (showtell data cache says what features take), name another place as data.cache, or lower cached_views"
            )
    return most


def known_digests(folders: Iterable[Path]) -> dict[Key, str]:
    """The content digests of all files that the caches in `folders` know; those that are no caches know none."""
    indices = (folder / "index.jsonl" for folder in folders)
    return {key: digest for index in indices if index.is_file() for key, digest, _ in _entries(index)}


def holds_features_of(folder: Path, fingerprint: str) -> bool:
    """Whether a folder is a cache of the features of the encoder with this fingerprint."""
    header = folder / "cache.json"
    return header.is_file() and _read_header(header).get("fingerprint") == fingerprint


def _entries(index: Path) -> Iterator[tuple[Key, str, int]]:
    """The files in a cache's index: key, content digest, row."""
    for line in index.read_bytes().splitlines():
        try:
            entry = json.loads(line)
            key = Key(entry["path"], entry["size"], entry["mtime_ns"])
            digest, row = entry["digest"], entry["row"]
        except (ValueError, KeyError, TypeError):  # torn when a process died
            continue
        yield key, digest, row


def _read_header(path: Path) -> dict[str, Any]:
    """The header of a cache; empty if it is damaged."""
    try:
        found = json.loads(path.read_text())
    except ValueError:
        return {}
    return found if isinstance(found, dict) else {}


def _check_header(path: Path, header: dict[str, Any]) -> None:
    if not path.exists():
        if any(path.parent.iterdir()):
            raise CacheError(f"{path.parent} is not a feature cache and not empty; name another folder as data.cache")
        write_whole(path, json.dumps(header))
        return
    found = _read_header(path)
    if found.get("fingerprint") == header["fingerprint"] and found.get("version") != header["version"]:
        raise CacheError(
            f"{path.parent} holds features as another version of showtell wrote them (version {found.get('version')} of the cache, "
            f"expected {header['version']}); delete that folder, and they are encoded anew"
        )
    if any(found.get(key) != value for key, value in header.items()):
        raise CacheError(
            f"{path.parent} holds features of another encoder (other weights, layer, size or transform: fingerprint "
            f"{str(found.get('fingerprint'))[:12]}, expected {header['fingerprint'][:12]}); name another folder as data.cache"
        )


def _drop_torn_line(index: IO[bytes]) -> None:
    index.seek(0)
    content = index.read()
    index.truncate(content.rfind(b"\n") + 1)
