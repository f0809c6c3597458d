"""The decoders: one file and one line of `DECODERS` each, all with one contract:

    prepare(features (B,R,F)) -> Memory        what is known about an image: constant over time, shared by its K rows
    init_state(memory, rows=K) -> State        what belongs to a row: reordered with its beam
    step(tokens (B,K), state, memory) -> Step  logits (B,K,V), state, attention (B,K,R) or None
    forward(features (B,R,F), tokens (B,K,T)) -> Output   the same for all T steps at once: training

Memory is a NamedTuple of tensors (B,…), State one of tensors (B,K,…), which may grow over time: (B,K,t,…).
Attention sums to one over the regions, or to less if the decoder also looked at something other than the image.

On a CPU, search uses a copy of the decoder whose `nn.Linear` and `nn.LSTM` compute with packed weights
(`showtell.model.packing`). Everything else about them stays as it is, and layers of other types, subclasses included,
compute as they were written.

B images · K rows (captions or beams) of an image · R regions · F feature size · E embedding · H hidden · V vocabulary
"""

from __future__ import annotations

import inspect
from collections.abc import Callable, Iterator
from typing import Any, Protocol, Self

import torch
from torch import Tensor, nn

from showtell.config import DecoderConfig
from showtell.errors import RecipeError
from showtell.model.contract import Output, Step
from showtell.model.decoders.adaptive import AdaptiveDecoder
from showtell.model.decoders.attention import AttentionDecoder
from showtell.model.decoders.lstm import LSTMDecoder
from showtell.model.decoders.transformer import TransformerDecoder
from showtell.model.decoders.updown import UpDownDecoder
from showtell.model.functions import Dropout


class Decoder(Protocol):
    """The contract, and the methods of a module that training and search use."""

    def prepare(self, features: Tensor) -> Any:
        """features (B,R,F) -> Memory."""

    def init_state(self, memory: Any, rows: int) -> Any:
        """The State of K rows per image before the first word."""

    def step(self, tokens: Tensor, state: Any, memory: Any) -> Step:
        """tokens (B,K) -> logits (B,K,V) for the next words."""

    def __call__(self, features: Tensor, tokens: Tensor) -> Output:
        """features (B,R,F), tokens (B,K,T) -> logits (B,K,T,V), attention (B,K,T,R) or None."""

    def parameters(self) -> Iterator[nn.Parameter]:
        """As in `nn.Module`."""

    def named_parameters(self) -> Iterator[tuple[str, nn.Parameter]]:
        """As in `nn.Module`."""

    def state_dict(self) -> dict[str, Tensor]:
        """As in `nn.Module`."""

    def modules(self) -> Iterator[nn.Module]:
        """As in `nn.Module`."""

    def train(self, mode: bool = True) -> Self:
        """As in `nn.Module`."""

    def eval(self) -> Self:
        """As in `nn.Module`."""


DECODERS: dict[str, Callable[..., Decoder]] = {
    "lstm": LSTMDecoder,
    "attention": AttentionDecoder,
    "adaptive": AdaptiveDecoder,
    "updown": UpDownDecoder,
    "transformer": TransformerDecoder,
}

_PARALLEL = {"transformer"}  # all steps of a caption at once: no recurrence to regularise
_WIDTHS = {"attention"}  # allowed with any decoder, so that a recipe can change decoder.name alone


def build_decoder(
    name: str, *, feature_size: int, vocabulary_size: int, variational: bool = False, **options: Any
) -> Decoder:
    """Builds the decoder `name` with those of `options` (the other keys of `DecoderConfig`) that it takes.

    `variational`: its dropout drops the same elements at all steps of a caption.

    Raises `RecipeError` for an unknown name, for an option that is set but that the decoder lacks, and for sizes that
    do not go together.
    """
    if name not in DECODERS:
        raise RecipeError(f"decoder.name is '{name}'; expected one of {', '.join(DECODERS)}")
    taken = {key: value for key, value in options.items() if _has(name, key)}
    for key in options.keys() - taken.keys() - _WIDTHS:
        default = DecoderConfig.model_fields[key].default
        if options[key] != default:
            having = ", ".join(other for other in DECODERS if _has(other, key))
            raise RecipeError(
                f"decoder.{key} is {options[key]!r}, which is an option of {having}; "
                f"leave it at {default!r} for the decoder '{name}'"
            )
    if variational and name in _PARALLEL:
        raise RecipeError(f"decoder.variational is an option of recurrent decoders; leave it false for '{name}'")
    decoder = DECODERS[name](feature_size=feature_size, vocabulary_size=vocabulary_size, **taken)
    if variational:
        for module in decoder.modules():
            if isinstance(module, Dropout):
                module.variational = True
    return decoder


def check_decoder(config: DecoderConfig) -> None:
    """Raises what `build_decoder` would, without using memory: for a check before an encoder's weights are fetched."""
    options = config.model_dump()
    with torch.device("meta"):
        build_decoder(options.pop("name"), feature_size=1, vocabulary_size=8, **options)


def _has(name: str, option: str) -> bool:
    return option in inspect.signature(DECODERS[name]).parameters
