"""One reader per format; `read_draft` detects the format by looking at the folder."""

from __future__ import annotations

import itertools
import re
from collections import Counter
from collections.abc import Collection, Container, Iterable, Iterator
from pathlib import Path
from typing import Any

from showtell.data.coco import read_coco
from showtell.data.draft import Draft
from showtell.data.files import candidates, head, numbered_lines, parse_json, split_in_the_name
from showtell.data.packed import packed_files
from showtell.data.pictures import Pictures, does_not_read
from showtell.data.splits import SPLIT_NAMES
from showtell.data.tables import find_tables, lacking, read_captions, read_titles, text_of
from showtell.errors import DataError
from showtell.images import SUFFIXES, UNREAD

_TOKEN_LINE = re.compile(r"^([^\t]+?)#(\w+)\t(.*)$")
_MISKEYED = re.compile(r"^(.+\.(?:jpe?g|png))\.\d+$", re.IGNORECASE)

LOOKED_FOR = (
    "Flickr's token file with image lists, captions.txt or results.csv (Kaggle), dataset*.json (Karpathy, NWPU), COCO's "
    "annotation files, a .csv, .tsv or .jsonl with the columns image and caption, images with a .txt beside each, or "
    "description*.txt with an image's name and a caption a line"
)


def read_draft(path: Path) -> Draft:
    """Everything that a data set says, unchanged. `DataError` for a folder in which nothing is recognised."""
    path = Path(path)
    if not path.exists():
        raise DataError(f"no folder or file {path}; expected a data set: {LOOKED_FOR}")
    root = path if path.is_dir() else path.parent
    for reader in (
        _read_token_file, _read_json, read_captions, _read_pairs, _read_nwpu, read_titles, _read_descriptions,
    ):  # fmt: skip
        draft = reader(path, root)
        if draft is not None:
            return draft
    if packed := packed_files(path, depth=2):
        raise DataError(
            f"{path} {'is' if path.is_file() else 'has'} packed data, as {packed[0].suffix} files are; unpack it first:  "
            f"showtell data unpack {path} --to DIR"
            + ("" if path.is_file() else f"  (if they are none, expected {LOOKED_FOR})")
        )
    for file in candidates(path, (".json",)):
        _json(file)  # raises, with the reason, if it cannot be read
    there = sorted(root.iterdir(), key=lambda p: (p.suffix.lower() in SUFFIXES, p.name))
    names = ", ".join(p.name for p in there[:6]) or "nothing"
    told = lacking(path) or _first_of_a_table(path) or _unread_pictures(there)
    raise DataError(f"{path} is no data set that showtell knows: found {names}{told}; looked for {LOOKED_FOR}")


def _first_of_a_table(path: Path) -> str:
    tables = candidates(path, (".csv", ".tsv"))
    return f" ({tables[0].name} begins with '{_first_line(tables[0])}')" if tables else ""


def _unread_pictures(there: Iterable[Path]) -> str:
    picture = next((p for p in there if p.suffix.lower() in UNREAD), None)
    return f" ({picture.name} is a picture, and showtell {does_not_read(picture)})" if picture else ""


def _first_line(file: Path) -> str:
    line = "".join(c for c in head(file).partition("\n")[0] if c.isprintable())
    return line if len(line) <= 60 else f"{line[:60]}…"


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
    known = {name for image in draft.captions for name in (image, Path(image).stem)}
    for file, number, said, split in _lists(draft, path, known, but=[token_file]):
        image = said if said in draft.captions or Path(said).suffix else f"{said}.jpg"
        _enlist(draft, image, split, file, number)
    draft.find(Pictures(root))
    return draft


def _lists(
    draft: Draft, path: Path, known: Container[str], *, but: Collection[Path]
) -> Iterator[tuple[Path, int, str, str]]:
    """The images of the lists beside a file of captions: file, line, the image as it is called there, and its split."""
    for file in candidates(path if path.is_dir() else draft.root, (".txt",)):
        if file in but or not (split := split_in_the_name(file)):
            continue
        rows = [(number, line.strip()) for number, line in numbered_lines(draft, file) if line.strip()]
        if all(_is_a_name(line, known) for _, line in rows[:5]):  # otherwise captions, or something else
            yield from ((file, number, said, split) for number, said in rows)


def _is_a_name(line: str, known: Container[str]) -> bool:
    """Whether a line may be an image's name: one with spaces has an image's suffix or is `known`."""
    return "\t" not in line and (" " not in line or Path(line).suffix.lower() in SUFFIXES or line in known)


def _enlist(draft: Draft, image: str, split: str, file: Path, line: int) -> None:
    draft.places.setdefault(image, (draft.name(file), line))
    draft.assign(image, split, file=file, line=line)


def _read_json(path: Path, root: Path) -> Draft | None:
    """Karpathy's JSON and COCO's annotation files."""
    objects = _objects(path)
    for file, content in objects:
        listed = content.get("images")
        images = [entry for entry in listed if isinstance(entry, dict)] if isinstance(listed, list) else []
        if any("sentences" in entry for entry in images):
            return _karpathy(root, file, content)
        if images and isinstance(content.get("annotations"), list):
            return read_coco(root, itertools.chain([(file, content)], objects))
    return None


def _karpathy(root: Path, file: Path, content: dict[str, Any]) -> Draft:
    draft, pictures = Draft(root, "karpathy (JSON)"), Pictures(root)
    found: list[tuple[int, str, str, dict[str, Any]]] = []
    for index, entry in enumerate(content["images"]):
        if isinstance(entry, dict) and isinstance(entry.get("filename"), str | int):
            folder = entry["filepath"] if isinstance(entry.get("filepath"), str) else ""
            found.append((index, folder, str(entry["filename"]), entry))
        else:
            draft.problem(file, None, "not-an-image", f"images[{index}] has no 'filename'; it is left out")
    times = Counter(name for _, name in {(folder, name) for _, folder, name, _ in found})
    for index, folder, name, entry in found:
        place = f"{folder}/{name}" if folder else name
        image = name if times[name] == 1 else place
        said = entry.get("sentences") or []
        for at, sentence in enumerate(said if isinstance(said, list) else [said]):
            draft.add(image, text_of(sentence), file=file, line=None, entry=f"images[{index}].sentences[{at}]")
        draft.places.setdefault(image, (draft.name(file), None))
        draft.assign(image, entry.get("split"), file=file, line=None)
        if folder and (path := pictures.at(place)) is not None:
            draft.paths[image] = path
    draft.find(pictures)
    return draft


def _read_pairs(path: Path, root: Path) -> Draft | None:
    """Images, each beside a text file of the same name with a caption per line; folders train, val, test are splits.

    A text without an image is no problem, as it may be anything; one beside a picture that is not read is.
    """
    if not path.is_dir():
        return None
    there = sorted(p for p in root.rglob("*") if p.suffix.lower() in SUFFIXES | UNREAD)
    pairs = [(p, p.with_suffix(".txt")) for p in there if p.suffix.lower() in SUFFIXES]
    alone = [image for image, text in pairs if not text.is_file()]
    pairs = [(image, text) for image, text in pairs if text.is_file()]
    if not pairs:
        return None
    draft = Draft(root, "pairs (text beside images)")
    homes = {image.parent for image, _ in pairs}
    for image in alone:
        if image.parent in homes:
            draft.no_caption(image)
    texts = {text for _, text in pairs}
    for picture in there:
        text = picture.with_suffix(".txt")
        if picture.suffix.lower() in UNREAD and text not in texts and text.is_file():
            draft.problem(picture, None, "unread-image", f"has captions, but showtell {does_not_read(picture)}")
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


def _read_nwpu(path: Path, root: Path) -> Draft | None:
    """NWPU-Captions' JSON: lists of images by kind, or by split; an image's captions are its `raw`, `raw_1`, `raw_2`, …"""
    by_kind = next(((file, kinds) for file, content in _objects(path) if (kinds := _kinds(content))), None)
    if by_kind is None:
        return None
    file, kinds = by_kind
    draft = Draft(root, "nwpu (JSON)")
    found: list[tuple[str, int, dict[str, Any]]] = []
    for kind, entries in kinds.items():
        for index, entry in enumerate(entries):
            if isinstance(entry, dict) and isinstance(entry.get("filename"), str):
                found.append((kind, index, entry))
            else:
                draft.problem(file, None, "not-an-image", f"{kind}[{index}] has no 'filename'; it is left out")
    places = {("" if kind.lower() in SPLIT_NAMES else kind, entry["filename"]) for kind, _, entry in found}
    times = Counter(name for _, name in places)
    for kind, index, entry in found:
        name, split = entry["filename"], kind if kind.lower() in SPLIT_NAMES else entry.get("split")
        image = name if times[name] == 1 else f"{kind}/{name}"
        draft.places.setdefault(image, (draft.name(file), None))
        for key in filter(re.compile(r"raw(_[0-9]+)?").fullmatch, entry):
            caption = "" if entry[key] is None else entry[key]
            draft.add(image, caption, file=file, line=None, entry=f"{kind}[{index}].{key}")
        draft.assign(image, split, file=file, line=None)
    draft.find(Pictures(root))
    return draft


def _kinds(content: dict[str, Any]) -> dict[str, list[Any]]:
    """The lists of images; none unless an image has a `raw` caption."""
    lists = {kind: entries for kind, entries in content.items() if isinstance(entries, list)}
    named = {
        kind: [entry for entry in entries if isinstance(entry, dict) and "filename" in entry]
        for kind, entries in lists.items()
    }
    if not any("raw" in entry for entries in named.values() for entry in entries):
        return {}
    return {kind: entries for kind, entries in lists.items() if named[kind]}


def _read_descriptions(path: Path, root: Path) -> Draft | None:
    """`description*.txt`: lines of an image's name, with or without its suffix, and a caption; image lists, or a split in
    the file's own name. UCM-Captions and Sydney-Captions first came so, and tutorials keep Flickr8k's captions so."""
    files = [p for p in candidates(path, (".txt",)) if p.name.lower().startswith("description")]
    if not files:
        return None
    draft, pictures = Draft(root, "descriptions (text)"), Pictures(root)
    there = pictures.names()
    listed = list(_lists(draft, path, there, but=files))
    names = {key: said for _, _, said, _ in listed for key in (Path(said).stem, said)}
    files = [file for file in files if _describes(file, names.keys() | there)]
    whole = [file for file in files if not split_in_the_name(file)]
    chosen = whole[:1] or files
    if not chosen:
        return None
    for file in chosen:
        for number, line in numbered_lines(draft, file):
            if line.strip():
                key, caption = _key_and_caption(line)
                image = names.get(key) or names.get(Path(key).stem) or key
                draft.add(image, caption, file=file, line=number)
                draft.assign(image, split_in_the_name(file), file=file, line=number)
    for file, number, said, split in listed:
        _enlist(draft, said, split, file, number)
    for file in files:
        if file not in chosen:
            draft.not_read(file, chosen)
    draft.find(pictures)
    return draft


def _describes(file: Path, names: Container[str]) -> bool:
    """Whether most of the first lines begin with what is an image's name, or looks like one."""
    keys = [_key_and_caption(line)[0] for line in head(file).splitlines() if line.strip()]
    times = Counter(keys)
    looks = (
        Path(key).name in names
        or Path(key).suffix.lower() in SUFFIXES
        or (times[key] > 1 and any(map(str.isdigit, key)))
        for key in keys
    )
    return 2 * sum(looks) > len(keys)


def _key_and_caption(line: str) -> tuple[str, str]:
    key, _, caption = line.strip().partition("\t" if "\t" in line.strip() else " ")
    return key, caption


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
        return parse_json(file.read_text(encoding="utf-8-sig"))
    except (ValueError, UnicodeDecodeError) as error:
        raise DataError(f"{file} is not JSON ({error}); expected Karpathy's, COCO's or NWPU's annotations") from None
