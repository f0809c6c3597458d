"""The feature cache: every image is encoded once, stored in half precision and memory-mapped.

A cache is a folder: `cache.json` (which encoder's features these are), `features.f16` (rows of R·F numbers) and
`index.jsonl` (one line per image: content digest, row, path, size, time). Rows are written before their lines, so a
process that dies leaves at worst rows without a line, which the next one overwrites. Images are identified by content,
so that they are found again in another folder, split or data set.
"""

from __future__ import annotations

import contextlib
import hashlib
import json
import logging
import os
import shutil
from collections import deque
from collections.abc import Callable, Iterable, Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from pathlib import Path
from typing import IO, Any, Protocol

import numpy as np
import torch
from numpy.typing import NDArray
from PIL.Image import Image
from torch import Tensor

from showtell.errors import CacheError, ImageError
from showtell.images import open_image
from showtell.paths import write_whole


class Transform(Protocol):
    """An `ImageTransform`, or an `AugmentedView` with one."""

    def __call__(self, image: Image, /) -> NDArray[np.float32]:
        """An RGB image -> (3,S,S), normalised."""

    @property
    def enough(self) -> int:
        """The pixels to ask `open_image` for."""


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
            _lock(index, self.folder)
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


@dataclass(frozen=True, slots=True)
class Failure:
    """An image that could not be encoded, and why."""

    path: Path
    reason: str


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


def encode_into(
    cache: FeatureCache,
    paths: Sequence[Path],
    *,
    encode: Callable[[Tensor], Tensor],
    transform: Transform,
    batch: int = 32,
    workers: int = 2,
    ahead: int = 0,
    progress: Callable[[int, int], None] = lambda done, total: None,
) -> list[Failure]:
    """Encodes the images that `cache` does not have yet; returns those that cannot be decoded.

    `encode` maps normalised images (B,3,S,S) to features (B,R,F). Threads decode `ahead` batches before the encoder:
    with 0 the two take turns, which is faster where they would compete for the same cores. Memory stays flat.
    `progress` receives (images done, images to do).
    """
    missing = [path for path in dict.fromkeys(paths) if cache.row(path) is None]
    progress(0, len(missing))
    if not missing:
        return []
    failures: list[Failure] = []
    known: dict[Path, _Loaded] = {}
    done = 0
    with cache.writer() as writer, ThreadPoolExecutor(workers) as pool:
        chunks = [missing[i : i + batch] for i in range(0, len(missing), batch)]
        for chunk, loaded in zip(chunks, _decoded(pool, chunks, ahead, cache, transform), strict=True):
            pairs = zip(chunk, loaded, strict=True)
            failures += [item for item in loaded if isinstance(item, Failure)]
            known |= {path: item for path, item in pairs if isinstance(item, _Loaded) and item.pixels is None}
            fresh = [(item, item.pixels) for item in loaded if isinstance(item, _Loaded) and item.pixels is not None]
            if fresh:
                features = encode(torch.from_numpy(np.stack([pixels for _, pixels in fresh])))
                writer.append([(item.key, item.digest) for item, _ in fresh], features)
            done += len(loaded)
            progress(done, len(missing))
        writer.alias([(item.key, item.digest) for item in known.values()])
    copies = [path for path, item in known.items() if not cache.knows(item.digest)]  # of broken images
    place = {path: index for index, path in enumerate(missing)}
    return sorted([*failures, *find_broken(copies, workers=workers)], key=lambda failure: place[failure.path])


def encode_rows(
    cache: FeatureCache,
    paths: Sequence[Path],
    *,
    source: FeatureCache,
    encode: Callable[[Tensor], Tensor],
    batch: int = 32,
    progress: Callable[[int, int], None] = lambda done, total: None,
) -> None:
    """`encode_into` from the features in `source` instead of images: `encode` maps (B,R',F') to (B,R,F).

    Images that `source` does not have are left out.
    """
    missing = [path for path in dict.fromkeys(paths) if cache.row(path) is None and source.row(path) is not None]
    if not missing:
        return
    with cache.writer() as writer:
        begun = [(Key.of(path), row) for path in missing if (row := source.row(path)) is not None]
        found = [(key, source.digest_of(row)) for key, row in begun]
        fresh = {
            digest: (key, row) for (key, row), (_, digest) in zip(begun, found, strict=True) if not cache.knows(digest)
        }
        new = [(key, digest, row) for digest, (key, row) in fresh.items()]
        for i in range(0, len(new), batch):
            part = new[i : i + batch]
            features = encode(source.rows([row for _, _, row in part]))
            writer.append([(key, digest) for key, digest, _ in part], features)
            progress(min(i + batch, len(new)), len(new))
        writer.alias(found)


def find_broken(
    paths: Sequence[Path], *, workers: int = 2, progress: Callable[[int, int], None] = lambda done, total: None
) -> list[Failure]:
    """The images that cannot be decoded: training has to know them beforehand if it fills no cache."""

    def check(path: Path) -> Failure | None:
        try:
            open_image(path, enough=1)
        except (ImageError, OSError) as error:
            return Failure(path, str(error))
        return None

    failures = []
    with ThreadPoolExecutor(workers) as pool:
        for done, failure in enumerate(pool.map(check, paths), start=1):
            failures += [failure] if failure else []
            progress(done, len(paths))
    return failures


def content_digests(
    paths: Sequence[Path],
    *,
    caches: Iterable[Path],
    workers: int = 2,
    progress: Callable[[int, int], None] = lambda done, total: None,
) -> list[str]:
    """The digest of each file's content; empty for one that cannot be read. Files that a cache in one of the folders
    `caches` knows as they are now are not read again; `progress` counts those that are."""
    indices = (folder / "index.jsonl" for folder in caches)
    known = {key: digest for index in indices if index.is_file() for key, digest, _ in _entries(index)}

    def look_up(path: Path) -> str | None:
        try:
            return known.get(Key.of(path))
        except OSError:
            return ""

    def read(path: Path) -> str:
        try:
            return _digest(path.read_bytes())
        except OSError:
            return ""

    found = {path: look_up(path) for path in paths}
    missing = [path for path, digest in found.items() if digest is None]
    with ThreadPoolExecutor(workers) as pool:
        for done, (path, digest) in enumerate(zip(missing, pool.map(read, missing), strict=True), start=1):
            found[path] = digest
            progress(done, len(missing))
    return [found[path] or "" for path in paths]


def encode_all(
    paths: Sequence[Path],
    *,
    encode: Callable[[Tensor], Tensor],
    transform: Transform,
    batch: int = 32,
    workers: int = 2,
) -> Iterator[Tensor]:
    """Features (B,R,F) of `paths`, batch by batch, without a cache: for validation while the CNN itself is trained."""

    def load(path: Path) -> NDArray[np.float32]:
        return transform(open_image(path, enough=transform.enough))

    chunks = [paths[start : start + batch] for start in range(0, len(paths), batch)]
    with ThreadPoolExecutor(workers) as pool:
        waiting = deque(pool.map(load, chunk) for chunk in chunks[:1])
        for index in range(len(chunks)):
            waiting.extend(pool.map(load, ahead) for ahead in chunks[index + 1 : index + 2])
            yield encode(torch.from_numpy(np.stack(list(waiting.popleft()))))


@dataclass(frozen=True, slots=True)
class _Loaded:
    """A file that was read; no pixels if its content is already in the cache or came earlier in this pass."""

    key: Key
    digest: str
    pixels: NDArray[np.float32] | None


def _decoded(
    pool: ThreadPoolExecutor, chunks: list[list[Path]], ahead: int, cache: FeatureCache, transform: Transform
) -> Iterator[list[_Loaded | Failure]]:
    first: dict[str, Path] = {}  # of the files with a content, the one whose pixels are encoded

    def load(path: Path) -> _Loaded | Failure:
        try:
            key, data = Key.of(path), path.read_bytes()
            digest = _digest(data)
            if cache.knows(digest) or first.setdefault(digest, path) is not path:  # in one step, as threads do this
                return _Loaded(key, digest, None)
            return _Loaded(key, digest, transform(open_image(data, name=str(path), enough=transform.enough)))
        except (ImageError, OSError) as error:
            return Failure(path, str(error))

    waiting = []
    for chunk in chunks:
        waiting.append([pool.submit(load, path) for path in chunk])
        if len(waiting) > ahead:
            yield [future.result() for future in waiting.pop(0)]
    for futures in waiting:
        yield [future.result() for future in futures]


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


def _digest(data: bytes) -> str:
    return hashlib.blake2b(data, digest_size=16).hexdigest()


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


def _lock(file: IO[bytes], folder: Path) -> None:
    """Waits until no other process writes. The lock ends when the file is closed or its process dies."""
    try:
        import fcntl
    except ImportError:  # not on Windows
        return
    try:
        fcntl.flock(file, fcntl.LOCK_EX | fcntl.LOCK_NB)
    except BlockingIOError:
        _log.warning("%s is being written by another process; waiting for it", folder)
        fcntl.flock(file, fcntl.LOCK_EX)


def _drop_torn_line(index: IO[bytes]) -> None:
    index.seek(0)
    content = index.read()
    index.truncate(content.rfind(b"\n") + 1)
