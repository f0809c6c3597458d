"""Reads WebDataset's tars, as img2dataset writes them: an image, and a .txt or .json of the same name with captions."""

from __future__ import annotations

import contextlib
import gzip
import os
import tarfile
import zlib
from collections.abc import Iterator
from dataclasses import dataclass, field
from pathlib import PurePosixPath
from typing import IO, Any, cast

from showtell.data.files import decoded_lines, parse_json
from showtell.data.packed import Broken, Columns, Sample, Source, most_unpacked, texts_in
from showtell.data.tables import SPLIT_KEYS, captions_in
from showtell.errors import DataError, first_line
from showtell.images import MAX_BYTES, SUFFIXES
from showtell.progress import Progress

_TEXTS = (".txt", ".text", ".caption")
_LONGEST_TEXT = 1 << 20
_LONGEST_HEADER = 1 << 20
_DAMAGED = (tarfile.TarError, EOFError, zlib.error, gzip.BadGzipFile, ValueError, OverflowError, RecursionError)


@dataclass(slots=True)
class _Told:
    """What is said about one image: the lines of its text, and the captions and split of its JSON."""

    lines: tuple[str, ...] = ()
    captions: tuple[str, ...] = ()
    split: str = ""
    members: dict[str, int] = field(default_factory=dict)  # suffix -> how often there is one
    trouble: str = ""

    def all(self) -> tuple[str, ...]:
        """The text's lines, else what the JSON says; and that too where the lines are one caption with line breaks."""
        one = " ".join(self.captions).split() == " ".join(self.lines).split()
        return self.captions if one or not self.lines else self.lines


def read_tar(source: Source, columns: Columns, progress: Progress) -> Iterator[Sample | Broken]:
    """The samples of a tar: first all texts are read, then one image after the other.

    Members need not lie side by side, as GNU tar does not sort them. Nothing is unpacked under a member's own name, and
    only plain files are read. Raises `DataError` for a file that is no whole tar, or unpacks to far more than it holds.
    """
    told = _read_texts(source, columns, progress)
    pictured = set[str]()
    for tar, member in _members(source, progress, "images"):
        path = PurePosixPath(member.name)
        if path.suffix.lower() not in SUFFIXES:
            continue
        stem, place = str(path.with_suffix("")), f"{source.name}: {member.name}"
        pictured.add(stem)
        about = told.get(stem, _Told())
        if not member.isreg():
            yield Broken(place, "a link or device, expected a file")
        elif about.trouble:
            yield Broken(place, about.trouble)
        elif member.size > MAX_BYTES:
            yield Broken(place, f"{member.size / 2**20:.0f} MiB, expected at most {MAX_BYTES // 2**20}")
        else:
            yield Sample(place, member.name, _content(source, tar, member), about.all(), about.split or source.split)
    for stem, about in told.items():
        if stem not in pictured and (about.all() or about.trouble) and not _is_a_notice(stem):
            yield Broken(f"{source.name}: {stem}{next(iter(about.members))}", "no image of this name")


def _is_a_notice(stem: str) -> bool:
    return PurePosixPath(stem).name.lower().startswith(("readme", "license", "licence"))


def _read_texts(source: Source, columns: Columns, progress: Progress) -> dict[str, _Told]:
    """What the texts and JSONs say, by the path of the image without its suffix."""
    told: dict[str, _Told] = {}
    for tar, member in _members(source, progress, "captions"):
        path = PurePosixPath(member.name)
        suffix = path.suffix.lower()
        if suffix not in (*_TEXTS, ".json") or not member.isreg():
            continue
        about = told.setdefault(str(path.with_suffix("")), _Told())
        about.members[suffix] = about.members.get(suffix, 0) + 1
        if about.members[suffix] > 1:  # whose is which?
            about.trouble = f"there are several {suffix} files of this name, expected one"
        elif member.size > _LONGEST_TEXT:
            about.trouble = f"its {suffix} has {member.size / 2**20:.0f} MiB, expected at most {_LONGEST_TEXT // 2**20}"
        elif suffix == ".json":
            about.captions, about.split = _of_json(_content(source, tar, member), columns)
        elif not columns.captions:
            about.lines += _of_text(_content(source, tar, member))
    return told


def _of_text(raw: bytes) -> tuple[str, ...]:
    lines = [line for _, line in decoded_lines(raw)]
    return tuple(texts_in("\n".join(lines))) if lines[0].lstrip().startswith('["') else tuple(filter(str.strip, lines))


def _of_json(raw: bytes, columns: Columns) -> tuple[tuple[str, ...], str]:
    """The captions and the split that a JSON names; nothing where it is none."""
    try:
        value = parse_json(raw.decode("utf-8-sig"))
    except ValueError:
        return (), ""
    if not isinstance(value, dict):
        return tuple(texts_in(value)), ""
    if columns.captions:
        return tuple(text for key in columns.captions for text in texts_in(value.get(key))), _split(value, columns)
    row = {str(key).lower(): item for key, item in value.items()}
    return tuple(text for item in captions_in(row) or () for text in texts_in(item)), _split(value, columns)


def _split(value: dict[str, object], columns: Columns) -> str:
    found = (value.get(key) for key in ([columns.split] if columns.split else SPLIT_KEYS))
    return next((split for split in found if isinstance(split, str)), "")


def _content(source: Source, tar: tarfile.TarFile, member: tarfile.TarInfo) -> bytes:
    with _damage_named(source), cast(IO[bytes], tar.extractfile(member)) as opened:  # None only for what is no file
        return opened.read()


def _members(source: Source, progress: Progress, what: str) -> Iterator[tuple[tarfile.TarFile, tarfile.TarInfo]]:
    """The members of a tar, packed with gzip or not, without macOS's companions of files."""
    size = source.file.stat().st_size
    with _damage_named(source), source.file.open("rb") as packed:
        zipped = packed.read(2) == b"\x1f\x8b"
        packed.seek(0)
        plain = _Bounded(cast(IO[bytes], gzip.GzipFile(fileobj=packed)) if zipped else packed, size)
        with tarfile.open(fileobj=cast(IO[bytes], plain), mode="r:") as tar:
            offset = -1
            while (member := tar.next()) is not None:
                if tar.offset <= offset:
                    raise tarfile.ReadError("a member has a negative size")
                offset = tar.offset
                cast(Any, tar).members.clear()  # which would grow by a kilobyte for each
                progress(f"{source.name}, {what}", min(packed.tell(), size), size)
                if not PurePosixPath(member.name).name.startswith("._"):
                    plain.left = member.size
                    yield tar, member
                plain.left = _LONGEST_HEADER
            plain.seek(tar.offset)  # tarfile ends in silence at a header that is none
            if plain.read(tarfile.BLOCKSIZE).strip(b"\0"):
                raise tarfile.ReadError(f"there is no header at byte {tar.offset}")


class _Bounded:
    """A binary file of which no more than the `left` bytes may be read, which keeps what headers claim out of memory, and
    none beyond a sane size, which stops decompression bombs."""

    def __init__(self, file: IO[bytes], size: int) -> None:
        self._file = file
        self._most = most_unpacked(size)
        self.left = _LONGEST_HEADER

    def read(self, size: int = -1) -> bytes:
        """At most `size` bytes."""
        if not 0 <= size <= self.left:
            raise tarfile.ReadError(f"a header goes on for {size} bytes")
        content = self._file.read(size)
        self.left -= len(content)
        return content

    def seek(self, offset: int, whence: int = os.SEEK_SET) -> int:
        """Moves to `offset`."""
        if offset > self._most:
            raise tarfile.ReadError(f"it unpacks to more than {self._most / 2**30:.0f} GiB")
        return self._file.seek(offset, whence)

    def tell(self) -> int:
        """Where it is."""
        return self._file.tell()


@contextlib.contextmanager
def _damage_named(source: Source) -> Iterator[None]:
    try:
        yield
    except _DAMAGED as error:
        raise DataError(
            f"{source.file} cannot be read as a tar ({first_line(error)}); fetch it again, or leave it out"
        ) from None
