"""What is in image files: digests of their bytes, and which of them cannot be decoded."""

from __future__ import annotations

import hashlib
from collections.abc import Callable, Iterable, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from pathlib import Path

from showtell.data.features import Key, known_digests
from showtell.errors import ImageError
from showtell.images import open_image


@dataclass(frozen=True, slots=True)
class Failure:
    """An image that cannot be decoded, and why."""

    path: Path
    reason: str


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
    known = known_digests(caches)

    def look_up(path: Path) -> str | None:
        try:
            return known.get(Key.of(path))
        except OSError:
            return ""

    def read(path: Path) -> str:
        try:
            return content_digest(path.read_bytes())
        except OSError:
            return ""

    found = {path: look_up(path) for path in paths}
    missing = [path for path, digest in found.items() if digest is None]
    with ThreadPoolExecutor(workers) as pool:
        for done, (path, digest) in enumerate(zip(missing, pool.map(read, missing), strict=True), start=1):
            found[path] = digest
            progress(done, len(missing))
    return [found[path] or "" for path in paths]


def content_digest(data: bytes) -> str:
    """The digest by which feature caches know a file with this content."""
    return hashlib.blake2b(data, digest_size=16).hexdigest()
