"""One run in several processes: whose the batches of an epoch are, and what each draws for itself."""

from __future__ import annotations

from typing import TypeVar

import numpy as np

from showtell.errors import RecipeError
from showtell.training.checkpoint import Position

T = TypeVar("T")


def share(order: list[T], *, rank: int, world: int) -> list[T]:
    """The batches of process `rank` of `world`; each gets as many, so that what is left over is trained on by none. `RecipeError`
    where that leaves nothing."""
    each = len(order) // world
    if not each:
        raise RecipeError(
            f"{world} processes share an epoch of {len(order)} batch{'es' * (len(order) > 1)}; take fewer processes, or set "
            "train.batch_images lower"
        )
    return order[rank : each * world : world]


def epoch_seed(seed: int, epoch: int, *, rank: int) -> int:
    """What an epoch's dropout and samples are drawn from in process `rank`: others than in its siblings, which see other images."""
    return int(np.random.SeedSequence([seed, epoch + 1, *[rank] * (rank > 0)]).generate_state(1)[0])


def check_processes(position: Position, world: int, *, out: object) -> None:
    """`RecipeError` where a run in `out` was interrupted within an epoch that other than `world` processes shared: which of its batches
    are done would not be known."""
    if position.step and position.processes not in (0, world):
        raise RecipeError(
            f"{out} was interrupted within an epoch of {position.processes} process{'es' * (position.processes > 1)}, and resumes "
            f"with {world}; take as many as before until that epoch is over"
        )
