"""Whether a resumed run goes on as it began: with the same captions, pictures, CNN, words, teachers and processes."""

from __future__ import annotations

from pathlib import Path

from showtell.config import Recipe
from showtell.errors import RecipeError
from showtell.training.checkpoint import Position
from showtell.training.samples import Samples


def check_resumed(before: Position, now: Position, *, samples: Samples, recipe: Recipe, out: Path) -> None:
    """`RecipeError` unless the run in `out`, which is at `before`, may go on as `now`, the start of the same run with
    what was found today. What `before` does not record is not compared; pictures are by `check_pictures`."""
    if before.data != now.data:
        raise RecipeError(_other_data(samples, recipe, out))
    if before.val not in ("", now.val):
        raise RecipeError(
            f"{out} chose its best epoch by other images or captions of the val split than those found now, on which scores would "
            "not compare; give the same --data, or use another --out"
        )
    if before.encoder != now.encoder:
        raise RecipeError(
            f"{out} began with other weights of the encoder, or with a processor, torch or timm that computes it otherwise; give the "
            f"same {'--start' if recipe.train.start else '--encoder-weights'} on such a machine, or use another --out"
        )
    if before.words not in ("", now.words):
        raise RecipeError(
            f"{out} was trained with other words than those found now; give the same --start and --teacher, or use another --out"
        )
    if now.teachers and before.teachers not in ("", now.teachers):
        raise RecipeError(
            f"{out} has learned from other teachers than those given now, or with a processor, torch or timm that computes them "
            "otherwise; give the same, on such a machine, or use another --out"
        )
    check_processes(before, now.processes, out=out)


def check_pictures(before: Position, pictures: str, *, out: Path) -> None:
    """`RecipeError` if the run in `out` began with other `pictures`: apart from the rest, as finding out may read them all."""
    if before.pictures not in ("", pictures):
        raise RecipeError(
            f"{out} began with other pictures than those found now under the same names; put back the files that have changed, give "
            "the --data that has them, or use another --out"
        )


def check_processes(position: Position, world: int, *, out: object) -> None:
    """`RecipeError` if the run in `out` was interrupted within an epoch of another number of processes than `world`: which
    batches are done would be unknown."""
    if position.step and position.processes not in (0, world):
        raise RecipeError(
            f"{out} was interrupted within an epoch of {position.processes} process{'es' * (position.processes > 1)}, and resumes "
            f"with {world}; take as many as before until that epoch is over"
        )


def _other_data(samples: Samples, recipe: Recipe, out: Path) -> str:
    copies = (
        f"; this version puts copies into one split, for which it moved {samples.moved} of these images: a run from before goes on with "
        "the version that it began with"
    )
    began = " or began with a captioner of other words" if recipe.train.start else ""
    same = "--data and --start" if recipe.train.start else "--data"
    return (
        f"{out} was trained on other images or captions than those found now{began}; give the same {same}, or use another --out"
        f"{copies if samples.moved else ''}"
    )
