"""The feature caches on disk: what each takes, and how to remove it. Removed features are encoded again when needed."""

from __future__ import annotations

import contextlib
import json
from collections import Counter
from collections.abc import Iterator
from dataclasses import dataclass
from datetime import UTC, datetime
from pathlib import Path

from showtell.errors import CacheError
from showtell.paths import CACHE_FILES, cache_home, is_cache


@dataclass(frozen=True, slots=True)
class CacheUse:
    """What one encoder's features take: `images` of `regions` × `feature_size` numbers and further `views` of them."""

    folder: Path
    images: int
    regions: int
    feature_size: int
    views: int
    bytes: int  # in all
    written: datetime
    of: str = ""  # the encoder; empty if it was not recorded
    folders: tuple[str, ...] = ()  # of the images, the one with most images first

    @property
    def name(self) -> str:
        """The folder's name: the beginning of the encoder's fingerprint."""
        return self.folder.name

    def line(self) -> str:
        """For people."""
        shape = f"{self.regions} × {self.feature_size}" if self.regions > 1 else f"{self.feature_size}"
        views = f", {self.views} further views" if self.views > 1 else ", a further view" if self.views else ""
        images = f"{self.images} image{'' if self.images == 1 else 's'}"
        line = f"{self.name}  {size(self.bytes):>8}  {images} of {shape}{views}, written {self.written:%Y-%m-%d}"
        others = f" and {len(self.folders) - 1} more" if len(self.folders) > 1 else ""
        told = [self.of] * bool(self.of) + [f"images in {folder}{others}" for folder in self.folders[:1]]
        return f"{line}: {'; '.join(told)}" if told else line

    def to_dict(self) -> dict[str, object]:
        """For programs."""
        return {
            "folder": str(self.folder), "images": self.images, "regions": self.regions, "feature_size": self.feature_size,
            "views": self.views, "bytes": self.bytes, "written": self.written.isoformat(), "of": self.of,
            "image_folders": list(self.folders),
        }  # fmt: skip

    def remove(self) -> None:
        """Deletes the cache and its views; other files, and the folders that hold them, stay."""
        for part in (*_views(self.folder), self.folder):
            for name in CACHE_FILES:
                (part / name).unlink(missing_ok=True)
            with contextlib.suppress(OSError):  # it holds other files
                part.rmdir()


def caches(place: Path | None = None) -> list[CacheUse]:
    """The caches in `place` (by default the user's), or `place` itself if it is one; largest first.

    `CacheError` if there is no such folder.
    """
    if place is not None and not place.is_dir():
        raise CacheError(f"no folder {place}; expected the one that data.cache names")
    place = place or cache_home()
    folders = [place] if is_cache(place) else [f for f in _folders(place) if is_cache(f)]
    return sorted((_use(folder) for folder in folders), key=lambda use: (-use.bytes, use.name))


def choose(found: list[CacheUse], names: list[str]) -> list[CacheUse]:
    """Those whose name begins with one of `names`, or all if it is empty. `CacheError` for a name that fits none."""
    for name in names:
        if not any(use.name.startswith(name) for use in found):
            known = ", ".join(use.name for use in found) or "none"
            raise CacheError(f"no cache '{name}'; there are: {known}")
    return [use for use in found if not names or use.name.startswith(tuple(names))]


def size(count: int) -> str:
    """Bytes for people, in decimal units: 1 GB is 10⁹ bytes."""
    for unit, worth in (("GB", 10**9), ("MB", 10**6)):
        if count >= worth:
            return f"{count / worth:.1f} {unit}"
    return f"{count / 1000:.0f} kB"


def _folders(place: Path) -> Iterator[Path]:
    return (path for path in place.iterdir() if path.is_dir()) if place.is_dir() else iter(())


def _views(folder: Path) -> list[Path]:
    return [path for path in _folders(folder) if is_cache(path)]


def _use(folder: Path) -> CacheUse:
    views = _views(folder)
    files = [part / name for part in (folder, *views) for name in CACHE_FILES if (part / name).is_file()]
    stats = [file.stat() for file in files]
    try:
        header = json.loads((folder / "cache.json").read_bytes())
        regions, feature_size = int(header["regions"]), int(header["feature_size"])
    except (ValueError, KeyError, TypeError):  # damaged: still listed with its size, so that it can be removed
        regions = feature_size = 0
    row = 2 * regions * feature_size
    features = folder / "features.f16"
    images = features.stat().st_size // row if row and features.is_file() else 0
    written = datetime.fromtimestamp(max(stat.st_mtime for stat in stats), UTC)
    told = folder / "of.txt"
    of = told.read_text(encoding="utf-8", errors="replace").strip() if told.is_file() else ""
    taken = sum(stat.st_size for stat in stats)
    return CacheUse(folder, images, regions, feature_size, len(views), taken, written, of, _image_folders(folder))


def _image_folders(folder: Path) -> tuple[str, ...]:
    """The folders that a cache's images were encoded from, by number of images."""
    counted: Counter[str] = Counter()
    with contextlib.suppress(OSError):
        for line in (folder / "index.jsonl").read_bytes().splitlines():
            with contextlib.suppress(ValueError, KeyError, TypeError):  # a torn line
                counted[str(Path(json.loads(line)["path"]).parent)] += 1
    return tuple(path for path, _ in counted.most_common())
