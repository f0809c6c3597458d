"""CUDA graphs: on a GPU, the kernels of a step are recorded once per shape and replayed.

A step of an attention decoder is about a thousand small kernels, and launching each from Python takes ten times as long
as running it (`benchmarks/RESULTS.md`). Recorded, they are one launch. A recording reads the weights in place, so an
optimizer may change them; it is valid for one phase, in which the trained layers stay the same.

B images · K rows of an image · T steps · R regions · F feature size
"""

from __future__ import annotations

import gc
import math
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from typing import Any

import torch
from accelerate import Accelerator
from accelerate.utils import DistributedType
from torch import Tensor, nn

from showtell.config import PhaseConfig, TrainConfig
from showtell.errors import first_line
from showtell.model.captioner import CaptionerModel
from showtell.model.contract import Output
from showtell.training.lesson import Autocast
from showtell.writing import PAD

Function = Callable[..., Any]

_STEPS = 4  # captions are padded to a multiple of this: few shapes, little padding
_MOST = 32  # recordings; each holds its gradients and logits


def recorded(
    model: CaptionerModel,
    *,
    accelerator: Accelerator,
    train: TrainConfig,
    phase: PhaseConfig,
    note: Callable[[str], None],
) -> Recorded | None:
    """The model, replayed, for the steps of a phase. None without a GPU, with several processes, whose hooks exchange
    gradients, and where it would not pay."""
    alone = accelerator.device.type == "cuda" and accelerator.distributed_type == DistributedType.NO
    if not alone or not worth_recording(model, train=train, phase=phase):
        return None
    images = phase.batch_images or train.batch_images
    return Recorded(model, images=images, autocast=accelerator.autocast, note=note)


def worth_recording(model: CaptionerModel, *, train: TrainConfig, phase: PhaseConfig) -> bool:
    """Whether the steps of a phase can be recorded on one GPU, and whether that pays.

    It gains nothing for an `nn.LSTM`, whose steps cuDNN runs at once. Not recordable are float16's loss scaling, blocks
    not yet unfrozen, which have no gradient, and gradient accumulation. Gradient checkpointing needs the memory that a
    recording would hold.
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
    """A captioner's model, called like it, whose encoder and decoder are replayed for batches of `images` images.

    Smaller batches, which are rare in an epoch, run without recordings.
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
        """`autocast` returns a context with the run's precision; `note` is called if something cannot be recorded."""
        super().__init__()
        self.module, self.images = module, images
        self._autocast, self._note = autocast, note
        self._recorder = recorder or Recorder()
        self._replays: dict[tuple[Any, ...], Function] = {}
        self._plain: set[str] = set()  # parts that could not be recorded

    def features(self, inputs: Tensor) -> Tensor:
        """As the model's own, replayed."""
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
        """`function(x)`, replayed and valid until the next call; `otherwise(x)` where it is not replayed. `function` is
        the same at each call and has no gradients."""

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
        """The recording; None if there can be none."""
        name = key[0]
        if name in self._plain:
            return None
        try:
            self._replays[key] = record()
            return self._replays[key]
        except torch.OutOfMemoryError as error:  # memory may suffice without any recording
            reason, self._plain = first_line(error), {"encoder", "decoder", "function"}
            self._replays.clear()
        except RuntimeError as error:
            reason, self._plain = first_line(error), self._plain | {name}
        _give_back()  # not within `except`, where the error still holds the recording
        self._note(f"CUDA graphs could not be recorded ({name}: {reason}): this phase goes on without them, slower")
        return None


class Recorder:
    """Records work on torch's current GPU. Each part of a step has its own memory pool: a part is over before it is
    replayed for another shape, but not before the next part begins."""

    def __init__(self) -> None:
        self._pools: dict[str, Any] = {}
        if quiet := getattr(torch.autograd.graph, "set_warn_on_accumulate_grad_stream_mismatch", None):  # torch 2.10
            quiet(False)  # a recording keeps its gradient nodes, which belong to the stream that it was made on

    def module(self, name: str, part: nn.Module, arguments: tuple[Tensor, ...]) -> Function:
        """Records a part of a step and its gradients, for arguments like these."""
        pool = self._pools.setdefault(name, torch.cuda.graph_pool_handle())
        like = tuple(x.detach().clone().requires_grad_(x.requires_grad) for x in arguments)
        with _same_draws(), torch.autocast("cuda", enabled=False):
            replayed: Function = torch.cuda.make_graphed_callables(part, like, allow_unused_input=True, pool=pool)
        return replayed

    @torch.inference_mode()
    def function(self, function: Callable[[Tensor], Tensor], x: Tensor) -> Function:
        """Records a function of a tensor like x, without gradients."""
        given, graph, aside = x.clone(), torch.cuda.CUDAGraph(), torch.cuda.Stream()  # type: ignore[no-untyped-call]
        with _same_draws():
            aside.wait_stream(torch.cuda.current_stream())
            with torch.cuda.stream(aside):  # set-up at the first call cannot be recorded
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
    """An encoder or decoder that sets its own precision and returns nothing but tensors."""

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
    """The run's precision, without autocast's cache of cast weights: a cast made before a recording would go stale."""
    torch.clear_autocast_cache()
    with autocast():
        yield
    torch.clear_autocast_cache()


@contextmanager
def _same_draws() -> Iterator[None]:
    """Keeps the random state as if nothing had been recorded, since a resumed run records again."""
    state = torch.cuda.get_rng_state()
    try:
        with torch.cuda.stream(torch.cuda.current_stream()):  # a failed recording would leave its own stream set
            yield
    except RuntimeError:  # a failed recording leaves the generator recording
        generator = torch.cuda.default_generators[torch.cuda.current_device()]
        generator.graphsafe_set_state(torch.Generator(generator.device).graphsafe_get_state())
        raise
    finally:
        torch.cuda.set_rng_state(state)


def _give_back() -> None:
    """Frees the memory of discarded recordings, which reference one another."""
    gc.collect()
    if torch.cuda.is_available():
        torch.cuda.empty_cache()


def _kind(x: Tensor) -> tuple[Any, ...]:
    return (tuple(x.shape), x.dtype, x.requires_grad)
