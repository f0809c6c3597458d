"""What a phase trains with, and what of that a checkpoint holds."""

from __future__ import annotations

import contextlib
import math
from collections.abc import Iterator
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor

from showtell.training.checkpoint import load_optimizer, optimizer_tensors
from showtell.training.lesson import Objective
from showtell.training.optim import AveragedWeights


@dataclass
class Learner:
    """A model that learns for one phase, of up to `epochs`.

    `model` is what steps call: the model itself, or as it was prepared for several processes, half precision or CUDA
    graphs. `trained` are the parameters that change, by name; `averaged` is their running average, where the recipe has
    one.
    """

    model: Any
    objective: Objective
    trained: dict[str, Tensor]
    optimizer: Any
    averaged: AveragedWeights | None
    epochs: int

    @contextlib.contextmanager
    def averages(self) -> Iterator[None]:
        """The model has its averaged weights inside, if there are any."""
        if self.averaged is None:
            yield
            return
        self.averaged.swap(self.trained)
        try:
            yield
        finally:
            self.averaged.swap(self.trained)

    def finite(self, loss: float) -> Tensor:
        """Whether all weights, their averages and `loss` are finite numbers, as one 0 or 1 on the weights' device."""
        averages = self.averaged.average if self.averaged is not None else {}
        tensors = [*self.trained.values(), *averages.values()]
        finite = torch.stack([tensor.detach().isfinite().all() for tensor in tensors]).all()
        return (finite & math.isfinite(loss)).to(torch.uint8).reshape(1)

    def tensors(self) -> dict[str, Tensor]:
        """The state of the optimizer and the averages, for a checkpoint."""
        tensors = optimizer_tensors(self.optimizer)
        if self.averaged is not None:
            tensors |= {f"averaged/{name}": average for name, average in self.averaged.average.items()}
        return tensors

    def load(self, tensors: dict[str, Tensor], *, averaged: int) -> None:
        """Restores what `tensors` gave, if it is among a checkpoint's; `averaged` weights were averaged then."""
        if any(name.startswith("optimizer/") for name in tensors):
            load_optimizer(self.optimizer, tensors)
        if self.averaged is not None and averaged:
            self.averaged.count = averaged
            for name, average in self.averaged.average.items():
                average.copy_(tensors[f"averaged/{name}"])
