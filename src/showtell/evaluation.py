"""Scores a bundle, or predictions made elsewhere, on a split of a data set.

A bundle's scores come with floors, which say what they are worth: the best constant caption needs no image at all, and
a captioner whose score survives shuffled images does not look at them. Importing this module and scoring predictions
need no torch.
"""

from __future__ import annotations

import itertools
import os
import random
from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import replace
from pathlib import Path
from typing import TYPE_CHECKING, Any

import showtell
from showtell.data.annotations import Annotations, CaptionedImage, read_annotations
from showtell.data.markers import find_markers, told, without_markers
from showtell.data.splits import split_called
from showtell.decoding import BATCH_SIZE
from showtell.errors import DataError, ImageError
from showtell.hub import read_config
from showtell.images import decoding_threads
from showtell.matching import Predictions
from showtell.metrics import (
    Protocol,
    Report,
    TextStatistics,
    best_constant_caption,
    describe,
    evaluate,
    read_predictions,
    read_sets,
    score_people,
    score_sets,
)
from showtell.progress import Progress, silent
from showtell.scores import Evaluation, Several

if TYPE_CHECKING:
    from showtell.captioner import Captioner
    from showtell.clip import ClipScorer
    from showtell.decoding import Sampling, Wishes

Clip = Callable[[], "ClipScorer"]  # loads it when it is needed
Judge = Callable[[Sequence[str]], dict[str, list[float]]]  # scores of a caption of each image that need the image


def _described(
    annotations: Annotations, images: Sequence[CaptionedImage], candidates: Sequence[str]
) -> tuple[TextStatistics | None, TextStatistics | None]:
    """Statistics of the candidates and of people's first captions of the same images; None without a train split."""
    training = training_captions(annotations)
    if not training:
        return None, None
    return describe(candidates, training), describe([image.captions[0] for image in images], training)


def evaluate_predictions(
    predictions: Path,
    data: Path,
    *,
    n: int = 1,
    split: str = "test",
    listed: Path | None = None,
    allow_missing: bool = False,
    more: Sequence[str] = (),
    clip: Clip | None = None,
    decoding: str = "unknown",
    trained: Path | None = None,
    progress: Progress = silent,
) -> Evaluation:
    """Scores a file of predictions against the references of a split; only `clip` needs the image files.

    Where the file has captions alone, one per line, they belong to the split's images in order, or to the images that
    the file `listed` names, one per line. With `n` above 1, the first n captions of each image are also scored as a set:
    the file is read by `read_sets`. `more` is that of `metrics.evaluate`. Data without splits of its own is split
    as for the training of `trained`, a bundle or an exported folder; without it, by the recipe's defaults. Markers
    around the predictions ("startseq … endseq") are removed where half of them or more have one, and the report says
    so. Raises `DataError` where images of the split have no prediction, or no file that `clip` needs, unless
    `allow_missing` leaves them out, or where none has, and where none has more than one caption for an `n` above 1.
    """
    shares = {} if trained is None else shares_of(read_config(trained)["recipe"])
    annotations = read_annotations(data, require_images=False, **shares)
    images = annotations.split(split)
    order = [image.image_id for image in images] if listed is None else _lines(listed)
    place = f"the {split} split of {data}" if listed is None else str(listed)
    found = _found(predictions, order, place, n)
    names = {name: name for name in found}  # by whose name an image is in the file
    known = Predictions(names, annotations.images, images)
    said = ((image, known.of(image)) for image in images)
    pairs = [(image, found[name][:n]) for image, name in said if name is not None]
    missing = len(images) - len(pairs)
    if not pairs:
        raise DataError(
            f"{predictions}: none of its {len(found)} image ids (first '{next(iter(found), '')}') is an image of the "
            f"{split} split of {data} (first '{images[0].image_id}'); expected the data set's ids, file names or paths"
        )
    if missing and not allow_missing:
        example = next(image.image_id for image in images if known.of(image) is None)
        raise DataError(
            f"{predictions}: {missing} of the {len(images)} images of the {split} split have no prediction (first "
            f"'{example}'); add them, or score the other {len(pairs)} alone with --allow-missing"
        )
    left_out = [f"{missing} images without a prediction"] if missing else []
    scorer = None if clip is None else clip()
    if scorer is not None and allow_missing:
        seen = [(image, caption) for image, caption in pairs if os.path.isfile(image.path)]
        left_out += [f"{len(pairs) - len(seen)} images without a file"] * (seen != pairs)
        pairs = seen or pairs
    kept = [image for image, _ in pairs]
    return _scored(
        [captions for _, captions in pairs], annotations, kept, n=n, split=split, decoding=decoding, clip=scorer,
        judge=_judge(scorer, kept, progress), more=more, failures=left_out,
    )  # fmt: skip


def evaluate_captioner(
    captioner: Captioner,
    data: str | Path,
    *,
    n: int = 1,
    sampling: Sampling | None = None,
    split: str = "test",
    seed: int = 0,
    more: Sequence[str] = (),
    clip: Clip | None = None,
    wishes: Wishes | None = None,
    batch_size: int = BATCH_SIZE,
    workers: int = 0,
    progress: Progress = silent,
    note: Callable[[str], None] = lambda text: None,
) -> Evaluation:
    """Captions a split's images with the captioner's own decoding, free running, and scores them beside both floors.

    With `n` above 1, the n captions of each image are also scored as a set. `wishes` (consensus, views, diverse captions)
    replace the captioner's own settings, and with `sampling` captions are drawn. `more` is that of `metrics.evaluate`;
    `clip` adds CLIPScore and RefCLIPScore. `batch_size` images are captioned together, decoded by `workers` threads: 0 is
    one per core, at most eight.

    Data without a split of its own is split as for the captioner's training. Images whose file is missing are left out
    and reported to `note`; those that cannot be decoded become `failures`. Raises `DataError` where none is left. Markers
    are removed as in `evaluate_predictions`.
    """
    scorer = None if clip is None else clip()  # first: a wrong name fails before captioning
    annotations, images = images_of(captioner.recipe, Path(data), split, note)
    said: dict[int, list[str]] = {}
    confidences: list[float] = []  # and not the whole captions, whose attention takes gigabytes for large splits
    failures: list[str] = []
    results = captioner.caption_each(
        [image.path for image in images], n=n, sampling=sampling, wishes=wishes, batch_size=batch_size,
        workers=workers or decoding_threads(),
    )  # fmt: skip
    for index, result in enumerate(results):
        if isinstance(result, ImageError):
            failures.append(str(result))
        else:
            said[index] = [caption.text for caption in (result, *result.alternatives)]
            confidences.append(result.confidence)
        progress(f"captioning the {split} split", index + 1, len(images))
    if not said:
        raise DataError(f"none of the {len(images)} images of the {split} split can be decoded; first: {failures[0]}")
    kept = [images[index] for index in said]
    if more:
        note(f"computing {' and '.join(more)}: Java, for the captions and for both floors")
    judge, constant = _judge(scorer, kept, progress), constant_caption(annotations)
    found = _scored(
        list(said.values()), annotations, kept, n=n, split=split, clip=scorer, judge=judge, more=more, failures=failures,
        decoding=_decoding(captioner, wishes, n, sampling),
    )  # fmt: skip
    floors = _floors(found, constant, seed=seed, judge=judge, more=more)
    return replace(found, floors=floors, constant=constant, confidences=tuple(confidences))


def _scored(
    said: Sequence[Sequence[str]],
    annotations: Annotations,
    images: Sequence[CaptionedImage],
    *,
    n: int,
    split: str,
    decoding: str,
    clip: ClipScorer | None,
    judge: Judge,
    more: Sequence[str],
    failures: Sequence[str],
) -> Evaluation:
    """Scores the first caption of each of the images, without markers, against their references; with `n` above 1, also
    up to n of each as a set."""
    sets, marked = _unmarked(said)
    candidates = [first for first, *_ in sets]
    references = [list(image.captions) for image in images]
    decoding += f", {n} captions an image" * (n > 1)
    protocol = make_protocol(annotations, split, references, decoding=decoding, clip=clip)
    report = evaluate(candidates, references, protocol=protocol, more=more, further=judge(candidates))
    report = replace(report, notes=[*annotations.notes, *marked, *report.notes])
    spoken, written = _described(annotations, images, candidates)
    return Evaluation(
        report, failures=tuple(failures), images=tuple(images), candidates=tuple(candidates), spoken=spoken,
        written=written, several=_several(sets, references, n) if n > 1 else None,
        alternatives=tuple(tuple(others) for _, *others in sets) if n > 1 else (),
    )  # fmt: skip


def _several(sets: Sequence[Sequence[str]], references: Sequence[Sequence[str]], n: int) -> Several:
    """What up to `n` captions an image are worth. Where a search found fewer, they count again from the first: a set of
    fewer would be compared with larger ones, and would look more diverse for having failed to differ."""
    whole = [list(itertools.islice(itertools.cycle(captions), n)) for captions in sets]
    short = sum(len(captions) < n for captions in sets)
    return Several(score_sets(whole, references), score_people(references, n), short)


def _floors(found: Evaluation, constant: str, *, seed: int, judge: Judge, more: Sequence[str]) -> dict[str, Report]:
    """What `constant`, where there is one, scores for every image, and what the captions score for others' images."""
    protocol, references = found.report.protocol, [list(image.captions) for image in found.images]
    more = [name for name in more if name in found.report.scores]

    def scored(captions: list[str], protocol: Protocol) -> Report:
        return evaluate(captions, references, protocol=protocol, more=more, further=judge(captions))

    floors = {}
    if constant:
        fixed = replace(protocol, decoding="one caption for all")
        floors["constant"] = scored([constant] * len(references), fixed)
    if len(references) > 1:
        floors["shuffled"] = scored(derange(found.candidates, seed=seed), protocol)
    return floors


def _judge(scorer: ClipScorer | None, images: Sequence[CaptionedImage], progress: Progress) -> Judge:
    """What gives each image's scores that need the image, for one caption each; without a scorer, none."""
    if scorer is None:
        return lambda candidates: {}
    return scorer.look_at([i.path for i in images], [i.captions for i in images], progress=progress)


def _unmarked(said: Sequence[Sequence[str]]) -> tuple[list[list[str]], list[str]]:
    """Each image's captions without markers, and a note that names any that were found.

    Markers are how a captioner was taught, not what it says, and the references have none; refusing the file would only
    make its author remove them.
    """
    markers = find_markers(itertools.chain.from_iterable(said))
    if not markers:
        return [list(captions) for captions in said], []
    plain = [[without_markers(caption) for caption in captions] for captions in said]
    return plain, [told(markers, of="the predictions")]


def _found(predictions: Path, order: Sequence[str], place: str, n: int) -> dict[str, tuple[str, ...]]:
    """The captions in a file by image, one of each where `n` is 1; `DataError` if none has several where it is more."""
    if n == 1:
        one = read_predictions(predictions, order, listed_in=place)
        return {image: (caption,) for image, caption in one.items()}
    found = read_sets(predictions, order, listed_in=place)
    if max(map(len, found.values())) == 1:
        raise DataError(
            f"{predictions} has one caption an image, and {n} are asked for; leave out --n, or write several with  "
            f"showtell caption --n {n} --out captions.jsonl"
        )
    return found


def constant_caption(annotations: Annotations) -> str:
    """The caption of the train split that scores best for all of its images; empty without a train split."""
    captions = training_captions(annotations)
    return best_constant_caption(captions) if captions else ""


def training_captions(annotations: Annotations) -> list[str]:
    """All captions of the train split: of its images with a file, as those that training sees, unless none has one."""
    train = [image for image in annotations.images if image.split == "train"]
    there = [image for image in train if os.path.isfile(image.path)]
    return [caption for image in there or train for caption in image.captions]


def derange(candidates: Sequence[str], *, seed: int) -> list[str]:
    """The candidates in a seeded order in which none keeps its place (Sattolo's algorithm)."""
    draw, shuffled = random.Random(seed), list(candidates)
    for i in range(len(shuffled) - 1, 0, -1):
        j = draw.randrange(i)
        shuffled[i], shuffled[j] = shuffled[j], shuffled[i]
    return shuffled


def make_protocol(
    annotations: Annotations,
    split: str,
    references: Iterable[Sequence[str]],
    *,
    decoding: str,
    clip: ClipScorer | None = None,
) -> Protocol:
    """The protocol that has to be reported with a score."""
    protocol = Protocol.of(
        references, dataset=annotations.dataset, split=split_called(split), decoding=decoding,
        version=showtell.__version__,
    )  # fmt: skip
    return protocol if clip is None else replace(protocol, clip=clip.name)


def images_of(
    recipe: Mapping[str, Any], data: Path, split: str, note: Callable[[str], None] = lambda text: None
) -> tuple[Annotations, tuple[CaptionedImage, ...]]:
    """The data set, split as for the training of a captioner with this recipe, and the images of the split whose files exist.

    Missing files do not change the split; `DataError` where all are missing.
    """
    wanted, shares = split_called(split), shares_of(recipe)
    annotations = read_annotations(data, **shares)
    images = tuple(image for image in annotations.images if image.split == wanted)
    if not images:
        # Raises its own error where there is no such split.
        listed = read_annotations(data, require_images=False, **shares).split(split)
        raise DataError(
            f"{data}: the {split} split lists {len(listed)} images and none of their files is there (first "
            f"'{listed[0].path.name}'); restore them, name another --split, or score captions alone with --predictions"
        )
    missing = sum(problem.kind == "missing-image" for problem in annotations.problems)
    if missing:
        note(f"{missing} images of the data set have no file and are left out; see  showtell data check {data}")
    return annotations, images


def shares_of(recipe: Mapping[str, Any]) -> dict[str, Any]:
    """Arguments for `read_annotations` that split data without splits of its own as for a captioner's training."""
    settings, named = recipe.get("data", {}), {"val": "val", "test": "test", "split_seed": "seed"}
    return {name: settings[key] for key, name in named.items() if key in settings}


def _decoding(captioner: Captioner, wishes: Wishes | None, n: int, sampling: Sampling | None) -> str:
    """The decoding as a protocol names it: the captioner's own, changed by the wishes, or a sampling."""
    from showtell.config import SearchConfig

    options = captioner.options(n=n, wishes=wishes)
    search = SearchConfig(**{key: getattr(options, key) for key in SearchConfig.model_fields})
    more = [f"{options.min_length} tokens or more"] * (options.min_length > 0) + ["made to end"] * options.closing
    more += ["a given beginning"] * bool(options.beginning)
    more += ["words asked for or ruled out"] * bool(options.required or options.forbidden)
    more += [f"{options.groups} groups, {options.diversity:g} nats apart"] * (options.groups > 1)
    more += [f"ensemble of {captioner.members}"] * (captioner.members > 1)
    if sampling is None:
        return ", ".join([search.describe(), *more])
    return ", ".join([sampling.describe(), *search.model_copy(update={"consensus": 0}).further(), *more])


def _lines(path: Path) -> list[str]:
    """The images that a file names, one per line."""
    try:
        lines = path.read_text(encoding="utf-8-sig").split("\n")
    except UnicodeDecodeError:
        raise DataError(f"{path} is no text in UTF-8; expected an image's name a line") from None
    return [line.strip() for line in lines if line.strip()]
