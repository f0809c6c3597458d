"""Captions in tables: CSV, TSV and JSON lines, with columns of many names; nothing here imports torch."""

from __future__ import annotations

import csv
import io
import os
import re
from collections.abc import Collection, Iterable, Iterator, Sequence
from pathlib import Path
from typing import Any, Literal

from showtell.data.draft import Draft
from showtell.data.files import candidates, head, numbered_lines, parse_json, split_in_the_name, split_of_the_folder
from showtell.data.pictures import Pictures
from showtell.data.splits import SPLIT_NAMES
from showtell.delimited import Header
from showtell.errors import meant

# The first of these that a row has is used: file names before numbers.
_IMAGE_KEYS = (
    "image", "file_name", "filename", "file", "path", "img", "image_path", "image_name", "image_file", "image_filename", "file_path",
    "filepath", "img_name", "img_path", "image_id", "name",
)  # fmt: skip
_CAPTION_KEYS = (
    "caption", "captions", "caption_text", "text", "sentence", "sentences", "comment", "description",
)  # fmt: skip
_TITLE_KEYS = ("alt_text", "title")  # also in tables of rights and sources
_STEMS = (*_CAPTION_KEYS, "raw")  # NWPU's; alone it names other things too
_NUMBERED = re.compile(rf"({'|'.join(_STEMS)})[ _.-]?([0-9]{{1,3}})")  # "caption_0", "caption1"; pandas' "caption.1"
_RUN_TOGETHER = re.compile(r"\s*(\d+)\s+(\S.*)")  # a number and its caption
_LONGEST_ROW = 50  # lines
SPLIT_KEYS = ("split", "set", "subset", "fold")


def read_captions(path: Path, root: Path) -> Draft | None:
    """Kaggle's CSV or any other CSV, TSV or JSONL; or several, each named after a split or in a folder that is."""
    tables = _tables(path)
    titles = [file for file, columns in tables.items() if not _hold_captions(columns)]
    return _read([file for file in tables if file not in titles], root, beside=titles)


def read_titles(path: Path, root: Path) -> Draft | None:
    """Tables with titles as captions: for data without other captions."""
    return _read(list(_tables(path)), root)


def find_tables(path: Path) -> list[Path]:
    """The tables at `path` that have a column for the image and one for a caption or title."""
    return list(_tables(path))


def lacking(path: Path) -> str:
    """What the first table at `path` lacks that has a column for the image or one for the caption and not both, or JSON
    lines that have neither; in brackets, empty where there is none."""
    for file in candidates(path, (".csv", ".tsv", ".jsonl")):
        lines = file.suffix == ".jsonl"
        columns = [*dict.fromkeys(filter(None, (_keys if lines else _header)(file)))]
        image = next((column for column in columns if column in _IMAGE_KEYS), None)
        caption = next((column for column in columns if _hold_captions([column])), None)
        what, listed = ("key", "keys") if lines else ("column", "columns")
        if (image is None) != (caption is None):
            wanted, has = ("caption", image) if caption is None else ("image", caption)
            others = [column for column in columns if column != has]
            near = _nearest(others, (wanted, *(_CAPTION_KEYS if caption is None else _IMAGE_KEYS)))
            said = f"the {what} '{has}' and none for the {wanted}: its {listed} are {_shown(columns)}{near}"
            return f" ({file.name} has {said})"
        if lines and columns and image is None:
            return f" ({file.name} has the {listed} {_shown(columns)})"
    return ""


def _nearest(wrong: Iterable[str], names: Sequence[str]) -> str:
    """A question that suggests the nearest of `names` to the first of `wrong` that is near one; empty where none is."""
    asked = (meant(name, names, "") for name in wrong)
    return next((f"; {question}" for question in asked if question), "")


def _shown(columns: Sequence[str]) -> str:
    shown = ", ".join("".join(c for c in column[:40] if c.isprintable()) for column in columns[:8])
    return shown + ", …" * (len(columns) > 8)


def _read(tables: list[Path], root: Path, *, beside: Sequence[Path] = ()) -> Draft | None:
    if not tables:
        return None
    chosen = _a_table_a_split(tables, root) or {"": tables[0]}
    draft = Draft(root, "jsonl" if tables[0].suffix == ".jsonl" else "table (CSV)")
    apart = len({file.parent for file in chosen.values()}) == len(chosen) > 1  # each folder may count its images from 1
    for split, file in chosen.items():
        _read_rows(draft, file, split, within=file.parent.relative_to(root).as_posix() if apart else "")
    for file in (*tables, *beside):
        if file not in chosen.values():
            draft.not_read(file, chosen.values())
    draft.paths = {i: p for i in draft.places if os.path.isfile(p := root / i)}  # False where a name is too long
    draft.find(Pictures(root))
    return draft


def _tables(path: Path) -> dict[Path, set[str]]:
    """The tables at `path` that may hold captions, each with its columns."""
    found = {
        file: set((_keys if file.suffix == ".jsonl" else _header)(file))
        for file in candidates(path, (".jsonl", ".csv", ".tsv", ".txt", ""))
    }
    return {
        file: columns
        for file, columns in found.items()
        if columns & set(_IMAGE_KEYS) and (columns & set(_TITLE_KEYS) or _hold_captions(columns))
    }


def _hold_captions(columns: Iterable[str]) -> bool:
    return any(column in _CAPTION_KEYS or _NUMBERED.fullmatch(column) for column in columns)


def _caption_columns(columns: Sequence[str]) -> list[str]:
    return [column for keys in caption_keys(columns) for column in keys if column in columns]


def _a_table_a_split(tables: list[Path], root: Path) -> dict[str, Path]:
    """Split -> table, if at least two splits are named by tables or their folders, else by parts of table names."""
    for named in (lambda file: _split_named(file, root), split_in_the_name):
        found: dict[str, Path] = {}
        for file in tables:
            if split := named(file):
                found.setdefault(split, file)
        if len(found) > 1:
            return found
    return {}


def _split_named(file: Path, root: Path) -> str:
    return name if (name := file.stem.lower()) in SPLIT_NAMES else split_of_the_folder(file, root)


def _read_rows(draft: Draft, file: Path, split: str, *, within: str) -> None:
    """Reads one table; `split` is for rows that do not give theirs, `within` the folder that image names start from."""
    for number, row in (_json_rows if file.suffix == ".jsonl" else _table_rows)(draft, file):
        image = _value(row, _IMAGE_KEYS)
        captions = captions_in(row)
        if not isinstance(image, str | int | float) or captions is None:
            draft.problem(file, number, "not-a-caption", "expected an image and a caption in this row; it is left out")
            continue
        name = str(image)
        if within not in ("", ".") and not name.startswith(f"{within}/"):
            name = f"{within}/{name}"
        for caption in captions:
            draft.add(name, text_of(caption), file=file, line=number)
        column = next((key for key in SPLIT_KEYS if row.get(key) is not None), SPLIT_KEYS[0])
        said = row.get(column)
        draft.assign(name, split if said in (None, "") else said, file=file, line=number, column=column)
        if split and name not in draft.splits:  # what the row says is no split, and the file's name is
            draft.assign(name, split, file=file, line=number)


def captions_in(row: dict[str, Any]) -> list[Any] | None:
    """A row's captions, of the first keys that have any; an empty one where all are empty, None where there is none.

    Empty ones among several columns are left out.
    """
    empty: list[Any] | None = None
    for keys in caption_keys(row):
        values = [row[key] for key in keys if row.get(key) is not None]
        found = [caption for value in values for caption in (value if isinstance(value, list) else [value])]
        said = [caption for caption in found if not _is_empty(text_of(caption))]
        if said:
            return found if len(keys) == 1 else said
        empty = empty or found[:1] or None
    return empty


def caption_keys(row: Collection[str]) -> Iterator[list[str]]:
    """Keys that belong together: a plain one, then the numbered ones of its kind in their order; without a plain one, also
    those for titles. A plain one is named whether or not it is among the keys of the row."""
    numbered = sorted((int(match[2]), match[1], key) for key in row if (match := _NUMBERED.fullmatch(key)))
    for stem in _STEMS:
        several = [key for _, of, key in numbered if of == stem]
        if several or stem in _CAPTION_KEYS:
            yield [stem, *several]
    if set(row).isdisjoint(_CAPTION_KEYS):
        yield from ([key] for key in _TITLE_KEYS)


def text_of(caption: object) -> object:
    """A caption as its table or JSON has it; for an object, as in Karpathy's JSON, its text or what is there instead."""
    if not isinstance(caption, dict):
        return caption
    text, words = _value(caption, ("raw", *_CAPTION_KEYS)), caption.get("tokens")
    if not text and isinstance(words, list) and all(isinstance(word, str) for word in words):
        return " ".join(words)
    return text


def _is_empty(caption: object) -> bool:
    return isinstance(caption, str) and not caption.strip()


def _header(file: Path) -> list[str]:
    first = head(file).partition("\n")[0].lower()
    return [cell.strip().strip('"') for cell in re.split(r"[,\t;|]", first)]


def _keys(file: Path) -> list[str]:
    """The keys of the first row that is an object."""
    for line in head(file).split("\n"):
        try:
            row = parse_json(line)
        except ValueError:
            if len(line) > 3000:  # a row longer than the head is assumed to be an image with captions
                return [_IMAGE_KEYS[0], _CAPTION_KEYS[0]]
            continue
        if isinstance(row, dict):
            return [str(key).lower() for key in row]
    return []


def _table_rows(draft: Draft, file: Path) -> Iterator[tuple[int, dict[str, Any]]]:
    lines = [line for _, line in numbered_lines(draft, file)]
    header = Header.of(lines[0], _caption_columns)
    delimiter = header.delimiter
    at = 1
    while at < len(lines):
        count = _physical_lines(lines, at, cells=header.width, delimiter=delimiter)
        rows = io.StringIO("\n".join(lines[at : at + max(1, count)]))
        if not count:
            draft.problem(file, at + 1, "quotation-mark", "a quotation mark opens and none closes; read as it stands")
        quoting: Literal[0, 3] = csv.QUOTE_MINIMAL if count else csv.QUOTE_NONE
        try:
            for cells in csv.reader(rows, delimiter=delimiter, quoting=quoting):
                fitted = header.fit(cells)
                if fitted is None:
                    draft.problem(file, at + 1, "surplus-cells", f"{header.misfit(cells)}; it is left out")
                    continue
                if _lacks_one(fitted, header.names):
                    fitted = _taken_apart(draft, file, at + 1, fitted, delimiter)
                if fitted:
                    yield at + 1, dict(zip(header.names, map(str.strip, fitted), strict=False))
        except csv.Error as error:
            draft.problem(file, at + 1, "not-a-caption", f"cannot be read as a row ({error}); it is left out")
        at += max(1, count)


def _lacks_one(cells: Sequence[str], names: Sequence[str]) -> bool:
    """Whether a row that should end with a number and a caption has one cell for both."""
    return len(cells) + 1 == len(names) and names[-2].endswith("number") and names[-1] in _CAPTION_KEYS


def _taken_apart(draft: Draft, file: Path, line: int, cells: list[str], delimiter: str) -> list[str]:
    """The cells of a row, the last one in two if it holds a number and a caption, as in one row of Flickr30k."""
    match = _RUN_TOGETHER.fullmatch(cells[-1])
    if match is None:
        return cells
    number, caption = match.groups()
    message = (
        f"no '{delimiter}' between the number {number} and the caption '{caption.strip()[:40]}'; read as if there were"
    )
    draft.problem(file, line, "no-delimiter", message)
    return [*cells[:-1], number, caption]


def _physical_lines(lines: list[str], at: int, *, cells: int, delimiter: str) -> int:
    """How many lines the row at `at` has: more than one where quotation marks enclose line breaks.

    0: a mark opens and never closes, or closes only at a mark that opens a cell of another row.
    """
    if '"' not in lines[at]:
        return 1
    for end in range(at + 1, min(at + _LONGEST_ROW, len(lines)) + 1):
        try:
            rows = list(csv.reader(io.StringIO("\n".join(lines[at:end])), delimiter=delimiter, strict=True))
        except csv.Error as error:
            if "unexpected end" in str(error):  # the cell is open: the next line may close it
                continue
            return 1 if end == at + 1 else 0
        return end - at if end == at + 1 or [len(row) for row in rows] == [cells] else 0
    return 0


def _json_rows(draft: Draft, file: Path) -> Iterator[tuple[int, dict[str, Any]]]:
    for number, line in numbered_lines(draft, file):
        if not line.strip():
            continue
        try:
            row = parse_json(line)
        except ValueError as error:
            draft.problem(file, number, "not-json", f"not a JSON object ({error}); it is left out")
            continue
        if isinstance(row, dict):
            yield number, {str(key).lower(): value for key, value in row.items()}
        else:
            draft.problem(file, number, "not-json", "no JSON object, expected one in each line; it is left out")


def _value(row: dict[str, Any], keys: tuple[str, ...]) -> Any:
    return next((row[key] for key in keys if row.get(key) is not None), None)
