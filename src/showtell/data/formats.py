"""One reader a format; `read_draft` finds out which one by looking at the folder."""

from __future__ import annotations

import csv
import io
import itertools
import json
import re
from collections.abc import Iterable, Iterator
from pathlib import Path
from typing import Any, Literal

from showtell.data.annotations import SPLIT_NAMES, Draft
from showtell.errors import DataError
from showtell.images import SUFFIXES

_TOKEN_LINE = re.compile(r"^([^\t]+?)#(\w+)\t(.*)$")
_MISKEYED = re.compile(r"^(.+\.(?:jpe?g|png))\.\d+$", re.IGNORECASE)
_LIST_NAME = re.compile(
    r"(train|dev|val|test)[_.-]?images?|(?:^|[_.-])(train|dev|val|valid|validation|test)(?:[_.-]|$)", re.IGNORECASE
)
# The first of them that a row has counts: files before numbers, what was written as a caption before what else tells of the image.
_IMAGE_KEYS = (
    "image", "file_name", "filename", "image_name", "image_file", "image_filename", "file", "image_path", "path", "file_path", "filepath",
    "img", "img_name", "img_path", "image_id", "name",
)  # fmt: skip
_CAPTION_KEYS = (
    "caption", "captions", "caption_text", "text", "sentence", "sentences", "comment", "description", "alt_text", "title",
)  # fmt: skip
_RUN_TOGETHER = re.compile(r"\s*(\d+)\s+(\S.*)")  # a caption and its number
_LONGEST_ROW = 50  # lines
_SPLIT_KEYS = ("split", "set", "subset", "fold")

LOOKED_FOR = (
    "Flickr's token file with image lists, captions.txt or results.csv (Kaggle), dataset*.json (Karpathy), COCO annotation files, "
    "a .csv, .tsv or .jsonl with the columns image and caption, or images with a .txt beside each"
)


def read_draft(path: Path) -> Draft:
    """Everything a data set says, as it says it. `DataError` for a folder in which nothing is recognised."""
    path = Path(path)
    if not path.exists():
        raise DataError(f"no folder or file {path}; expected a data set: {LOOKED_FOR}")
    root = path if path.is_dir() else path.parent
    for reader in (_read_token_file, _read_json, _read_table, _read_pairs):
        draft = reader(path, root)
        if draft is not None:
            return draft
    for file in _files(path, (".json",)):
        _json(file)  # says what is wrong with one that cannot be read
    names = ", ".join(sorted(p.name for p in root.iterdir())[:6]) or "nothing"
    raise DataError(f"{path} is no data set that showtell knows: found {names}; looked for {LOOKED_FOR}")


def _read_token_file(path: Path, root: Path) -> Draft | None:
    """Flickr8k and Flickr30k as published, and the seed's layout: `name.jpg#0<TAB>caption` lines and image lists."""
    token_files = [p for p in _files(path, (".txt", ".token", ".csv", "")) if _looks_like_tokens(p)]
    if not token_files:
        return None
    # Flickr8k comes with its captions' lemmas, "a man be ride a bike", in a file of their own.
    token_file, *others = sorted(token_files, key=lambda p: "lemma" in p.name.lower())
    draft = Draft(root, "flickr (token file)")
    for other in others:
        _not_read(draft, other, [token_file])
    for number, line in _lines(draft, token_file):
        match = _TOKEN_LINE.match(line)
        if match is None:
            if line.strip():
                draft.problem(token_file, number, "not-a-caption", f"expected NAME#N<TAB>CAPTION, found '{line[:40]}'")
            continue
        image, caption = match[1], match[3]
        if (wrong := _MISKEYED.match(image)) is not None:
            draft.problem(token_file, number, "mis-keyed", f"the key {image} is mis-keyed; read as {wrong[1]}")
            image = wrong[1]
        draft.add(image, caption, file=token_file, line=number)
    for file in _files(path if path.is_dir() else root, (".txt",)):
        if file != token_file and (split := _split_in_the_name(file)):
            _read_list(draft, file, split)
    draft.find(_image_folders(root))
    return draft


def _read_list(draft: Draft, file: Path, split: str) -> None:
    rows = [(number, line.strip()) for number, line in _lines(draft, file) if line.strip()]
    if not rows or any("\t" in line or " " in line for _, line in rows[:5]):
        return  # captions or something else, not a list of names
    for number, image in rows:
        image = image if image in draft.captions or Path(image).suffix else f"{image}.jpg"
        draft.places.setdefault(image, (draft.name(file), number))
        draft.assign(image, split, file=file, line=number)


def _read_json(path: Path, root: Path) -> Draft | None:
    """Karpathy's JSON and COCO's annotation files."""
    objects = _objects(path)
    for file, content in objects:
        if not isinstance(content.get("images"), list) or not content["images"]:
            continue
        first = content["images"][0]
        if isinstance(first, dict) and "sentences" in first:
            return _karpathy(root, file, content)
        if isinstance(first, dict) and isinstance(content.get("annotations"), list):
            return _coco(root, itertools.chain([(file, content)], objects))
    return None


def _karpathy(root: Path, file: Path, content: dict[str, Any]) -> Draft:
    draft = Draft(root, "karpathy (JSON)")
    folders = _image_folders(root)
    for index, entry in enumerate(content["images"]):
        if not isinstance(entry, dict) or "filename" not in entry:
            draft.problem(file, None, "not-an-image", f"images[{index}] has no 'filename'; it is left out")
            continue
        image = str(entry["filename"])
        for sentence in entry.get("sentences", []):
            draft.add(image, str(sentence.get("raw") or " ".join(sentence.get("tokens", []))), file=file, line=None)
        draft.places.setdefault(image, (draft.name(file), None))
        draft.assign(image, entry.get("split"), file=file, line=None)
        if entry.get("filepath"):
            nested = (f / entry["filepath"] / image for f in (root, *folders))
            found = next((p for p in nested if p.is_file()), None)
            draft.paths |= {image: found} if found else {}
    draft.find(folders)
    return draft


def _coco(root: Path, objects: Iterable[tuple[Path, dict[str, Any]]]) -> Draft:
    """captions_train*.json, captions_val*.json: the id of an image is COCO's number, its split the file's name. A train file alone is
    split anew, as there is nothing to validate on."""
    draft = Draft(root, "coco (JSON)")
    names: dict[str, str] = {}
    for file, content in objects:
        if "annotations" not in content or "images" not in content:
            continue
        for entry in content["images"]:
            names[str(entry["id"])] = str(entry["file_name"])
            if (match := re.search(r"train|val|dev|test", file.stem, re.IGNORECASE)) is not None:
                draft.assign(str(entry["id"]), match[0], file=file, line=None)
        for entry in content["annotations"]:
            if "caption" in entry:
                draft.add(str(entry["image_id"]), str(entry["caption"]), file=file, line=None)
    by_name = {p.name: p for folder in _image_folders(root) for p in folder.iterdir()}
    draft.paths |= {i: by_name[Path(n).name] for i, n in names.items() if Path(n).name in by_name}
    draft.has_splits = bool({*draft.splits.values()} - {"train"})
    return draft


def _read_table(path: Path, root: Path) -> Draft | None:
    """Kaggle's CSV and one's own CSV, TSV or JSONL; or several, each called or lying in a folder called as a split is."""
    suffixes = (".jsonl", ".csv", ".tsv", ".txt", "")
    tables = [
        file for file in _files(path, suffixes) if (_is_json_rows if file.suffix == ".jsonl" else _has_header)(file)
    ]
    if not tables:
        return None
    chosen = _a_table_a_split(tables, root) or {"": tables[0]}
    draft = Draft(root, "jsonl" if tables[0].suffix == ".jsonl" else "table (CSV)")
    apart = len({file.parent for file in chosen.values()}) == len(chosen) > 1  # each folder may count its images from 1
    for split, file in chosen.items():
        _read_rows(draft, file, split, within=file.parent.relative_to(root).as_posix() if apart else "")
    for file in tables:
        if file not in chosen.values():
            _not_read(draft, file, chosen.values())
    draft.paths = {i: p for i in draft.places if (p := root / i).is_file()}
    draft.find(_image_folders(root))
    return draft


def _not_read(draft: Draft, file: Path, instead: Iterable[Path]) -> None:
    read = " and ".join(draft.name(other) for other in instead)
    draft.problem(file, None, "unread-table", f"looks like captions too and is not read, as {read} is")


def _a_table_a_split(tables: list[Path], root: Path) -> dict[str, Path]:
    """Of tables those that are each of another split, two at least, by their names or their folders'; else by parts of their names."""
    for named in (lambda file: _split_named(file, root), _split_in_the_name):
        found: dict[str, Path] = {}
        for file in tables:
            if split := named(file):
                found.setdefault(split, file)
        if len(found) > 1:
            return found
    return {}


def _split_named(file: Path, root: Path) -> str:
    names = (file.stem.lower(), file.parent.name.lower() if file.parent != root else "")
    return next((name for name in names if name in SPLIT_NAMES), "")


def _split_in_the_name(file: Path) -> str:
    match = _LIST_NAME.search(file.stem)
    return (match[1] or match[2]).lower() if match else ""


def _read_rows(draft: Draft, file: Path, split: str, *, within: str) -> None:
    """One table; `split` is that of rows which do not say theirs, `within` the folder that its images are named in."""
    for number, row in (_json_rows if file.suffix == ".jsonl" else _table_rows)(draft, file):
        image, captions = _value(row, _IMAGE_KEYS), _value(row, _CAPTION_KEYS)
        if image is None or captions is None:
            draft.problem(file, number, "not-a-caption", "expected an image and a caption in this row; it is left out")
            continue
        name = str(image).strip()
        if within not in ("", ".") and not name.startswith(f"{within}/"):
            name = f"{within}/{name}"
        for caption in captions if isinstance(captions, list) else [captions]:
            draft.add(name, _text(caption), file=file, line=number)
        draft.assign(name, _value(row, _SPLIT_KEYS) or split, file=file, line=number)


def _text(caption: Any) -> str:
    """A caption as text; of an object, as Karpathy's JSON has them, its text."""
    if isinstance(caption, dict):
        words = caption.get("tokens")
        return str(
            _value(caption, ("raw", *_CAPTION_KEYS)) or (" ".join(map(str, words)) if isinstance(words, list) else "")
        )
    return str(caption)


def _read_pairs(path: Path, root: Path) -> Draft | None:
    """Images with a text file of the same name beside each, one caption a line; folders train, val, test are splits."""
    pairs = [(p, p.with_suffix(".txt")) for p in sorted(root.rglob("*")) if p.suffix.lower() in SUFFIXES]
    pairs = [(image, text) for image, text in pairs if text.is_file()]
    if not path.is_dir() or not pairs:
        return None
    draft = Draft(root, "pairs (text beside images)")
    for image, text in pairs:
        name = image.relative_to(root).as_posix()
        draft.paths[name] = image
        rows = list(_lines(draft, text))
        for number, line in rows:
            if line.strip() or len(rows) == 1:
                draft.add(name, line, file=text, line=number)
        first = image.relative_to(root).parts[0].lower()
        if first in SPLIT_NAMES:
            draft.assign(name, first, file=text, line=None)
    return draft


def _files(path: Path, suffixes: tuple[str, ...]) -> list[Path]:
    """Candidates: the file itself, or what lies in the folder and one level below it; the nearest first."""
    if path.is_file():
        return [path] if path.suffix.lower() in suffixes else []
    near = sorted(p for p in path.iterdir() if p.is_file())
    folders = sorted(p for p in path.iterdir() if p.is_dir() and not p.name.startswith("."))
    below = [p for folder in folders for p in sorted(folder.iterdir()) if p.is_file()]
    left_out = ("readme", "._")  # which macOS writes beside a file
    return [p for p in near + below if p.suffix.lower() in suffixes and not p.name.lower().startswith(left_out)]


def _image_folders(root: Path) -> list[Path]:
    """The folder and those up to two levels below, for looking images up by name; beside it, where it has no folders."""
    if not any(p.is_dir() for p in root.iterdir()) and not any(p.suffix.lower() in SUFFIXES for p in root.iterdir()):
        root = root.parent
    folders = [root]
    for level in (1, 2):
        del level
        folders += [
            p
            for f in list(folders)
            for p in sorted(f.iterdir())
            if p.is_dir() and p not in folders and p.name[0] != "."
        ]
    return folders


def _head(file: Path) -> str:
    """The beginning of a file as text, whatever its encoding."""
    with file.open("rb") as opened:
        raw = opened.read(4096)
    encoding = "utf-16" if raw[:2] in (b"\xff\xfe", b"\xfe\xff") else "utf-8-sig"
    return raw.decode(encoding, "replace")


def _looks_like_tokens(file: Path) -> bool:
    return any(_TOKEN_LINE.match(line) for line in _head(file).splitlines()[:3])


def _has_header(file: Path) -> bool:
    first = _head(file).partition("\n")[0].lower()
    cells = [cell.strip().strip('"') for cell in re.split(r"[,\t;|]", first)]
    return any(c in _IMAGE_KEYS for c in cells) and any(c in _CAPTION_KEYS for c in cells)


def _is_json_rows(file: Path) -> bool:
    first = _head(file).lstrip().partition("\n")[0]
    try:
        row = json.loads(first)
    except ValueError:
        return len(first) > 3000  # a long row, of which the head is but the beginning
    keys = {str(key).lower() for key in row} if isinstance(row, dict) else set()
    return bool(keys & set(_IMAGE_KEYS) and keys & set(_CAPTION_KEYS))


def _table_rows(draft: Draft, file: Path) -> Iterator[tuple[int, dict[str, Any]]]:
    lines = [line for _, line in _lines(draft, file)]
    delimiter = next((d for d in "\t,;|" if d in lines[0]), ",")
    header = [cell.strip().lower() for cell in next(csv.reader([lines[0]], delimiter=delimiter))]
    at = 1
    while at < len(lines):
        count = _physical_lines(lines, at, cells=len(header), delimiter=delimiter)
        rows = io.StringIO("\n".join(lines[at : at + max(1, count)]))
        if not count:
            draft.problem(file, at + 1, "quotation-mark", "a quotation mark opens and none closes; read as it stands")
        quoting: Literal[0, 3] = csv.QUOTE_MINIMAL if count else csv.QUOTE_NONE
        try:
            for cells in csv.reader(rows, delimiter=delimiter, quoting=quoting):
                if len(cells) > len(header) == 2:  # a caption with commas that nobody quoted
                    cells = [cells[0], delimiter.join(cells[1:])]
                if len(cells) + 1 == len(header) and header[-2].endswith("number") and header[-1] in _CAPTION_KEYS:
                    cells = _taken_apart(draft, file, at + 1, cells, delimiter)
                if cells:
                    yield at + 1, dict(zip(header, cells, strict=False))
        except csv.Error as error:
            draft.problem(file, at + 1, "not-a-caption", f"cannot be read as a row ({error}); it is left out")
        at += max(1, count)


def _taken_apart(draft: Draft, file: Path, line: int, cells: list[str], delimiter: str) -> list[str]:
    """The cells of a row, its last one as two where a caption and its number lie in it, as in one row of Flickr30k."""
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
    """How many lines the row that begins there has: more than one where quotation marks hold line breaks. 0: one that opens and is never
    closed, or closed only by a mark that opens a cell of another row."""
    if '"' not in lines[at]:
        return 1
    for end in range(at + 1, min(at + _LONGEST_ROW, len(lines)) + 1):
        try:
            rows = list(csv.reader(io.StringIO("\n".join(lines[at:end])), delimiter=delimiter, strict=True))
        except csv.Error as error:
            if "unexpected end" in str(error):  # an open cell: the next line may close it
                continue
            return 1 if end == at + 1 else 0
        return end - at if end == at + 1 or [len(row) for row in rows] == [cells] else 0
    return 0


def _json_rows(draft: Draft, file: Path) -> Iterator[tuple[int, dict[str, Any]]]:
    for number, line in _lines(draft, file):
        if not line.strip():
            continue
        try:
            row = json.loads(line)
        except ValueError as error:
            draft.problem(file, number, "not-json", f"not a JSON object ({error}); it is left out")
            continue
        if isinstance(row, dict):
            yield number, {str(key).lower(): value for key, value in row.items()}


def _value(row: dict[str, Any], keys: tuple[str, ...]) -> Any:
    return next((row[key] for key in keys if row.get(key) is not None), None)


def _lines(draft: Draft, file: Path) -> Iterator[tuple[int, str]]:
    """Numbered lines as text; one that is not UTF-8 is read as Windows-1252 and noted."""
    raw = file.read_bytes()
    if raw[:2] in (b"\xff\xfe", b"\xfe\xff"):
        draft.problem(file, None, "encoding", "UTF-16, expected UTF-8; read all the same")
        raw = raw.decode("utf-16").encode()
    for number, line in enumerate(raw.removeprefix(b"\xef\xbb\xbf").split(b"\n"), start=1):
        line = line.removesuffix(b"\r")
        if number > 1 and not line and number == raw.count(b"\n") + 1:
            return
        try:
            yield number, line.decode("utf-8")
        except UnicodeDecodeError:
            draft.problem(file, number, "encoding", "not UTF-8; read as Windows-1252")
            yield number, line.decode("cp1252", "replace")


def _objects(path: Path) -> Iterator[tuple[Path, dict[str, Any]]]:
    """The JSON files that hold an object. Anything may lie beside captions: one that cannot be read is passed over, unless `path` is it."""
    for file in _files(path, (".json",)):
        try:
            content = _json(file) if file.stat().st_size < 2**31 else None
        except DataError:
            if path.is_file():
                raise
            continue
        if isinstance(content, dict):
            yield file, content


def _json(file: Path) -> Any:
    try:
        return json.loads(file.read_text(encoding="utf-8-sig"))
    except (ValueError, UnicodeDecodeError) as error:
        raise DataError(f"{file} is not JSON ({error}); expected Karpathy's or COCO's annotations") from None
