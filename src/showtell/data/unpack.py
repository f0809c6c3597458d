"""Unpacks Parquet files and tars into a folder of images with one file of captions, which is read like any other."""

from __future__ import annotations

import hashlib
import json
from collections import Counter
from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path

from showtell.data.draft import has_a_word
from showtell.data.files import split_named
from showtell.data.folders import new_folder, safe_name
from showtell.data.packed import (
    PACKED,
    Broken,
    Columns,
    Sample,
    Source,
    most_unpacked,
    packed_files,
    printable,
)
from showtell.data.parquet import read_parquet
from showtell.data.splits import SPLIT_NAMES, SPLITS
from showtell.data.tars import read_tar
from showtell.errors import DataError, ImageError
from showtell.images import MAX_BYTES, SUFFIXES, suffix_of
from showtell.progress import Progress, silent

CAPTIONS = "captions.jsonl"
_SHOWN = 5  # broken samples that are named


@dataclass(frozen=True)
class Unpacked:
    """What was written, and what was not: how many samples were broken, and the first of them."""

    folder: Path
    images: int
    captions: int
    samples: int
    splits: dict[str, int]  # in the order in which they came; "" where there is none
    broken: int
    examples: tuple[Broken, ...]

    def line(self) -> str:
        """For people."""
        parts = ", ".join(f"{count} {split or 'in no split'}" for split, count in self.splits.items())
        split = f" ({parts})" if any(self.splits) else ""
        joined = f", of {self.samples} rows" if self.samples > self.images else ""
        return f"{self.folder}: {self.images} images with {self.captions} captions{joined}{split}"

    def troubles(self) -> Iterator[str]:
        """The broken samples, for people; nothing where there are none."""
        if self.broken:
            yield f"left out, as broken: {self.broken}"
            yield from (f"    {example}" for example in self.examples)
        if self.broken > len(self.examples):
            yield f"    … and {self.broken - len(self.examples)} more"


def unpack(
    sources: Sequence[Path],
    *,
    to: Path,
    columns: Columns = Columns(),  # noqa: B008 (frozen)
    progress: Progress = silent,
) -> Unpacked:
    """Unpacks files, or all that are in folders, into the new folder `to`: `images/` and `captions.jsonl`.

    Images are kept byte for byte; their names are those that they have, made safe and given the suffix of their content.
    Samples of the same image (name, bytes and split) become one with the captions of all. A split is a column's or a
    JSON's, else the one in the name of the file or of a folder that it is in. Broken samples are left out. `to` is there
    in the end or not at all. Raises `DataError` if it is no empty folder, for a file that cannot be read, where it cannot
    be told which columns are meant, and where no sample is whole; `MissingExtraError` for Parquet without the extra.
    """
    found = list(_sources(sources))
    if columns.image and not any(map(_is_parquet, found)):
        raise DataError(f"--image {columns.image}: only Parquet files have columns, and there is none; leave it out")
    broken: list[Broken] = []
    count = samples = 0
    with new_folder(to, DataError) as folder:
        writer = _Writer(folder, room=most_unpacked(sum(source.file.stat().st_size for source in found)))
        for source in found:
            read = read_parquet if _is_parquet(source) else read_tar
            for sample in read(source, columns, progress):
                wrong = sample if isinstance(sample, Broken) else writer.add(sample)
                samples += wrong is None
                if wrong is not None:
                    count += 1
                    broken += [wrong] if len(broken) < _SHOWN else []
        if not writer.records:
            first = f"{count} broken ones, the first: {broken[0]}" if broken else "nothing at all"
            advice = "" if any(map(_is_parquet, found)) else "; an ordinary folder in a tar comes out with  tar -xf"
            raise DataError(f"{_listed(sources)}: no image with a caption, but {first}{advice}")
        writer.finish()
    records = writer.records.values()
    return Unpacked(
        to, len(records), sum(len(record.captions) for record in records), samples, dict(Counter(record.split for record in records)), count, tuple(broken)
    )  # fmt: skip


def _sources(paths: Iterable[Path]) -> Iterator[Source]:
    """The packed files that paths name, each once."""
    seen = set[Path]()
    for path in paths:
        if not path.exists():
            raise DataError(
                f"no file or folder {path}; expected files ending in {', '.join(PACKED)}, or folders of them"
            )
        files = packed_files(path)
        if not files:
            what = "holds no file" if path.is_dir() else "is no file"
            raise DataError(f"{path} {what} to unpack; expected files ending in {', '.join(PACKED)}")
        for file in files:
            if file.resolve() not in seen:
                seen.add(file.resolve())
                _refuse_pointer(file)
                root = path if path.is_dir() else path.parent
                yield Source(file, str(file.relative_to(root)), split_named(file, root), root)


def _is_parquet(source: Source) -> bool:
    return source.file.suffix.lower() == ".parquet"


def _refuse_pointer(file: Path) -> None:
    with file.open("rb") as opened:
        if opened.read(24) == b"version https://git-lfs.":
            raise DataError(f"{file} only says where its content is; fetch that with  git lfs pull")


def _listed(sources: Sequence[Path]) -> str:
    return ", ".join(map(str, sources[:3])) + (", …" if len(sources) > 3 else "")


@dataclass(slots=True)
class _Record:
    file_name: str
    captions: list[str]
    split: str


class _Writer:
    """Writes images as they come, and the captions of all at the end."""

    def __init__(self, folder: Path, *, room: int) -> None:
        self.records: dict[tuple[str, bytes, str], _Record] = {}
        self._folder, self._room = folder, room
        self._taken = Counter[str]()  # names as file systems without capitals see them -> how often they were wanted
        (folder / "images").mkdir()

    def add(self, sample: Sample) -> Broken | None:
        """Keeps a sample; what is wrong with it, if anything is."""
        if not any(map(has_a_word, sample.captions)):
            return Broken(sample.place, "no caption")
        split = SPLIT_NAMES.get(sample.split.strip().lower(), sample.split.strip())
        try:
            content = _content(sample.image)
            key = (sample.name, hashlib.sha256(content).digest(), split)
            if (record := self.records.get(key)) is None:
                name = self._write(sample, content)
                self.records[key] = _Record(name, list(sample.captions), split)
                return None
        except ImageError as error:
            return Broken(sample.place, f"its image cannot be identified ({error})")
        if len(sample.captions) == 1 or list(sample.captions) != record.captions:  # else the same row once more
            record.captions += sample.captions
        return None

    def finish(self) -> None:
        """Writes the captions."""
        # A lone surrogate, half a character, stays what JSON calls it: \ud800
        with (self._folder / CAPTIONS).open("w", encoding="utf-8", errors="backslashreplace", newline="\n") as file:
            for record in self.records.values():
                row = {"file_name": record.file_name, "captions": record.captions}
                # What is no split may be a part of something else; under "split", reading would refuse it.
                row |= {"split" if record.split in SPLITS else "subset": record.split} if record.split else {}
                file.write(json.dumps(row, ensure_ascii=False) + "\n")

    def _write(self, sample: Sample, content: bytes) -> str:
        name = f"images/{self._free(sample.name, suffix_of(content))}"
        if isinstance(sample.image, bytes):
            self._room -= len(content)
        if self._room < 0:
            raise DataError(
                f"{printable(sample.place)}: its file unpacks to far more than pictures do; expected no more than 20 times its size"
            )
        (self._folder / name).write_bytes(content)
        return name

    def _free(self, wanted: str, suffix: str) -> str:
        """A name that no other image has, not even in other capitals; a number where none is wanted."""
        safe = Path(safe_name(wanted) or f"{len(self.records):08d}")
        stem, had = (safe.stem, safe.suffix) if safe.suffix.lower() in SUFFIXES else (safe.name, "")
        ending = had if had.lower() in _SPELT.get(suffix, (suffix,)) else suffix
        name = first = f"{stem}{ending}"
        while self._taken[name.casefold()]:
            self._taken[first.casefold()] += 1
            name = f"{stem}-{self._taken[first.casefold()]}{ending}"
        self._taken[name.casefold()] += 1
        return name


# A suffix -> its spellings
_SPELT = {".jpg": (".jpg", ".jpeg", ".jpe", ".jfif"), ".tif": (".tif", ".tiff"), ".ppm": (".ppm", ".pgm")}


def _content(image: bytes | Path) -> bytes:
    size = len(image) if isinstance(image, bytes) else image.stat().st_size
    if size > MAX_BYTES:
        raise ImageError(f"{size / 2**20:.0f} MiB, expected at most {MAX_BYTES // 2**20}")
    return image if isinstance(image, bytes) else image.read_bytes()
