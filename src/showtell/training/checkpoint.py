"""Checkpoints: all that a run needs to continue as if it had never stopped, in one safetensors file."""

from __future__ import annotations

import json
from collections.abc import Iterator, Mapping
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

    data: str = ""  # fingerprints of the training data and of the initial encoder
    encoder: str = ""
    words: str = ""  # and of the vocabulary; empty: not recorded
    val: str = ""  # likewise of the validation data, by which the best epoch is chosen
    pictures: str = ""  # and of the files of both
    teachers: str = ""  # and of those that have taught; empty: none has yet
    phase: int = 0
    phase_epoch: int = 0  # finished epochs of this phase
    epoch: int = 0  # finished epochs of the run
    step: int = 0  # finished steps of the current epoch
    total: float = 0.0  # those steps' `Lesson.value`, summed over words or captions: this process's
    weight: int = 0
    lr: float = 0.0  # of the last step
    stale: int = 0  # epochs of this phase since the score last rose
    best_cider: float = -1.0
    best_rouge_l: float = -1.0  # of the same epoch: decides where CIDErs are equal, as those of first epochs may be
    best_epoch: int = 0
    encoder_trained: bool = False
    averaged: int = 0
    processes: int = 0  # that share the current epoch; 0: not recorded

    def better(self, scores: Mapping[str, float]) -> bool:
        """Whether the scores are better than the best so far."""
        return (scores["cider"], scores["rouge_l"]) > (self.best_cider, self.best_rouge_l)

    def keep(self, scores: Mapping[str, float]) -> None:
        """Makes the scores, of the epoch that was just finished, the best so far."""
        self.best_cider, self.best_rouge_l, self.best_epoch = scores["cider"], scores["rouge_l"], self.epoch

    def forget_best(self) -> None:
        """Makes whatever comes next the best so far: the captioner that was is lost."""
        self.best_cider, self.best_rouge_l, self.best_epoch = -1.0, -1.0, 0

    def best(self) -> str:
        """The best captioner so far, in words; empty if there is none."""
        if self.best_epoch:
            return f"epoch {self.best_epoch}"
        return "the captioner that the run began with" if self.best_cider >= 0 else ""

    @property
    def begun(self) -> int:
        """The number of phases that have begun."""
        return self.phase + bool(self.phase_epoch or self.step)


def write_checkpoint(path: Path, tensors: dict[str, Tensor], position: dict[str, Any]) -> None:
    """Writes tensors and position; at any moment, `path` is the complete old or the complete new checkpoint."""
    plain = {name: tensor.detach().cpu().contiguous() for name, tensor in tensors.items()}
    write_whole(path, save(plain, metadata={"position": json.dumps(position)}))


def read_checkpoint(path: Path) -> tuple[dict[str, Tensor], Position]:
    """What `write_checkpoint` wrote; `BundleError` if it cannot be read."""
    with _opened(path) as file:
        return {name: file.get_tensor(name) for name in file.keys()}, _position(file)  # noqa: SIM118 (not a dict)


def read_position(path: Path) -> Position:
    """The position alone of a checkpoint; `BundleError` if it cannot be read."""
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
    """Restores what `optimizer_tensors` gave; the parameter groups are the recipe's. `BundleError` for a state of other
    parameters, which the fused kernel would read past its end."""
    state: dict[int, dict[str, Tensor]] = {}
    for key, value in tensors.items():
        if key.startswith("optimizer/"):
            _, index, name = key.split("/")
            state.setdefault(int(index), {})[name] = value
    parameters = [parameter for group in optimizer.param_groups for parameter in group["params"]]
    for place, entry in state.items():
        shape = parameters[place].shape if place < len(parameters) else None
        if any(value.ndim and value.shape != shape for value in entry.values()):
            raise BundleError(
                "the checkpoint's optimizer has other parameters, or in another order, than this version's; go on with the version of "
                "showtell that wrote it, or use another --out"
            )
    optimizer.load_state_dict({"state": state, "param_groups": optimizer.state_dict()["param_groups"]})
    for parameter, entry in optimizer.state.items():
        for name, value in entry.items():
            if value.shape == parameter.shape:  # the fused kernel assumes that both have the same memory layout
                entry[name] = torch.empty_like(parameter, dtype=value.dtype).copy_(value)
