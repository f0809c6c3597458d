"""COCO's annotation files: lists of images and of captions, each image with a number; nothing here imports torch."""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, field
from itertools import combinations
from pathlib import Path
from typing import Any

from showtell.data.draft import Draft
from showtell.data.files import split_named
from showtell.data.pictures import Pictures
from showtell.data.splits import SPLIT_NAMES
from showtell.data.tables import text_of


@dataclass
class _Listed:
    """What is kept of an annotation file: most are full of boxes."""

    file: Path
    split: str
    names: dict[str, str] = field(default_factory=dict)  # an image's number -> its file_name
    captions: list[tuple[str, str, object]] = field(default_factory=list)  # an image's number, which entry, its caption


def read_coco(root: Path, objects: Iterable[tuple[Path, dict[str, Any]]]) -> Draft:
    """captions_train*.json, captions_val*.json: an image's id is COCO's number, its split is in the file's name.

    Where files count their images anew, a number that stands for several gets its file's name before it. A train file
    alone is split anew, as there is nothing to validate on.
    """
    draft, pictures = Draft(root, "coco (JSON)"), Pictures(root)
    files = [
        _listed(draft, file, content)
        for file, content in objects
        if all(isinstance(content.get(key), list) for key in ("images", "annotations"))
    ]
    ids = _ids(draft, files, pictures)
    draft.names = {}
    for listed in files:
        for number, name in listed.names.items():
            image = ids[listed.file, number]
            draft.names[image] = name
            if (path := pictures.at(name)) is not None:
                draft.paths[image] = path
            draft.assign(image, listed.split, file=listed.file, line=None)
        for number, entry, caption in listed.captions:
            draft.add(ids.get((listed.file, number), number), caption, file=listed.file, line=None, entry=entry)
    draft.find(pictures)
    draft.has_splits = bool({*draft.splits.values()} - {"train"})
    return draft


def _listed(draft: Draft, file: Path, content: Mapping[str, Any]) -> _Listed:
    """The images and captions of a file; what is wrong becomes a problem."""
    split = split_named(file, draft.root)
    # No word for a split, as it may lie beside train and val; but those who merge them train on it.
    listed = _Listed(file, split or ("train" if "trainval" in file.stem.lower() else ""))
    for index, entry in enumerate(content["images"]):
        if _has(entry, "id", "file_name"):
            listed.names[str(entry["id"])] = str(entry["file_name"])
        else:
            message = f"images[{index}] has no 'id' or no 'file_name'; it is left out"
            draft.problem(file, None, "not-an-image", message)
    for index, entry in enumerate(content["annotations"]):
        which = f"annotations[{index}]"
        if _has(entry, "image_id") and "caption" in entry:
            listed.captions.append((str(entry["image_id"]), which, text_of(entry["caption"])))
        elif not isinstance(entry, dict) or "caption" in entry:  # others are boxes
            draft.problem(file, None, "not-a-caption", f"{which} has no 'image_id'; it is left out")
    return listed


def _ids(draft: Draft, files: Sequence[_Listed], pictures: Pictures) -> dict[tuple[Path, str], str]:
    """The id of each file's numbers: the number, or with its file where that counts other pictures than another file.

    Two files do if any number is of two pictures: other files on disk or, where it cannot be told which, other names.
    """
    having: dict[str, list[_Listed]] = {}
    for listed in files:
        for number in listed.names:
            having.setdefault(number, []).append(listed)
    several = {number: found for number, found in having.items() if len(found) > 1}

    def differ(one: _Listed, other: _Listed, number: str) -> bool:
        names = [listed.names[number] for listed in (one, other)]
        splits = [SPLIT_NAMES.get(listed.split) for listed in (one, other)]
        paths = [pictures.certain(name, split) for name, split in zip(names, splits, strict=True)]
        first, second = paths if all(paths) else names
        return first != second

    apart = {
        (one.file, other.file)
        for number, found in several.items()
        for one, other in combinations(found, 2)
        if differ(one, other, number)
    }
    counted_anew = {
        number
        for number, found in several.items()
        if any((one.file, other.file) in apart for one, other in combinations(found, 2))
    }
    return {
        (listed.file, number): f"{_place(draft, listed)}/{number}" if number in counted_anew else number
        for listed in files
        for number in listed.names
    }


def _place(draft: Draft, listed: _Listed) -> str:
    return Path(draft.name(listed.file)).with_suffix("").as_posix()


def _has(entry: object, *keys: str) -> bool:
    return isinstance(entry, dict) and all(entry.get(key) is not None for key in keys)
