"""The decoders, one file each, all under one contract:

    prepare(features (B,R,F)) -> Memory        what is known of an image: constant over time, shared by its K rows
    init_state(memory, rows=K) -> State        what follows a row: reordered with its beam
    step(tokens (B,K), state, memory) -> Step  logits (B,K,V), state, attention (B,K,R) or None
    forward(features (B,R,F), tokens (B,K,T)) -> Output   the same for all T steps at once: training

B images · K rows (captions or beams) of an image · R regions · F feature size · E embedding · H hidden · V vocabulary
"""

from __future__ import annotations

from torch import nn

from showtell.errors import RecipeError
from showtell.model.decoders.attention import AttentionDecoder
from showtell.model.decoders.lstm import LSTMDecoder

DECODERS: dict[str, type[AttentionDecoder] | type[LSTMDecoder]] = {"lstm": LSTMDecoder, "attention": AttentionDecoder}

Decoder = AttentionDecoder | LSTMDecoder


def build_decoder(
    name: str,
    *,
    feature_size: int,
    vocabulary_size: int,
    embedding: int,
    hidden: int,
    layers: int,
    attention: int,
    dropout: float,
    tied: bool,
) -> Decoder:
    """The decoder called `name`; raises `RecipeError` for an unknown name or sizes that do not go together."""
    if name not in DECODERS:
        raise RecipeError(f"decoder.name is '{name}'; expected one of {', '.join(DECODERS)}")
    if name == "lstm":
        if tied and embedding != hidden:
            raise RecipeError(f"decoder.tied needs embedding == hidden, found {embedding} and {hidden}")
        return LSTMDecoder(
            feature_size=feature_size, vocabulary_size=vocabulary_size, embedding=embedding, hidden=hidden,
            layers=layers, dropout=dropout, tied=tied,
        )  # fmt: skip
    if layers != 1:
        raise RecipeError(f"decoder.layers is {layers}: the attention decoder has one layer")
    return AttentionDecoder(
        feature_size=feature_size, vocabulary_size=vocabulary_size, embedding=embedding, hidden=hidden,
        attention=attention, dropout=dropout, tied=tied,
    )  # fmt: skip


def count_parameters(module: nn.Module) -> int:
    """The number of parameters of a module."""
    return sum(p.numel() for p in module.parameters())
