"""What a run begins with: its data, its model, the caches of its encoder's outputs, and its teachers."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path

import torch

from showtell.bundle import Bundle, build_encoder, build_model, load_bundle
from showtell.config import Recipe
from showtell.hub import resolve
from showtell.model.captioner import CaptionerModel
from showtell.progress import Progress
from showtell.training.encodings import Encodings
from showtell.training.samples import Samples
from showtell.training.starting import compare_words, take_over
from showtell.training.teachers import Teachers


@dataclass(frozen=True, slots=True)
class Prepared:
    """What a run trains, on what, and from whom it learns."""

    model: CaptionerModel
    samples: Samples
    encodings: Encodings
    teachers: Teachers | None


def prepare(
    recipe: Recipe,
    *,
    encoder_weights: Path | None,
    own: Path,
    device: torch.device,
    note: Callable[[str], None],
    progress: Progress,
) -> Prepared:
    """Loads what `recipe` names and builds its model on `device`, with the recipe's seed; `own` is the folder for the
    run's own caches.

    `note` hears of the data, the weights and the words that others bring. Raises `RecipeError`, `DataError`,
    `BundleError` and `DownloadError` for wrong input, and writes nothing but what the hub sends.
    """
    start = load_bundle(resolve(recipe.train.start)) if recipe.train.start else None
    names = recipe.train.teachers if recipe.distils() else ()
    teachers = Teachers.load(names, device) if names else None
    if teachers and start:
        teachers.check(start.vocabulary, of=recipe.train.start)
    torch.manual_seed(recipe.train.seed)  # loading others has drawn numbers
    known = teachers or start
    samples = Samples(
        recipe, Path(recipe.data.path), note=note, progress=progress,
        known=known.vocabulary if known else None, more_words=teachers is None,
    )  # fmt: skip
    if recipe.encoder.pretrained and encoder_weights is None and start is None:
        note(f"encoder weights: {', '.join(recipe.encoder.names())}, from the hub or its cache on this machine")
    encoder = start.encoder if start else build_encoder(recipe, weights=encoder_weights)
    encoder = encoder.to(device)
    encodings = Encodings(recipe, encoder, own=own, device=device, teachers=teachers)
    model = build_model(recipe, encoder, len(samples.vocabulary)).to(device)
    if start is not None:
        take_over(model.decoder, start.decoder)
    _tell_words(recipe, samples, start=start, teachers=teachers, note=note)
    return Prepared(model, samples, encodings, teachers)


def _tell_words(
    recipe: Recipe, samples: Samples, *, start: Bundle | None, teachers: Teachers | None, note: Callable[[str], None]
) -> None:
    """Notes how the words of the captioner to begin with, or else of the teachers, fit the data."""
    if start is not None:
        dataset = start.config["training"].get("dataset")
        for sentence in compare_words(samples, start.vocabulary, dataset=dataset):
            note(f"{recipe.train.start}: {sentence}")
    elif teachers:
        for sentence in compare_words(samples, teachers.vocabulary, dataset=teachers.dataset, teaches=True):
            note(f"{recipe.train.teachers[0]}: {sentence}")
