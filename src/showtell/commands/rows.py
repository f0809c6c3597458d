"""Captions as text, JSON lines or CSV: printed, or appended to a file that an interrupted run resumes."""

from __future__ import annotations

import csv
import io
import json
import os
import re
import sys
from collections.abc import Callable, Iterable, Iterator
from pathlib import Path
from typing import TYPE_CHECKING, Any, BinaryIO, Self

import typer

from showtell.commands.inputs import Input
from showtell.commands.terminal import escaped, json_text
from showtell.errors import DataError, check_target
from showtell.paths import lock

if TYPE_CHECKING:
    from showtell.captioning import Caption

_FORMER = "image,rank,caption,log_prob"  # of tables begun by earlier versions
_HEADER = f"{_FORMER},confidence"
_ENDINGS = {".jsonl": "jsonl", ".csv": "csv"}
_BEGUN = re.compile(rb'\{"image": "(?:[^"\\]|\\.)*\\?(?:"(.*))?', re.DOTALL)  # an unfinished JSON record


def check_caption_file(path: Path, n: int) -> str:
    """The format, by its ending, of a file for n captions per image; `DataError` if `CaptionFile` cannot write it."""
    check_target(path, tuple(_ENDINGS), option="--out", appended=True)
    if path.exists() and not path.is_file():
        raise DataError(f"--out {path} is no file; name one that is, or a new one")
    format = _ENDINGS[path.suffix.lower()]
    if format == "csv" and n > 1:
        raise DataError(f"--out {path}: a row an image has no room for --n {n} captions; name a .jsonl")
    return format


class Printer:
    """Prints captions to standard output as they come: exactly, but a terminal gets no control characters."""

    def __init__(self, format: str, n: int) -> None:
        self._rows, self._n = _FORMATS[format], n
        self._shown = escaped if sys.stdout.isatty() else str
        if format == "csv":
            typer.echo(_HEADER)

    def write(self, name: str, caption: Caption) -> None:
        """Prints the n best captions of an image."""
        for line in self._rows(name, caption, self._n):
            typer.echo(self._shown(line), color=True)  # else it would cut out of names what looks like a colour
        sys.stdout.flush()


class CaptionFile:
    """A file of JSON lines or CSV, by its ending, to which captions are appended image by image.

    `done` has the names of the images already in it. An unfinished last record is cut off. Raises `DataError` for a
    file that was not written by this class, and for one that another process is writing.
    """

    def __init__(self, path: Path, n: int) -> None:
        self._table, self._n = check_caption_file(path, n) == "csv", n
        self._path, self._new = path, not path.exists()
        self._file: BinaryIO = path.open("a+b")
        _lock(self._file, path)
        self._file.seek(0)
        self.done: set[str] = set()
        end, self._columns = 0, _HEADER
        for number, record in enumerate(_records(self._file, table=self._table), start=1):
            end += len(record)
            if self._table and number == 1:
                self._columns = _header(path, record)
            else:
                self.done.add(_name(path, number, record, columns=self._columns if self._table else ""))
        self._file.seek(end)
        if not (end or _may_begin(self._file.read(), table=self._table)):
            raise _foreign(path, 1)
        self._file.truncate(end)
        self._empty = end == 0

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *_: object) -> None:
        unused = self._new and self._empty  # nothing was captioned
        if unused and os.name != "nt":  # while it is locked: later, it may be another process's
            self._path.unlink(missing_ok=True)
        self._file.close()
        if unused and os.name == "nt":  # which keeps open files
            self._path.unlink(missing_ok=True)

    def left(self, inputs: Iterable[Input]) -> Iterator[Input]:
        """The inputs that are not in the file yet. `DataError` for an image from standard input, which has no name."""
        for name, source in inputs:
            if isinstance(source, bytes):
                raise DataError(
                    "--out knows images by their names, and one from standard input has none; leave out --out"
                )
            if _text_of(name) not in self.done:
                yield name, source

    def write(self, name: str, caption: Caption) -> None:
        """Writes one image's record, flushed when this returns."""
        rows = _csv(name, caption, self._n, self._columns) if self._table else _jsonl(name, caption, self._n)
        lines = [_HEADER] * (self._table and self._empty) + [*rows]
        self._file.write("".join(f"{line}\n" for line in lines).encode("utf-8", "backslashreplace"))
        self._file.flush()
        self._empty = False


def ranked(best: Caption, n: int) -> list[Caption]:
    """The n best captions of an image, the best first."""
    return [best, *best.alternatives][:n]


def _lock(file: BinaryIO, path: Path) -> None:
    """Locks the file until it is closed, where supported: two processes would cut off each other's rows."""
    try:
        # No name is left of a file that its writer, who had no caption for it, has removed meanwhile.
        free = lock(file) and os.fstat(file.fileno()).st_nlink > 0
    except OSError:  # some network file systems
        return
    if not free:
        raise DataError(f"--out {path} is being written by another process; give each --shard a file of its own")


def _records(file: BinaryIO, *, table: bool) -> Iterator[bytes]:
    """The complete records of a file; a quoted field may contain line breaks."""
    record = b""
    for line in file:
        record += line
        if line.endswith(b"\n") and not (table and record.count(b'"') % 2):
            yield record
            record = b""


def _header(path: Path, record: bytes) -> str:
    """A table's header; `DataError` for one that was never written here."""
    text = record.decode("utf-8", "replace").strip()
    if text not in (_HEADER, _FORMER):
        raise _foreign(path, 1)
    return text


def _name(path: Path, number: int, record: bytes, *, columns: str) -> str:
    """The image of a record, of a table with these columns or of JSON lines; `DataError` if `write` did not write it."""
    try:
        text = record.decode("utf-8")
        if not columns:
            row = json.loads(text)
            row["caption"], row["log_prob"]
            return _text_of(str(row["image"]))
        (cells,) = csv.reader(io.StringIO(text, newline=""))
        image, *others = cells
        if len(others) != columns.count(","):
            raise ValueError
        return image
    except (ValueError, KeyError, TypeError, csv.Error):
        raise _foreign(path, number) from None


def _may_begin(torn: bytes, *, table: bool) -> bool:
    """Whether an unfinished record could be our first: no foreign file is emptied."""
    if table:
        return _HEADER.encode().startswith(torn)
    begun = _BEGUN.fullmatch(torn)
    if begun is None:
        return b'{"image": "'.startswith(torn)
    return begun[1] is None or begun[1][:13] == b', "caption": '[: len(begun[1])]


def _foreign(path: Path, number: int) -> DataError:
    return DataError(f"--out {path}, record {number}, was not written by  showtell caption --out; name another file")


def _text_of(name: str) -> str:
    """A file's name as `CaptionFile` stores it: undecodable bytes are escaped."""
    return name.encode("utf-8", "backslashreplace").decode("utf-8")


def _text(name: str, best: Caption, n: int) -> Iterator[str]:
    yield f"{escaped(name)}: {escaped(best.text)}"
    for other in ranked(best, n)[1:]:
        yield f"    {escaped(other.text)}  ({other.log_prob:.2f})"


def _jsonl(name: str, best: Caption, n: int) -> Iterator[str]:
    value = {"image": name, **_values(best), "words": [{"text": w.text, "log_prob": w.log_prob} for w in best.words]}
    if n > 1:
        value["alternatives"] = [_values(other) for other in ranked(best, n)[1:]]
    yield json_text(value)


def _csv(name: str, best: Caption, n: int, columns: str = _HEADER) -> Iterator[str]:
    for rank, item in enumerate(ranked(best, n), start=1):
        row = io.StringIO()
        cells = [name, rank, item.text, f"{item.log_prob:.6f}", f"{item.confidence:.6f}"][: columns.count(",") + 1]
        csv.writer(row, lineterminator="\r\n").writerow(cells)  # a field with \r or \n is quoted
        yield row.getvalue().removesuffix("\r\n")


def _values(item: Caption) -> dict[str, Any]:
    return {"caption": item.text, "log_prob": item.log_prob, "confidence": item.confidence, "score": item.score}


_FORMATS: dict[str, Callable[[str, Caption, int], Iterator[str]]] = {"text": _text, "jsonl": _jsonl, "csv": _csv}
