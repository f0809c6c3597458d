"""Collects what a report shows of a run: epochs, scores on a split, captions and where the model looked."""

from __future__ import annotations

import json
import random
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from functools import cached_property, partial
from pathlib import Path
from typing import TYPE_CHECKING, Any

from showtell.captioner import Captioner
from showtell.data.annotations import CaptionedImage, read_annotations
from showtell.decoding import BATCH_SIZE
from showtell.errors import DataError
from showtell.evaluation import evaluate_captioner, shares_of, training_captions
from showtell.metrics import TextStatistics, describe, leave_one_out
from showtell.progress import Progress, silent
from showtell.scores import Evaluation

if TYPE_CHECKING:
    from showtell.captioning import Caption
    from showtell.images import ImageTransform

RANDOM = "Random"  # the heading of the images that all runs on a split share


@dataclass(frozen=True)
class Epoch:
    """One line of a run's log."""

    number: int
    phase: int
    loss: float | None  # None in a self-critical phase, which has a reward instead
    reward: float | None
    scores: Mapping[str, float]
    best: bool
    trains_encoder: bool


@dataclass(frozen=True)
class Example:
    """An image of the split, its caption with words and attention, and the image's own scores."""

    image: CaptionedImage
    caption: Caption
    scores: Mapping[str, float]


@dataclass(frozen=True)
class RunReport:
    """A run, scored on a split."""

    name: str
    recipe: Mapping[str, Any]
    epochs: tuple[Epoch, ...]
    evaluation: Evaluation
    spoken: TextStatistics
    written: TextStatistics  # the split's first references, against the same training captions
    examples: Mapping[str, tuple[Example, ...]]  # by heading
    transform: ImageTransform

    @cached_property
    def people(self) -> dict[str, float] | None:
        """What people score on the split, leaving one reference out; None if images have one caption each."""
        return self._left_out(None)

    @cached_property
    def against_people(self) -> dict[str, float] | None:
        """What the run scores with one reference left out, to compare with `people`."""
        return self._left_out(self.evaluation.candidates)

    def _left_out(self, candidates: Sequence[str] | None) -> dict[str, float] | None:
        references = [image.captions for image in self.evaluation.images]
        if max(map(len, references)) < 2:
            return None
        return leave_one_out(references, candidates)


def collect(
    run: Path,
    data: Path | None = None,
    *,
    name: str = "",
    split: str = "test",
    examples: int = 8,
    evaluation: Evaluation | None = None,
    device: str | None = None,
    batch_size: int = BATCH_SIZE,
    workers: int = 0,
    progress: Progress = silent,
    note: Callable[[str], None] = lambda text: None,
) -> RunReport:
    """Scores a run's bundle on a split and gathers what the report shows.

    `run` is the folder of a run, a bundle or an exported captioner (which has no epochs); `data` defaults to what the
    run was trained on; `evaluation` is the bundle's on that split, if there is one already; `name` is what the report
    calls the run; `device` is that of `Captioner.load`, `batch_size` and `workers` (0: one per core) are those of
    `evaluate_captioner`. Raises `BundleError` and `DataError` as these do.
    """
    bundle = run if (run / "config.json").is_file() else run / "bundle"
    captioner = Captioner.load(bundle, device=device)
    recipe = captioner.recipe
    folder = bundle.resolve().parent if bundle.resolve().name == "bundle" else bundle.resolve()
    data = data or _trained_on(folder, recipe)
    if not data.exists():
        raise DataError(
            f"no data set at '{data}', which is all that {run} knows of where it was; name its folder with --data"
        )
    evaluation = evaluation or evaluate_captioner(
        captioner, data, split=split, batch_size=batch_size, workers=workers, progress=progress, note=note
    )
    training = training_captions(read_annotations(data, require_images=False, **shares_of(recipe)))
    return RunReport(
        name=name or folder.name,
        recipe=recipe,
        epochs=read_epochs(folder / "log.jsonl"),
        evaluation=evaluation,
        spoken=evaluation.spoken or describe(evaluation.candidates, training),
        written=evaluation.written or describe([image.captions[0] for image in evaluation.images], training),
        examples=_examples(partial(captioner.caption, batch_size=batch_size), evaluation, examples),
        transform=captioner.transform,
    )


def _trained_on(folder: Path, recipe: Mapping[str, Any]) -> Path:
    """The data set's path as the run has it; a bundle outside its run knows only the last part."""
    try:
        return Path(json.loads((folder / "recipe.json").read_bytes())["data"]["path"])
    except (OSError, ValueError, KeyError, TypeError):
        return Path(recipe["data"]["path"])


def read_epochs(log: Path) -> tuple[Epoch, ...]:
    """The epochs in a run's log.jsonl; none if there is no such file."""
    lines = log.read_text(encoding="utf-8").splitlines() if log.is_file() else []
    epochs = []
    for line in lines:
        try:
            row = json.loads(line)
            number, phase, trains_encoder = row["epoch"], row["phase"], row["trains_encoder"]
            taught = row["train_loss"], row.get("reward")
            epochs.append(Epoch(number, phase, *taught, row["scores"], row["best"], trains_encoder))
        except (ValueError, KeyError, TypeError):  # a line cut off when the process died
            continue
    return tuple(epochs)


def _examples(
    caption: Callable[[list[Any]], list[Caption]], evaluation: Evaluation, count: int
) -> dict[str, tuple[Example, ...]]:
    """Seeded random images, the same for every run; the best and the worst of the others by CIDEr, preferably with
    distinct captions. No image twice."""
    each = evaluation.report.each
    total = len(evaluation.images)
    third = min(count, -(-total // 3))
    drawn = sorted(random.Random(0).sample(range(total), third))
    ranked = sorted(set(range(total)) - set(drawn), key=lambda i: (-each["cider"][i], i))
    half = len(ranked) // 2
    chosen = {
        RANDOM: drawn,
        "The best of the others, by CIDEr": _different(ranked[: len(ranked) - half], evaluation.candidates, third),
        "The worst of the others, by CIDEr": _different(
            ranked[len(ranked) - half :][::-1], evaluation.candidates, third
        ),
    }
    flat = [i for indices in chosen.values() for i in indices]
    found = dict(zip(flat, caption([evaluation.images[i].path for i in flat]), strict=True))
    return {
        name: tuple(
            Example(evaluation.images[i], found[i], {score: values[i] for score, values in each.items()})
            for i in indices
        )
        for name, indices in chosen.items()
    }


def _different(ranked: Sequence[int], candidates: Sequence[str], count: int) -> list[int]:
    """The first `count` with distinct captions, filled up with the first of the others if they are too few."""
    first = {candidates[i]: i for i in reversed(ranked)}
    distinct = [i for i in ranked if first[candidates[i]] == i]
    return (distinct + [i for i in ranked if first[candidates[i]] != i])[:count]
