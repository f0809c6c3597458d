"""The decoders, one file and one line of `DECODERS` each, all under one contract:

    prepare(features (B,R,F)) -> Memory        what is known of an image: constant over time, shared by its K rows
    init_state(memory, rows=K) -> State        what follows a row: reordered with its beam
    step(tokens (B,K), state, memory) -> Step  logits (B,K,V), state, attention (B,K,R) or None
    forward(features (B,R,F), tokens (B,K,T)) -> Output   the same for all T steps at once: training

Memory is a NamedTuple of tensors (B,…), State one of tensors (B,K,…), which may grow in time: (B,K,t,…). Attention sums to one
over the regions, or to less where the decoder looked at something else than the image as well.

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
    """The contract, and what training and search ask of a decoder as a module."""

    def prepare(self, features: Tensor) -> Any:
        """features (B,R,F) -> Memory."""

    def init_state(self, memory: Any, rows: int) -> Any:
        """The State of K rows an image before the first word."""

    def step(self, tokens: Tensor, state: Any, memory: Any) -> Step:
        """tokens (B,K) -> logits (B,K,V) for the words after them."""

    def __call__(self, features: Tensor, tokens: Tensor) -> Output:
        """features (B,R,F), tokens (B,K,T) -> logits (B,K,T,V), attention (B,K,T,R) or None."""

    def parameters(self) -> Iterator[nn.Parameter]:
        """As a module's."""

    def named_parameters(self) -> Iterator[tuple[str, nn.Parameter]]:
        """As a module's."""

    def state_dict(self) -> dict[str, Tensor]:
        """As a module's."""

    def modules(self) -> Iterator[nn.Module]:
        """As a module's."""

    def train(self, mode: bool = True) -> Self:
        """As a module's."""

    def eval(self) -> Self:
        """As a module's."""


DECODERS: dict[str, Callable[..., Decoder]] = {
    "lstm": LSTMDecoder,
    "attention": AttentionDecoder,
    "adaptive": AdaptiveDecoder,
    "updown": UpDownDecoder,
    "transformer": TransformerDecoder,
}

_PARALLEL = {"transformer"}  # all steps of a caption side by side, without a recurrence to regularise
_WIDTHS = {"attention"}  # recipes name it whatever the decoder, so that decoder.name alone can be changed


def build_decoder(
    name: str, *, feature_size: int, vocabulary_size: int, variational: bool = False, **options: Any
) -> Decoder:
    """The decoder called `name`, with those of `options` (the other keys of `DecoderConfig`) that it has.

    `variational`: its dropout drops the same at all steps of a caption.

    Raises `RecipeError` for an unknown name, for an option set that the decoder does not have, and for sizes that do not
    go together.
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
    """Raises what `build_decoder` would, before an encoder's weights are fetched; builds nothing that takes memory."""
    options = config.model_dump()
    with torch.device("meta"):
        build_decoder(options.pop("name"), feature_size=1, vocabulary_size=8, **options)


def _has(name: str, option: str) -> bool:
    return option in inspect.signature(DECODERS[name]).parameters


def count_parameters(module: nn.Module) -> int:
    """The number of parameters of a module."""
    return sum(p.numel() for p in module.parameters())
