"""CUDA graphs: on a GPU the kernels of a step are recorded once for each shape, and replayed.

A step of an attention decoder is some thousand small kernels, and launching each from Python takes ten times as long as running it
(`benchmarks/RESULTS.md`). Recorded, they are one launch. What is recorded reads weights where they lie, so an optimizer may change
them; a recording holds for one phase, whose trained layers stay the same.

B images · K rows of an image · T steps · R regions · F feature size
"""

from __future__ import annotations

import gc
import math
from collections.abc import Callable, Iterator
from contextlib import AbstractContextManager, contextmanager
from typing import Any

import torch
from accelerate import Accelerator
from accelerate.utils import DistributedType
from torch import Tensor, nn

from showtell.config import PhaseConfig, TrainConfig
from showtell.errors import first_line
from showtell.model.captioner import CaptionerModel
from showtell.model.contract import Output
from showtell.training.losses import PAD

Autocast = Callable[[], AbstractContextManager[Any]]
Function = Callable[..., Any]

_STEPS = 4  # captions are padded to a multiple: few shapes, and little padding
_MOST = 32  # recordings; each holds its gradients and logits


def recorded(
    model: CaptionerModel,
    *,
    accelerator: Accelerator,
    train: TrainConfig,
    phase: PhaseConfig,
    note: Callable[[str], None],
) -> Recorded | None:
    """The model of a phase's steps as it is replayed; None where it is not: without a GPU, with several processes, whose hooks exchange
    gradients, or where it would not pay."""
    alone = accelerator.device.type == "cuda" and accelerator.distributed_type == DistributedType.NO
    if not alone or not worth_recording(model, train=train, phase=phase):
        return None
    images = phase.batch_images or train.batch_images
    return Recorded(model, images=images, autocast=accelerator.autocast, note=note)


def worth_recording(model: CaptionerModel, *, train: TrainConfig, phase: PhaseConfig) -> bool:
    """Whether the steps of a phase, on one GPU, can be recorded, and whether that pays.

    cuDNN runs all steps of an `nn.LSTM` at once, and nothing is won. Float16 scales its loss, blocks that wait for their turn have
    no gradient, and gradients of several batches are added up: not in a recording. A CNN that computes twice wants the memory that a recording holds.
    """
    return (
        train.cuda_graphs
        and train.precision != "fp16"
        and train.accumulate == 1
        and not phase.unfreeze_every
        and not (phase.encoder_from and train.gradient_checkpointing)
        and not any(isinstance(module, nn.LSTM) for module in model.decoder.modules())
    )


class Recorded(nn.Module):
    """A captioner's model, called as it is, whose encoder and decoder are replayed for batches of `images`.

    The batches that an epoch has less of, smaller ones, run as they are.
    """

    def __init__(
        self,
        module: CaptionerModel,
        *,
        images: int,
        autocast: Autocast,
        note: Callable[[str], None],
        recorder: Recorder | None = None,
    ) -> None:
        """`autocast` gives the context of the run's precision; `note` is told where nothing could be recorded."""
        super().__init__()
        self.module, self.images = module, images
        self._autocast, self._note = autocast, note
        self._recorder = recorder or Recorder()
        self._replays: dict[tuple[Any, ...], Function] = {}
        self._plain: set[str] = set()  # parts that could not be recorded

    def features(self, inputs: Tensor) -> Tensor:
        """As the model's own."""
        if inputs.ndim != 4:
            return inputs
        features: Tensor = self._run("encoder", inputs)
        return features

    def forward(self, inputs: Tensor, tokens: Tensor) -> Output:
        """As the model's own; `tokens` (B,K,T) are padded for the decoder, whose steps do not depend on later ones."""
        steps = tokens.shape[-1]
        padded = nn.functional.pad(tokens, (0, math.ceil(steps / _STEPS) * _STEPS - steps), value=PAD)
        logits, *attention = self._run("decoder", self.features(inputs), padded)
        return Output(logits[:, :, :steps], attention[0][:, :, :steps] if attention else None)

    def replay(
        self, function: Callable[[Tensor], Tensor], x: Tensor, *, otherwise: Callable[[Tensor], Tensor]
    ) -> Tensor:
        """What `function`, the same one at each call and without gradients, gives for x: it stays until the next call. Where it is not
        replayed, what `otherwise` gives."""

        def fresh(x: Tensor) -> Tensor:
            with _fresh(self._autocast):
                return function(x)

        result: Tensor = self._through(("function", *_kind(x)), lambda: self._recorder.function(fresh, x), otherwise, x)
        return result

    def _run(self, name: str, *arguments: Tensor) -> Any:
        part = _Part(self.module.get_submodule(name), self._autocast)
        if not torch.is_grad_enabled():
            return part(*arguments)
        key = (name, part.training, *(fact for x in arguments for fact in _kind(x)))
        return self._through(key, lambda: self._recorder.module(name, part, arguments), part, *arguments)

    def _through(
        self, key: tuple[Any, ...], record: Callable[[], Function], plain: Function, *arguments: Tensor
    ) -> Any:
        replayed = self._replays.get(key)
        if replayed is None and len(arguments[0]) == self.images and len(self._replays) < _MOST:
            replayed = self._recorded(key, record)
        return (replayed or plain)(*arguments)

    def _recorded(self, key: tuple[Any, ...], record: Callable[[], Function]) -> Function | None:
        """The recording; None where there can be none."""
        name = key[0]
        if name in self._plain:
            return None
        try:
            self._replays[key] = record()
            return self._replays[key]
        except torch.OutOfMemoryError as error:  # it may be enough without any recording
            reason, self._plain = first_line(error), {"encoder", "decoder", "function"}
            self._replays.clear()
        except RuntimeError as error:
            reason, self._plain = first_line(error), self._plain | {name}
        _give_back()  # not within `except`, where the error still holds what was recorded
        self._note(f"CUDA graphs could not be recorded ({name}: {reason}): this phase goes on without them, slower")
        return None


class Recorder:
    """Records what runs on the GPU that torch uses. What is recorded is kept in memory of its own, one for each part of a step: a part
    is over before it is replayed for another shape, but not before the next part begins."""

    def __init__(self) -> None:
        self._pools: dict[str, Any] = {}

    def module(self, name: str, part: nn.Module, arguments: tuple[Tensor, ...]) -> Function:
        """A part of a step and its gradients, for arguments like these."""
        pool = self._pools.setdefault(name, torch.cuda.graph_pool_handle())
        like = tuple(x.detach().clone().requires_grad_(x.requires_grad) for x in arguments)
        with _same_draws(), torch.autocast("cuda", enabled=False):
            replayed: Function = torch.cuda.make_graphed_callables(part, like, allow_unused_input=True, pool=pool)
        return replayed

    @torch.inference_mode()
    def function(self, function: Callable[[Tensor], Tensor], x: Tensor) -> Function:
        """A function of a tensor like x, without gradients."""
        given, graph, aside = x.clone(), torch.cuda.CUDAGraph(), torch.cuda.Stream()  # type: ignore[no-untyped-call]
        with _same_draws():
            aside.wait_stream(torch.cuda.current_stream())
            with torch.cuda.stream(aside):  # what is set up at the first call cannot be recorded
                for _ in range(2):
                    function(given)
            torch.cuda.current_stream().wait_stream(aside)
            with torch.cuda.graph(graph):
                result = function(given)

        @torch.inference_mode()
        def replayed(x: Tensor) -> Tensor:
            given.copy_(x)
            graph.replay()
            return result

        return replayed


class _Part(nn.Module):
    """An encoder or a decoder that sees to its precision itself, and gives tensors alone."""

    def __init__(self, part: nn.Module, autocast: Autocast) -> None:
        super().__init__()
        self.part, self._autocast = part, autocast
        self.training = part.training

    def forward(self, *inputs: Tensor) -> Any:
        with _fresh(self._autocast):
            output = self.part(*inputs)
        return output if isinstance(output, Tensor) else tuple(x.float() for x in output if x is not None)


@contextmanager
def _fresh(autocast: Autocast) -> Iterator[None]:
    """The run's precision, without the casts of weights that autocast remembers: one made before a recording would stay as it was."""
    torch.clear_autocast_cache()
    with autocast():
        yield
    torch.clear_autocast_cache()


@contextmanager
def _same_draws() -> Iterator[None]:
    """Random numbers go on as if nothing had been recorded: a resumed run records anew."""
    state = torch.cuda.get_rng_state()
    try:
        with torch.cuda.stream(torch.cuda.current_stream()):  # a recording that breaks off would leave its own behind
            yield
    except RuntimeError:  # a recording that breaks off leaves the generator recording
        generator = torch.cuda.default_generators[torch.cuda.current_device()]
        generator.graphsafe_set_state(torch.Generator(generator.device).graphsafe_get_state())
        raise
    finally:
        torch.cuda.set_rng_state(state)


def _give_back() -> None:
    """The memory of recordings that nobody holds any more; they hold one another."""
    gc.collect()
    if torch.cuda.is_available():
        torch.cuda.empty_cache()


def _kind(x: Tensor) -> tuple[Any, ...]:
    return (tuple(x.shape), x.dtype, x.requires_grad)
