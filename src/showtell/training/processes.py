"""What a run computes on, in one process or several: devices and precision, shares of an epoch, seeds."""

from __future__ import annotations

import os
from datetime import timedelta
from pathlib import Path
from typing import TypeVar

import numpy as np
import torch
from accelerate import Accelerator
from accelerate.state import AcceleratorState
from accelerate.utils import InitProcessGroupKwargs, parse_flag_from_env

from showtell.config import TrainConfig
from showtell.errors import RecipeError
from showtell.model.encoder import fast_bfloat16

T = TypeVar("T")
_THREADS_BESIDE_A_GPU = 4  # steps are faster with few threads, and several trainings can share one machine
_PATIENCE = timedelta(hours=12)  # one process encodes the images while the others wait


def build_accelerator(train: TrainConfig, *, out: Path) -> Accelerator:
    """The run's device, precision and processes, with the trackers that `train` asks for; `out` is the run's folder."""
    AcceleratorState._reset_state()  # an earlier run in this process may have had another precision
    accelerator = Accelerator(
        mixed_precision=_precision(train.precision),
        kwargs_handlers=[InitProcessGroupKwargs(timeout=_PATIENCE)],
        log_with=list(train.trackers) or None,
        project_dir=out,
    )
    if accelerator.device.type == "cuda" and "OMP_NUM_THREADS" not in os.environ:
        torch.set_num_threads(min(_THREADS_BESIDE_A_GPU, torch.get_num_threads()))
    return accelerator


def _precision(wanted: str) -> str:
    if wanted != "auto":
        return wanted
    on_gpu = torch.cuda.is_available() and not parse_flag_from_env("ACCELERATE_USE_CPU")
    return "bf16" if fast_bfloat16("cuda" if on_gpu else "cpu") else "no"


def share(order: list[T], *, rank: int, world: int) -> list[T]:
    """The batches of process `rank` of `world`. All get equally many; a remainder is left out. `RecipeError` if there are
    fewer batches than processes."""
    each = len(order) // world
    if not each:
        raise RecipeError(
            f"{world} processes share an epoch of {len(order)} batch{'es' * (len(order) > 1)}; take fewer processes, or set "
            "train.batch_images lower"
        )
    return order[rank : each * world : world]


def epoch_seed(seed: int, epoch: int, *, rank: int) -> int:
    """The seed of an epoch's dropout and samples in process `rank`; processes see different images and draw differently."""
    return int(np.random.SeedSequence([seed, epoch + 1, *[rank] * (rank > 0)]).generate_state(1)[0])
