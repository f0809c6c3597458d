"""The loop: a generator that yields one report a step; who drives it decides what happens between steps."""

from __future__ import annotations

from collections.abc import Iterable, Iterator
from dataclasses import dataclass

import torch
from accelerate import Accelerator
from torch import Tensor

from showtell.config import TrainConfig
from showtell.data.dataset import Batch
from showtell.model.captioner import CaptionerModel
from showtell.training.losses import caption_loss
from showtell.training.optim import AveragedWeights, set_learning_rate


@dataclass(frozen=True, slots=True)
class StepReport:
    """One batch: its mean loss in nats per word, the words it had, the LSTM's learning rate."""

    loss: float
    words: int
    lr: float


def train_steps(
    batches: Iterable[Batch],
    *,
    model: CaptionerModel,
    optimizer: torch.optim.Optimizer,
    accelerator: Accelerator,
    train: TrainConfig,
    trained: dict[str, Tensor],
    averaged: AveragedWeights | None,
    first_step: int,
    phase_steps: int,
) -> Iterator[StepReport]:
    """Trains on `batches` in order; the first one is step `first_step` of the phase's `phase_steps`.

    `trained` are the parameters that change, by name: they are clipped and averaged.
    """
    model.train()
    for step, batch in enumerate(batches, start=first_step):
        lr = set_learning_rate(optimizer, step=step, steps=phase_steps, train=train)
        inputs, tokens = batch.inputs.to(accelerator.device), batch.tokens.to(accelerator.device)
        with accelerator.accumulate(model):
            output = model(inputs, tokens[..., :-1])
            targets = tokens[..., 1:]
            loss = caption_loss(
                output, targets, label_smoothing=train.label_smoothing, doubly_stochastic=train.doubly_stochastic
            )
            accelerator.backward(loss)
            if accelerator.sync_gradients and train.clip:
                accelerator.clip_grad_norm_(list(trained.values()), train.clip)
            optimizer.step()
            optimizer.zero_grad()
        if averaged is not None and accelerator.sync_gradients:
            averaged.update(trained)
        yield StepReport(loss=loss.item(), words=int((batch.tokens[..., 1:] != 0).sum()), lr=lr)
