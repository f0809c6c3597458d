"""What a run computes on, in one process or several: devices and precision, shares of an epoch, random numbers."""

from __future__ import annotations

import os
import re
from collections.abc import Callable, Mapping
from datetime import timedelta
from pathlib import Path
from typing import TypeVar

import numpy as np
import torch
from accelerate import Accelerator
from accelerate.state import AcceleratorState
from accelerate.utils import InitProcessGroupKwargs, parse_flag_from_env
from torch import Tensor

from showtell.config import TrainConfig
from showtell.errors import RecipeError
from showtell.model.encoder import fast_bfloat16

T = TypeVar("T")
_LOST = re.compile(r"gloo|NCCL|connection (reset|closed|refused)|broken pipe", re.IGNORECASE)
_THREADS_BESIDE_A_GPU = 4  # steps are faster with few threads, and several trainings can share one machine
_PATIENCE = timedelta(hours=12)  # one process encodes the images while the others wait


def build_accelerator(train: TrainConfig, *, out: Path, note: Callable[[str], None]) -> Accelerator:
    """The run's device, precision and processes, with the trackers that `train` asks for; `out` is the run's folder.

    `note` hears of a precision that the device does not have. `RecipeError` where a launcher started several processes
    that do not find each other: each would train by itself, into the same folder.
    """
    AcceleratorState._reset_state()  # an earlier run in this process may have had another precision
    launched = int(os.environ.get("WORLD_SIZE", "1")) if "LOCAL_RANK" in os.environ else 1  # as torchrun sets them
    accelerator = Accelerator(
        cpu=launched > 1 and not torch.accelerator.is_available(),  # else processes without a GPU form no group
        mixed_precision=_precision(train.precision, note),
        kwargs_handlers=[InitProcessGroupKwargs(timeout=_PATIENCE)],
        log_with=list(train.trackers) or None,
        project_dir=out,
    )
    if accelerator.num_processes != launched:
        raise RecipeError(
            f"{launched} processes were started, and {accelerator.num_processes} of them would train on {accelerator.device.type}; "
            "start one, or set ACCELERATE_USE_CPU=1"
        )
    if accelerator.device.type == "cuda" and "OMP_NUM_THREADS" not in os.environ:
        torch.set_num_threads(min(_THREADS_BESIDE_A_GPU, torch.get_num_threads()))
    return accelerator


def _precision(wanted: str, note: Callable[[str], None]) -> str:
    if wanted == "fp16" and (parse_flag_from_env("ACCELERATE_USE_CPU") or not torch.accelerator.is_available()):
        note('train.precision is "fp16", which needs a GPU: on this CPU the run computes in single precision')
        return "no"  # as Accelerate would, which says nothing
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


def epoch_seed(seed: int, epoch: int, *, rank: int, step: int = 0) -> int:
    """The seed of an epoch's dropout and samples in process `rank`, from `step` on; processes see different images and draw
    differently."""
    more = (rank, step) if step else (rank,) if rank else ()
    return int(np.random.SeedSequence([seed, epoch + 1, *more]).generate_state(1)[0])


def random_states(accelerator: Accelerator) -> dict[str, Tensor]:
    """The random states of all processes, for a checkpoint: "rng" is the first one's, "rng/1" the second's; with GPUs
    "rng_cuda" and so on, too. All processes call this together."""
    own = {"rng": torch.get_rng_state()}
    if accelerator.device.type == "cuda":
        own["rng_cuda"] = torch.cuda.get_rng_state()
    found: dict[str, Tensor] = {}
    for name, state in own.items():
        each = accelerator.gather(state.to(accelerator.device)).cpu().reshape(-1, len(state))
        found |= {_of_rank(name, rank): row.clone() for rank, row in enumerate(each)}  # torch reads no view of a state
    return found


def restore_random_state(tensors: Mapping[str, Tensor], accelerator: Accelerator, *, otherwise: int) -> None:
    """Gives this process its own of the `random_states` among a checkpoint's `tensors`, if there are some. What they
    lack, as those of fewer processes or of another device do, begins with the seed `otherwise`."""
    if "rng" not in tensors:
        return
    torch.manual_seed(otherwise)
    own, on_gpu = (_of_rank(name, accelerator.process_index) for name in ("rng", "rng_cuda"))
    if own in tensors:
        torch.set_rng_state(tensors[own])
    if on_gpu in tensors and accelerator.device.type == "cuda":
        torch.cuda.set_rng_state(tensors[on_gpu])


def tallies(accelerator: Accelerator, total: float, weight: int) -> Tensor:
    """What each of P processes has added up in the current epoch, as rows (P,2) of its own `total` and `weight`, on the
    CPU. All processes call this together."""
    own = torch.tensor([[total, weight]], dtype=torch.float64)
    if accelerator.num_processes == 1:  # and on one of Apple's GPUs, which have no such numbers
        return own
    each: Tensor = accelerator.gather(own.to(accelerator.device)).cpu()
    return each


def _of_rank(name: str, rank: int) -> str:
    return f"{name}/{rank}" if rank else name


def in_any(accelerator: Accelerator, here: bool) -> bool:
    """Whether `here` is true in any process; all ask together, so that none waits for one that has stopped."""
    if accelerator.num_processes == 1:
        return here
    answer = torch.tensor([here], dtype=torch.uint8, device=accelerator.device)
    return bool(accelerator.gather(answer).any())


def another_ended(error: RuntimeError) -> bool:
    """Whether an error is that of a process that waits for one that has ended: in torch's words, or its transport's."""
    together = torch.distributed.is_available() and torch.distributed.is_initialized()
    return together and (isinstance(error, torch.distributed.DistError) or bool(_LOST.search(str(error))))
