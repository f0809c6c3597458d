"""The training loop: a generator that yields one report per batch; its caller decides what happens in between."""

from __future__ import annotations

import contextlib
import math
from collections.abc import Iterable, Iterator
from dataclasses import dataclass

import torch
from accelerate import Accelerator

from showtell.config import Recipe, TrainConfig
from showtell.data.dataset import Batch
from showtell.errors import RecipeError, first_line
from showtell.recipe import phase_key
from showtell.training.learner import Learner
from showtell.training.optim import set_learning_rate


@dataclass(frozen=True, slots=True)
class StepReport:
    """One batch: the `value` and `weight` of its lesson, and the decoder's learning rate.

    `complete`: the optimizer has stepped and no gradient is pending. Only then may a checkpoint be written.
    """

    value: float
    weight: int
    lr: float
    complete: bool


def train_steps(
    batches: Iterable[Batch],
    *,
    learner: Learner,
    accelerator: Accelerator,
    train: TrainConfig,
    before: int,
    first_step: int,
    epoch_steps: int,
) -> Iterator[StepReport]:
    """Trains on `batches` in order; the first one is step `first_step` of an epoch of `epoch_steps`.

    There were `before` in earlier epochs of the phase. Gradients are averaged over `train.accumulate` batches, or fewer at
    the epoch's end. The learning rate follows the optimizer's steps, of which these batches share one.
    """
    model, optimizer, phase_steps = learner.model, learner.optimizer, learner.epochs * epoch_steps
    epoch, updates = before // epoch_steps, math.ceil(epoch_steps / train.accumulate)  # the optimizer's, in each epoch
    for index, batch in enumerate(batches, start=first_step):
        model.train()  # an objective may have left it in `eval()`
        update = epoch * updates + index // train.accumulate
        lr = set_learning_rate(optimizer, step=update, steps=learner.epochs * updates, epoch=epoch, train=train)
        window = min(train.accumulate, epoch_steps - index // train.accumulate * train.accumulate)
        complete = (index + 1) % train.accumulate == 0 or index + 1 == epoch_steps
        batch = batch.to(accelerator.device)
        with contextlib.nullcontext() if complete else accelerator.no_sync(model):
            lesson = learner.objective(model, batch, progress=(before + index) / phase_steps)
            accelerator.backward(lesson.loss / window)
        value, weight = lesson.value, lesson.weight
        del lesson  # its graph would still be alive when the next step is recorded
        if complete:
            for group in optimizer.param_groups:
                if not group["lr"]:  # not unfrozen yet: its gradients must not count for the norm either
                    for parameter in group["params"]:
                        parameter.grad = None
            if train.clip:
                accelerator.clip_grad_norm_(list(learner.trained.values()), train.clip)
            optimizer.step()
            optimizer.zero_grad()
            if learner.averaged is not None:
                learner.averaged.update(learner.trained)
        yield StepReport(value=value, weight=weight, lr=lr, complete=complete)


def too_large(recipe: Recipe, phase: int, error: torch.OutOfMemoryError) -> RecipeError:
    """The error, with advice, for a step of `phase` (from 0) that does not fit the accelerator's memory."""
    train, trains_encoder = recipe.train, recipe.train.phases[phase].encoder_from
    images = train.phases[phase].batch_images or train.batch_images
    less = ", or try train.cuda_graphs=false, which needs less"
    if trains_encoder and train.gradient_checkpointing:
        less = ""
    elif trains_encoder and len(recipe.encoder.names()) == 1:
        less = ", or try train.gradient_checkpointing=true, which needs less"
    return RecipeError(
        f"{phase_key(phase)}: batches of {images} images are too large for the accelerator's memory ({first_line(error)}); "
        f"set train.phases.{phase}.batch_images={max(1, images // 2)}, with --resume if the phase had only begun{less}"
    )


def diverged(recipe: Recipe, phase: int, *, epoch: int, kept: str, half: bool) -> RecipeError:
    """The error, with advice, for weights or a loss that are no longer finite in `epoch`, which is in `phase` (from 0).

    `kept` says what is left of the run; `half`: steps are computed in half precision.
    """
    rates = {"lr": recipe.train.phases[phase].lr}
    if recipe.train.phases[phase].encoder_from:
        rates["encoder_lr"] = recipe.train.phases[phase].encoder_lr
    lower = " or ".join(f"train.phases.{phase}.{key} below {rate:g}" for key, rate in rates.items())
    exact = ', or train.precision="no" with another --out' * half
    return RecipeError(
        f"{phase_key(phase)}: training diverged in epoch {epoch}, its weights or its loss are no longer finite numbers; {kept}; "
        f"set {lower}, with --resume if the phase had only begun, else with another --out{exact}"
    )


def out_of_memory(error: torch.OutOfMemoryError) -> RecipeError:
    """The error for any other part of a run that does not fit the accelerator's memory."""
    return RecipeError(
        f"the accelerator's memory is too small ({first_line(error)}); make room there, or set ACCELERATE_USE_CPU=1"
    )
