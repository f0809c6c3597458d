"""Optimizer, learning-rate schedule and averaged weights."""

from __future__ import annotations

import math
from collections.abc import Iterable, Mapping, Sequence

import torch
from torch import Tensor, nn

from showtell.config import PhaseConfig, TrainConfig


def build_optimizer(
    decoder: Iterable[nn.Parameter],
    encoder: Sequence[Sequence[nn.Parameter]],
    *,
    phase: PhaseConfig,
    weight_decay: float,
) -> torch.optim.AdamW:
    """AdamW with one learning rate for the decoder and one for each CNN block; biases and norms are not decayed.

    `encoder` holds the trained blocks in order, as `Encoder.unfreeze_from` returns them: the last one learns at
    `phase.encoder_lr`, each other at `phase.encoder_lr_decay` times the rate of the next (Howard & Ruder, "Universal
    Language Model Fine-tuning for Text Classification", 2018, section 3.2; section 3.3 for `phase.unfreeze_every`).
    """
    blocks = [(list(decoder), phase.lr, 0)]
    for above, block in enumerate(reversed(encoder)):
        blocks.append((list(block), phase.encoder_lr * phase.encoder_lr_decay**above, above * phase.unfreeze_every))
    groups = []
    for parameters, lr, first_epoch in blocks:
        for decay, chosen in (
            (weight_decay, [p for p in parameters if p.ndim > 1]),
            (0.0, [p for p in parameters if p.ndim < 2]),
        ):
            if chosen:
                groups.append(
                    {"params": chosen, "lr": lr, "base_lr": lr, "weight_decay": decay, "first_epoch": first_epoch}
                )
    return torch.optim.AdamW(groups, betas=(0.9, 0.98), fused=True)


def set_learning_rate(
    optimizer: torch.optim.Optimizer, *, step: int, steps: int, epoch: int, train: TrainConfig
) -> float:
    """Sets each group's rate for `step` of `steps` in a phase and its `epoch`, from 0; returns the decoder's."""
    factor = schedule(step, steps, warmup=train.warmup, cosine=train.cosine)
    for group in optimizer.param_groups:
        group["lr"] = group["base_lr"] * factor * (epoch >= group["first_epoch"])
    return float(optimizer.param_groups[0]["lr"])


def schedule(step: int, steps: int, *, warmup: int, cosine: bool) -> float:
    """The share of the base rate at `step`: linear warm-up, for a quarter of `steps` at most, then constant or a half
    cosine down to 1/20."""
    warmup = min(warmup, steps // 4)
    if step < warmup:
        return (step + 1) / warmup
    if not cosine:
        return 1.0
    progress = min(1.0, (step - warmup) / max(1, steps - warmup))
    return 0.05 + 0.95 * 0.5 * (1 + math.cos(math.pi * progress))


class AveragedWeights:
    """An exponential moving average of a model's trained tensors, corrected for its start.

    The decay grows as (1 + n) / (10 + n) up to `decay`, so that the initial weights are soon forgotten.
    """

    def __init__(self, tensors: Mapping[str, Tensor], *, decay: float) -> None:
        self.decay, self.count = decay, 0
        self.average = {name: tensor.detach().clone() for name, tensor in tensors.items()}

    @torch.no_grad()
    def update(self, tensors: Mapping[str, Tensor]) -> None:
        """Updates the average with the weights after an optimizer step."""
        self.count += 1
        weight = 1 - min(self.decay, (1 + self.count) / (10 + self.count))
        torch._foreach_lerp_(list(self.average.values()), [tensors[name].detach() for name in self.average], weight)

    @torch.no_grad()
    def swap(self, tensors: Mapping[str, Tensor]) -> None:
        """Exchanges the average with the model's weights; a second call undoes the first."""
        for name, average in self.average.items():
            current = tensors[name].detach().clone()
            tensors[name].copy_(average)
            average.copy_(current)
