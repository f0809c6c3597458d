"""What a data set contains, and everything wrong with it; nothing here imports torch."""

from __future__ import annotations

import re
import unicodedata
from collections import Counter
from collections.abc import Iterable, Iterator, Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import asdict, dataclass
from functools import cache
from pathlib import Path
from typing import Any

import numpy as np

from showtell.data.annotations import Annotations, CaptionedImage, read_annotations
from showtell.data.draft import Problem
from showtell.data.likeness import ALIKE, ENOUGH, Thumbnail, most_alike, thumbnail
from showtell.data.splits import SPLITS
from showtell.errors import ImageError
from showtell.writing import AM, APART, marks, word_pattern

_MIN_COUNTS = (1, 2, 3, 5)
_SHOWN = 5  # problems of each kind that people see; --json has all


@dataclass(frozen=True)
class CheckReport:
    """A data set in figures. Lengths are in words; rates are shares of words, 0 … 1."""

    path: str
    format: str
    images: int
    captions: int
    captions_per_image: dict[int, int]  # number of captions -> number of images
    splits: dict[str, int]
    vocabulary: dict[int, int]  # minimum count -> words of the train split that reach it
    unknown_rate: dict[str, dict[int, float]]  # split -> minimum count -> share of its words not among them
    lengths: dict[str, float]
    problems: tuple[Problem, ...]
    notes: tuple[str, ...] = ()  # on how the data was read, a sentence each

    def to_dict(self) -> dict[str, Any]:
        """For --json."""
        return asdict(self)

    def lines(self) -> list[str]:
        """For people."""
        per_image = ", ".join(f"{n} captions: {count} images" for n, count in sorted(self.captions_per_image.items()))
        lengths = ", ".join(f"{name} {value:g}" for name, value in self.lengths.items())
        return [
            f"{self.path}: {self.format}",
            f"images      {self.images}, captions {self.captions} ({per_image})",
            "splits      " + ", ".join(f"{name} {count}" for name, count in self.splits.items()),
            "vocabulary  " + ", ".join(f"{n} words at min count {c}" for c, n in self.vocabulary.items()),
            *(f"unknown     {s}: " + _rates(rates) for s, rates in self.unknown_rate.items()),
            f"words       {lengths}",
            *self.notes,
            *_grouped(self.problems),
        ]


def check(path: Path, *, decode: bool = True) -> CheckReport:
    """Checks captions and images; `decode=False` skips the checks of images. `DataError` if there is no data set."""
    annotations = read_annotations(path)
    problems = [*annotations.problems, *(_image_problems(annotations) if decode else ())]
    captions = [caption for image in annotations.images for caption in image.captions]
    counts = {split: _count(annotations, split) for split in SPLITS}
    sizes: dict[str, int] = {split: sum(image.split == split for image in annotations.images) for split in SPLITS}
    unlisted = sum(image.split is None for image in annotations.images)
    return CheckReport(
        path=str(path),
        format=annotations.format,
        images=len(annotations.images),
        captions=len(captions),
        captions_per_image=dict(Counter(len(image.captions) for image in annotations.images)),
        splits={**sizes, **({"in no list": unlisted} if unlisted else {})},
        vocabulary={c: sum(n >= c for n in counts["train"].values()) for c in _MIN_COUNTS},
        unknown_rate={s: _unknown(counts[s], counts["train"]) for s in ("val", "test") if counts[s]},
        lengths=_percentiles([len(_words(caption)) for caption in captions]),
        problems=tuple(problems),
        notes=(*annotations.notes, *_for_training(sizes)),
    )


def _for_training(sizes: Mapping[str, int]) -> Iterator[str]:
    """What keeps the data from being trained on, a sentence each."""
    if not sizes["train"]:
        yield "no image is in the train split: captions can be scored on this data, and no captioner trained"
    elif sizes["val"] < 2:
        yield (
            f"the val split has {sizes['val'] or 'no'} image, and training needs two or more to tell epochs apart: "
            "put more images into the split, or let showtell draw it (data.val)"
        )


def _count(annotations: Annotations, split: str) -> Counter[str]:
    chosen = (image for image in annotations.images if image.split == split)
    return Counter(word for image in chosen for caption in image.captions for word in _words(caption))


def _words(caption: str) -> list[str]:
    """A caption's words as a vocabulary has them, without `tokenizers`, which is slow to import."""
    normal = "".join(
        map(str.lower, unicodedata.normalize("NFKC", caption))
    )  # one by one, as a vocabulary does: no final sigma
    for two, one in AM:
        normal = normal.replace(two, one)
    return _word().findall(re.sub(APART, "", normal))


@cache
def _word() -> re.Pattern[str]:
    mark = f"[{marks()}]"
    return re.compile(word_pattern(rf"(?:[^\W_]|{mark})", mark))


def _unknown(counts: Counter[str], known: Counter[str]) -> dict[int, float]:
    total = sum(counts.values())
    return {c: sum(n for word, n in counts.items() if known[word] < c) / total for c in _MIN_COUNTS}


def _percentiles(lengths: Sequence[int]) -> dict[str, float]:
    ordered = sorted(lengths)
    at = {f"p{p}": float(ordered[min(len(ordered) - 1, len(ordered) * p // 100)]) for p in (1, 50, 95, 99)}
    return {"mean": round(sum(ordered) / len(ordered), 1), **at, "max": float(ordered[-1])}


def _image_problems(annotations: Annotations) -> Iterator[Problem]:
    """Images that cannot be decoded, and images that are in another split too: copied, or made smaller, say."""
    with ThreadPoolExecutor() as pool:
        looked_at = list(pool.map(_look, annotations.images))
    undecodable = {
        image.image_id: seen for image, seen in zip(annotations.images, looked_at, strict=True) if isinstance(seen, str)
    }
    for image in annotations.images:
        if image.image_id in undecodable:
            yield Problem(_relative(image.path, annotations.root), None, "undecodable", undecodable[image.image_id])
    copies: set[str] = set()
    for image, other in annotations.in_two_splits():
        if image.image_id not in undecodable:
            message = f"the same picture as {other.image_id}: one is in {other.split}, the other in {image.split}"
            yield Problem(_relative(image.path, annotations.root), None, "same-picture", message)
            copies |= {image.image_id, other.image_id}
    seen = [
        (image, small)
        for image, small in zip(annotations.images, looked_at, strict=True)
        if isinstance(small, np.ndarray) and image.image_id not in copies
    ]
    for image, other, alike in _similar(seen):
        message = (
            f"looks like {other.image_id} ({alike:.3f} of 1): one is in {other.split}, the other in {image.split}; "
            "the same picture, resized or compressed again?"
        )
        yield Problem(_relative(image.path, annotations.root), None, "similar-picture", message)


def _similar(
    seen: Sequence[tuple[CaptionedImage, Thumbnail]],
) -> Iterator[tuple[CaptionedImage, CaptionedImage, float]]:
    """Images of val and test that look like one of a split before theirs (train, val, test), that one, and how much."""
    for place, split in enumerate(SPLITS):
        before = [(image, small) for image, small in seen if image.split in SPLITS[:place]]
        own = [(image, small) for image, small in seen if image.split == split]
        found = most_alike([small for _, small in own], [small for _, small in before])
        for (image, _), (which, alike) in zip(own, found, strict=True):
            if alike >= ALIKE:
                yield image, before[which][0], alike


def _look(image: CaptionedImage) -> Thumbnail | str | None:
    """An image's thumbnail, if it tells something; or what is wrong with it, without its name."""
    from showtell.images import open_image

    try:
        return thumbnail(open_image(image.path.read_bytes(), enough=ENOUGH))
    except OSError as error:
        return f"cannot be opened ({(error.strerror or type(error).__name__).lower()})"
    except ImageError as error:
        wrong = str(error).removeprefix("image: ")
        return wrong if wrong.startswith("cannot be read") else f"cannot be read as an image ({wrong})"


def _relative(path: Path, root: Path) -> str:
    return str(path.relative_to(root)) if path.is_relative_to(root) else str(path)


def _rates(rates: dict[int, float]) -> str:
    return ", ".join(f"{100 * rate:.2f} % of words at min count {c}" for c, rate in rates.items())


def _grouped(problems: Iterable[Problem]) -> Iterator[str]:
    kinds: dict[str, list[Problem]] = {}
    for problem in problems:
        kinds.setdefault(problem.kind, []).append(problem)
    if not kinds:
        yield "no problems"
    for kind, found in kinds.items():
        yield f"{kind}: {len(found)}"
        yield from (f"    {problem}" for problem in found[:_SHOWN])
        if len(found) > _SHOWN:
            yield f"    … and {len(found) - _SHOWN} more (--json names all)"
