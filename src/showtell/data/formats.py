"""One reader per format; `read_draft` detects the format by looking at the folder."""

from __future__ import annotations

import itertools
import json
import re
from collections import Counter
from collections.abc import Container, Iterable, Iterator, Mapping
from pathlib import Path
from typing import Any

from showtell.data.annotations import SPLIT_NAMES, Draft
from showtell.data.files import candidates, head, image_folders, numbered_lines, split_in_the_name
from showtell.data.tables import find_tables, read_captions, read_titles
from showtell.errors import DataError
from showtell.images import SUFFIXES

_TOKEN_LINE = re.compile(r"^([^\t]+?)#(\w+)\t(.*)$")
_MISKEYED = re.compile(r"^(.+\.(?:jpe?g|png))\.\d+$", re.IGNORECASE)

LOOKED_FOR = (
    "Flickr's token file with image lists, captions.txt or results.csv (Kaggle), dataset*.json (Karpathy, NWPU), COCO annotation files, "
    "a .csv, .tsv or .jsonl with the columns image and caption, descriptions*.txt, or images with a .txt beside each"
)


def read_draft(path: Path) -> Draft:
    """Everything that a data set says, unchanged. `DataError` for a folder in which nothing is recognised."""
    path = Path(path)
    if not path.exists():
        raise DataError(f"no folder or file {path}; expected a data set: {LOOKED_FOR}")
    root = path if path.is_dir() else path.parent
    for reader in (_read_token_file, _read_json, read_captions, _read_pairs, _read_descriptions, read_titles):
        draft = reader(path, root)
        if draft is not None:
            return draft
    for file in candidates(path, (".json",)):
        _json(file)  # raises, with the reason, if it cannot be read
    names = ", ".join(sorted(p.name for p in root.iterdir())[:6]) or "nothing"
    raise DataError(f"{path} is no data set that showtell knows: found {names}; looked for {LOOKED_FOR}")


def _read_token_file(path: Path, root: Path) -> Draft | None:
    """Flickr8k and Flickr30k as published, or data like them: `name.jpg#0<TAB>caption` lines and image lists."""
    token_files = [p for p in candidates(path, (".txt", ".token", ".csv", "")) if _looks_like_tokens(p)]
    if not token_files:
        return None
    # Flickr8k also has its captions' lemmas, "a man be ride a bike", in a separate file.
    token_file, *others = sorted(token_files, key=lambda p: "lemma" in p.name.lower())
    draft = Draft(root, "flickr (token file)")
    for other in others:
        draft.not_read(other, [token_file])
    for number, line in numbered_lines(draft, token_file):
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
    _read_lists(draft, path, {image: image for image in draft.captions})
    draft.find(image_folders(root))
    return draft


def _read_descriptions(path: Path, root: Path) -> Draft | None:
    """`descriptions*.txt`, lines of an image's name, with or without its suffix, and a caption, and image lists or a split
    in the file's own name: as UCM-Captions and Sydney-Captions first came, and as tutorials keep Flickr8k's captions."""
    files = [p for p in candidates(path, (".txt",)) if p.name.lower().startswith("description")]
    if not files:
        return None
    folders = image_folders(root)
    draft = Draft(root, "descriptions (text)")
    names = {
        key: p.name for folder in folders for p in sorted(folder.iterdir()) if p.suffix.lower() in SUFFIXES
        for key in (p.stem, p.name)
    }  # fmt: skip
    _read_lists(draft, path, names)
    names = {key: image for image in draft.splits for key in (Path(image).stem, image)} | names
    files = [file for file in files if _describes(file, names)]
    whole = [file for file in files if not split_in_the_name(file)]
    chosen = whole[:1] or files
    if not chosen:
        return None
    for file in chosen:
        for number, line in numbered_lines(draft, file):
            if line.strip():
                key, caption = _key_and_caption(line)
                image = names.get(key, key)
                draft.add(image, caption, file=file, line=number)
                draft.assign(image, split_in_the_name(file), file=file, line=number)
    for other in files:
        if other not in chosen:
            draft.not_read(other, chosen)
    draft.find(folders)
    return draft


def _describes(file: Path, names: Container[str]) -> bool:
    """Whether most of the first lines begin with an image's name."""
    lines = [line for line in head(file).splitlines()[:-1] or [head(file)] if line.strip()]
    return 2 * sum(_key_and_caption(line)[0] in names for line in lines) > len(lines)


def _key_and_caption(line: str) -> tuple[str, str]:
    key, _, caption = line.strip().partition("\t" if "\t" in line.strip() else " ")
    return key, caption


def _read_lists(draft: Draft, path: Path, names: Mapping[str, str]) -> None:
    """The lists of images, each with its split in its file's name; `names` are those of images, by what lists call them."""
    for file in candidates(path if path.is_dir() else draft.root, (".txt",)):
        if split := split_in_the_name(file):
            _read_list(draft, file, split, names)


def _read_list(draft: Draft, file: Path, split: str, names: Mapping[str, str]) -> None:
    rows = [(number, line.strip()) for number, line in numbered_lines(draft, file) if line.strip()]
    if not rows or any("\t" in line or " " in line for _, line in rows[:5]):
        return  # captions or something else, not a list of names
    for number, said in rows:
        image = names.get(said) or (said if Path(said).suffix else f"{said}.jpg")
        draft.places.setdefault(image, (draft.name(file), number))
        draft.assign(image, split, file=file, line=number)


def _read_json(path: Path, root: Path) -> Draft | None:
    """Karpathy's JSON, COCO's annotation files, and NWPU-Captions' JSON."""
    objects, by_kind = _objects(path), None
    for file, content in objects:
        if not isinstance(content.get("images"), list) or not content["images"]:
            by_kind = by_kind or ((file, content) if _is_by_kind(content) else None)
            continue
        first = content["images"][0]
        if isinstance(first, dict) and "sentences" in first:
            return _karpathy(root, file, content)
        if isinstance(first, dict) and isinstance(content.get("annotations"), list):
            return _coco(root, itertools.chain([(file, content)], objects))
    return _nwpu(root, *by_kind) if by_kind else None


def _karpathy(root: Path, file: Path, content: dict[str, Any]) -> Draft:
    draft = Draft(root, "karpathy (JSON)")
    folders = image_folders(root)
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


def _is_by_kind(content: Mapping[str, Any]) -> bool:
    """Whether this may be NWPU-Captions: lists of images by kind."""
    lists = [entries for entries in content.values() if isinstance(entries, list)]
    return any(
        isinstance(entry, dict) and {"filename", "raw"} <= entry.keys() for entries in lists for entry in entries
    )


def _nwpu(root: Path, file: Path, content: Mapping[str, Any]) -> Draft:
    """Images by kind; an image's captions are its `raw`, `raw_1`, `raw_2`, … A kind may be a split instead."""
    draft = Draft(root, "nwpu (JSON)")
    entries = []
    for kind, several in content.items():
        for index, entry in enumerate(several if isinstance(several, list) else []):
            if isinstance(entry, dict) and isinstance(entry.get("filename"), str):
                entries.append((kind, index, entry))
            else:
                draft.problem(file, None, "not-an-image", f"{kind}[{index}] has no 'filename'; it is left out")
    times = Counter(name for _, name in {(kind, entry["filename"]) for kind, _, entry in entries})
    for kind, index, entry in entries:
        name = entry["filename"]
        image = name if times[name] == 1 else f"{kind}/{name}"
        draft.places.setdefault(image, (draft.name(file), None))
        for key, value in entry.items():
            if not re.fullmatch(r"raw(_[0-9]+)?", key):
                continue
            if isinstance(value, str | None):
                draft.add(image, value or "", file=file, line=None)
            else:
                draft.problem(file, None, "not-a-caption", f"{kind}[{index}].{key} is no text; it is left out")
        draft.assign(image, entry.get("split") or (kind if kind.lower() in SPLIT_NAMES else None), file=file, line=None)
    draft.find(image_folders(root))
    return draft


def _coco(root: Path, objects: Iterable[tuple[Path, dict[str, Any]]]) -> Draft:
    """captions_train*.json, captions_val*.json: an image's id is COCO's number, its split is in the file's name.

    A train file alone is split anew, as there is nothing to validate on.
    """
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
    by_name = {p.name: p for folder in image_folders(root) for p in folder.iterdir()}
    draft.paths |= {i: by_name[Path(n).name] for i, n in names.items() if Path(n).name in by_name}
    draft.has_splits = bool({*draft.splits.values()} - {"train"})
    return draft


def _read_pairs(path: Path, root: Path) -> Draft | None:
    """Images, each beside a text file of the same name with a caption per line; folders train, val, test are splits."""
    pairs = [(p, p.with_suffix(".txt")) for p in sorted(root.rglob("*")) if p.suffix.lower() in SUFFIXES]
    pairs = [(image, text) for image, text in pairs if text.is_file()]
    if not path.is_dir() or not pairs:
        return None
    draft = Draft(root, "pairs (text beside images)")
    for image, text in pairs:
        name = image.relative_to(root).as_posix()
        draft.paths[name] = image
        rows = list(numbered_lines(draft, text))
        for number, line in rows:
            if line.strip() or len(rows) == 1:
                draft.add(name, line, file=text, line=number)
        first = image.relative_to(root).parts[0].lower()
        if first in SPLIT_NAMES:
            draft.assign(name, first, file=text, line=None)
    for table in find_tables(path):
        draft.not_read(table, [pairs[0][1]])
    return draft


def _looks_like_tokens(file: Path) -> bool:
    return any(_TOKEN_LINE.match(line) for line in head(file).splitlines()[:3])


def _objects(path: Path) -> Iterator[tuple[Path, dict[str, Any]]]:
    """The JSON files that hold an object. Unreadable ones may be anything and are skipped, unless `path` is one."""
    for file in candidates(path, (".json",)):
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
        raise DataError(f"{file} is not JSON ({error}); expected Karpathy's, COCO's or NWPU's annotations") from None
