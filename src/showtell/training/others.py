"""The other captioners that a run needs: one to start from, and teachers."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path

from showtell.config import Recipe
from showtell.errors import RecipeError
from showtell.training.folder import begun_with
from showtell.training.starting import begin_with
from showtell.training.teachers import taught_by


def with_others(
    recipe: Recipe,
    *,
    start: Path | str | None,
    teachers: Path | str | Sequence[Path | str],
    encoder_weights: Path | None,
    out: Path,
    resume: bool,
) -> Recipe:
    """`recipe` with the captioner to start from and with teachers: those given, its own, or, where the run in `out` is
    resumed, those that it began with.

    Raises as `begin_with` and `taught_by` do, and `RecipeError` if the run would write over one of them.
    """
    before = begun_with(out) if resume else None
    if begin := start or recipe.train.start or (before.train.start if before else ""):
        recipe = begin_with(recipe, begin, encoder_weights=encoder_weights)
    if isinstance(teachers, str | Path):
        teachers = [teachers]
    if before and recipe.distils() and not (teachers or recipe.train.teachers):
        teachers = before.train.teachers
    recipe = taught_by(recipe, teachers, before=before)
    needed = dict.fromkeys(recipe.train.teachers, "that teaches") | {recipe.train.start: "to begin with"}
    for name, what in needed.items():
        if name and Path(name).resolve() == (out / "bundle").resolve():
            raise RecipeError(
                f"--out {out}: the captioner {what} lies there and would be written over; name another folder"
            )
    return recipe
