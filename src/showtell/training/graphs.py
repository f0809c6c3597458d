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
from torch import Tensor, nn

from showtell.config import PhaseConfig, TrainConfig
from showtell.errors import first_line
from showtell.model.captioner import CaptionerModel
from showtell.model.contract import Output
from showtell.training.losses import PAD

Autocast = Callable[[], AbstractContextManager[Any]]
Function = Callable[..., Any]

_STEPS = 4  # captions are padded to a multiple: few shapes, and little padding


def worth_recording(model: CaptionerModel, *, train: TrainConfig, phase: PhaseConfig, processes: int) -> bool:
    """Whether the steps of a phase, on a GPU, can be recorded, and whether that pays.

    cuDNN runs all steps of an `nn.LSTM` at once, and nothing is won. Several processes exchange gradients in hooks, float16 scales
    its loss, blocks that wait for their turn have no gradient, and gradients of several batches are added up: not in a recording.
    """
    return (
        train.cuda_graphs
        and processes == 1
        and train.precision != "fp16"
        and train.accumulate == 1
        and not phase.unfreeze_every
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
        self._recorder: Recorder | None = recorder or Recorder()
        self._replays: dict[tuple[Any, ...], Function] = {}

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

    def replay(self, function: Callable[[Tensor], Tensor], x: Tensor) -> Tensor:
        """What `function`, the same one at each call and without gradients, gives for x: it stays until the next call."""

        def fresh(x: Tensor) -> Tensor:
            with _fresh(self._autocast):
                return function(x)

        result: Tensor = self._through(("function", *_shape(x)), lambda recorder: recorder.function(fresh, x), fresh, x)
        return result

    def _run(self, name: str, *arguments: Tensor) -> Any:
        part = _Part(self.module.get_submodule(name), self._autocast)
        if not torch.is_grad_enabled():
            return part(*arguments)
        key = (name, part.training, *(fact for x in arguments for fact in _shape(x)))
        return self._through(key, lambda recorder: recorder.module(name, part, arguments), part, *arguments)

    def _through(
        self, key: tuple[Any, ...], record: Callable[[Recorder], Function], plain: Function, *arguments: Tensor
    ) -> Any:
        if self._recorder is None or len(arguments[0]) != self.images:
            return plain(*arguments)
        if key not in self._replays:
            try:
                self._replays[key] = record(self._recorder)
            except RuntimeError as error:  # memory that is too small for recordings may be enough without
                self._note(
                    f"CUDA graphs could not be recorded ({first_line(error)}): this phase goes on without them, slower"
                )
                self._recorder = None
                self._replays.clear()
                free_recordings()
                return plain(*arguments)
        return self._replays[key](*arguments)


class Recorder:
    """Records what runs on the GPU that torch uses. What is recorded is kept in memory of its own, one for each part of a step: a part
    is over before it is replayed for another shape, but not before the next part begins."""

    def __init__(self) -> None:
        free_recordings()
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
        yield
    except RuntimeError:  # a recording that breaks off leaves the generator recording
        generator = torch.cuda.default_generators[torch.cuda.current_device()]
        generator.graphsafe_set_state(torch.Generator(generator.device).graphsafe_get_state())
        raise
    finally:
        torch.cuda.set_rng_state(state)


def free_recordings() -> None:
    """Gives back the memory of those that nobody holds any more: they hold one another."""
    gc.collect()
    if torch.cuda.is_available():
        torch.cuda.empty_cache()


def _shape(x: Tensor) -> tuple[Any, ...]:
    return (tuple(x.shape), x.dtype, x.requires_grad)
