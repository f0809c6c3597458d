"""Checkpoints: all that a run needs to go on as if it had never stopped, in one safetensors file."""

from __future__ import annotations

import json
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
from safetensors import SafetensorError, safe_open
from safetensors.torch import save
from torch import Tensor

from showtell.errors import BundleError
from showtell.paths import write_whole


@dataclass
class Position:
    """How far a run has come; with the checkpoint's tensors, all that `--resume` needs."""

    data: str = ""  # fingerprints of what the run is trained on, and of the encoder that it began with
    encoder: str = ""
    phase: int = 0
    phase_epoch: int = 0  # epochs of this phase that are done
    epoch: int = 0  # epochs of the run that are done
    step: int = 0  # steps of the epoch under way that are done
    total: float = 0.0  # what those steps tell (see `Lesson`), summed over words or captions
    weight: int = 0
    lr: float = 0.0  # of the last step
    stale: int = 0  # epochs of this phase since CIDEr rose
    best_cider: float = -1.0
    best_epoch: int = 0
    encoder_trained: bool = False
    averaged: int = 0
    processes: int = 0  # that shared the epoch under way; 0: written before it was noted

    @property
    def begun(self) -> int:
        """How many phases have begun."""
        return self.phase + bool(self.phase_epoch or self.step)


def write_checkpoint(path: Path, tensors: dict[str, Tensor], position: dict[str, Any]) -> None:
    """Writes tensors and position; at any moment `path` is either the old checkpoint or the new one, whole."""
    plain = {name: tensor.detach().cpu().contiguous() for name, tensor in tensors.items()}
    write_whole(path, save(plain, metadata={"position": json.dumps(position)}))


def read_checkpoint(path: Path) -> tuple[dict[str, Tensor], Position]:
    """What `write_checkpoint` wrote; `BundleError` if it cannot be read."""
    with _opened(path) as file:
        return {name: file.get_tensor(name) for name in file.keys()}, _position(file)  # noqa: SIM118 (not a dict)


def read_position(path: Path) -> Position:
    """How far the run of a checkpoint has come; `BundleError` if it cannot be read."""
    with _opened(path) as file:
        return _position(file)


def _position(file: Any) -> Position:
    return Position(**json.loads(file.metadata()["position"]))


@contextmanager
def _opened(path: Path) -> Iterator[Any]:
    try:
        with safe_open(path, framework="pt") as file:
            yield file
    except (SafetensorError, OSError, KeyError, TypeError, ValueError) as error:
        raise BundleError(f"{path} cannot be read ({error}); delete it to start over") from None


def optimizer_tensors(optimizer: torch.optim.Optimizer) -> dict[str, Tensor]:
    """An optimizer's state as named tensors."""
    state = optimizer.state_dict()["state"]
    return {f"optimizer/{i}/{name}": value for i, entry in state.items() for name, value in entry.items()}


def load_optimizer(optimizer: torch.optim.Optimizer, tensors: dict[str, Tensor]) -> None:
    """Puts back what `optimizer_tensors` gave; the groups are the recipe's."""
    state: dict[int, dict[str, Tensor]] = {}
    for key, value in tensors.items():
        if key.startswith("optimizer/"):
            _, index, name = key.split("/")
            state.setdefault(int(index), {})[name] = value
    optimizer.load_state_dict({"state": state, "param_groups": optimizer.state_dict()["param_groups"]})
    for parameter, entry in optimizer.state.items():
        for name, value in entry.items():
            if value.shape == parameter.shape:  # the fused kernel takes for granted that both lie alike in memory
                entry[name] = torch.empty_like(parameter, dtype=value.dtype).copy_(value)
