"""What an objective is: a function from (model, batch) to a `Lesson`. The loop knows nothing else about it."""

from __future__ import annotations

from collections.abc import Callable
from contextlib import AbstractContextManager
from typing import Any, NamedTuple, Protocol

from torch import Tensor

from showtell.data.dataset import Batch
from showtell.model.captioner import CaptionerModel

Autocast = Callable[[], AbstractContextManager[Any]]


class Lesson(NamedTuple):
    """The loss to minimise, and what is reported: a mean `value` over `weight` items."""

    loss: Tensor
    value: float  # nats per word, or the mean reward of the sampled captions
    weight: int  # words, or captions


class Objective(Protocol):
    """`model` may be wrapped for several processes; `progress` is the share of the phase that is over, 0 … 1."""

    def __call__(self, model: CaptionerModel, batch: Batch, *, progress: float) -> Lesson:
        """The loss of one batch, on the model's device."""
