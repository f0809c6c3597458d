"""Train, val and test: their names, and how data that lack some are split. Nothing here imports torch."""

from __future__ import annotations

import random
import re
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Literal

from showtell.data.copies import first_equals
from showtell.errors import DataError

Split = Literal["train", "val", "test"]
SPLITS: tuple[Split, ...] = ("train", "val", "test")
SPLIT_NAMES: dict[str, Split] = {
    "train": "train", "training": "train", "restval": "train", "val": "val", "valid": "val", "validation": "val",
    "dev": "val", "test": "test", "testing": "test",
}  # fmt: skip
_OF_COCO: dict[str, Split] = {"minival": "val", "valminusminival": "val", "minitrain": "train"}  # in names alone
_FEW = 5  # images, of which two can be spared to validate on
_LETTER = r"[^\W\d_]"
_IN_A_NAME = re.compile(
    rf"(?<!{_LETTER})({'|'.join([*SPLIT_NAMES, *_OF_COCO])})(?:images?|captions?|list|data|set)?(?!{_LETTER})",
    re.IGNORECASE,
)


def split_called(name: str) -> Split:
    """The split of this name, in any case: "dev" and "validation" are val. `DataError` for what names none."""
    split = SPLIT_NAMES.get(name.strip().lower())
    if split is None:
        raise DataError(f"no split '{name}'; expected one of {', '.join(SPLIT_NAMES)}")
    return split


def split_in(name: str) -> str:
    """The split that is a word of a file's or folder's name, in small letters; empty if there is none.

    Words end at what is no letter and before a capital: "captions_val2014" and "Flickr_8k.devImages" name one, "latest"
    and "evaluated" do not. COCO's parts of val and train ("minival", "valminusminival", "minitrain") are val and train.
    """
    match = _IN_A_NAME.search(re.sub(r"(?<=[a-z])(?=[A-Z])", "_", name))
    word = match[1].lower() if match else ""
    return _OF_COCO.get(word, word)


@dataclass(frozen=True)
class Draw:
    """The split of each image, by its id; None where the data's own lists leave it out.

    `how` is what a protocol says of it, empty for the data's own splits and for the default; `notes` are for people, a
    sentence each; `moved` copies were put into the split of the first of them.
    """

    splits: Mapping[str, Split | None]
    how: str = ""
    notes: tuple[str, ...] = ()
    moved: int = 0


def complete(paths: Mapping[str, Path], given: Mapping[str, Split], *, val: float, test: float, seed: int) -> Draw:
    """The splits of the images in `paths`, with any added that `given`, the data's own, lack.

    Without any, images are split by `seed`, in the proportions `val` and `test`; with a train split but no val split, the
    share `val` of train becomes val. `DataError` if nothing would be left to train on.
    """
    if not given:
        as_usual = (val, test, seed) == (0.1, 0.1, 0)
        how = "" if as_usual else f"split by seed {seed}, val {val:g}, test {test:g}"
        return replace(draw(paths, val=val, test=test, seed=seed), how=how)
    splits = {image: given.get(image) for image in paths}
    train = {image: path for image, path in paths.items() if splits[image] == "train"}
    if not train or not val or "val" in splits.values():
        return Draw(splits)
    drawn = draw(train, val=val, test=0, seed=seed)
    held_out = sum(split == "val" for split in drawn.splits.values())
    note = (
        f"the data has no val split: {held_out} of its {len(train)} train images are taken for it "
        f"(data.val={val:g}, data.split_seed={seed})"
    )
    how = f"val {val:g} of train by seed {seed}"
    return replace(drawn, splits={**splits, **drawn.splits}, how=how, notes=(note, *drawn.notes))


def draw(paths: Mapping[str, Path], *, val: float, test: float, seed: int) -> Draw:
    """Splits by image, whatever the order of the data.

    Copies move to the split of the first of them by id, which moves no other image; none moves where that would empty
    a split.
    """
    if val + test >= 1:
        raise DataError(f"val {val} and test {test} leave nothing to train on; their sum must be below 1")
    ordered = sorted(paths)
    shuffled = ordered.copy()
    random.Random(seed).shuffle(shuffled)
    held_out, tested = (max(1, round(share * len(paths))) if share else 0 for share in (val, test))
    if held_out == 1 and len(paths) >= _FEW and tested < len(paths) - 2:
        held_out = 2  # CIDEr cannot tell epochs apart by one image
    drawn: dict[str, Split] = dict.fromkeys(ordered, "train")
    drawn |= dict.fromkeys(shuffled[:held_out], "val")
    drawn |= dict.fromkeys(shuffled[held_out : held_out + tested], "test")
    firsts = first_equals([paths[image] for image in ordered])
    followed = {image: drawn[ordered[first]] for image, first in zip(ordered, firsts, strict=True)}
    moved = sum(followed[image] != split for image, split in drawn.items())
    emptied = [split for split in SPLITS if split in drawn.values() and split not in followed.values()]
    return Draw(drawn if emptied else followed, notes=_of_copies(moved, emptied), moved=0 if emptied else moved)


def _of_copies(moved: int, emptied: Sequence[str]) -> tuple[str, ...]:
    if not moved:
        return ()
    what = "1 image is a copy of another" if moved == 1 else f"{moved} images are copies of others"
    if emptied:
        return (
            f"{what} in another split, byte for byte, and left there, as {' and '.join(emptied)} would be empty without them; scores flatter",
        )
    return (f"{what}, byte for byte, and put into the split of the first of them",)
