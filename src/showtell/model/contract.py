"""What decoders hand to training and search."""

from __future__ import annotations

from typing import Any, NamedTuple

from torch import Tensor, nn


class Step(NamedTuple):
    """One step of all rows. `state` is the decoder's own State, every tensor of it (B,K,…)."""

    logits: Tensor  # (B,K,V)
    state: Any
    attention: Tensor | None  # (B,K,R)


class Output(NamedTuple):
    """All steps of all rows, as training wants them."""

    logits: Tensor  # (B,K,T,V)
    attention: Tensor | None  # (B,K,T,R)


def init_embedding(embedding: nn.Embedding) -> nn.Embedding:
    """Small vectors, so that an output layer that shares them starts near the uniform distribution."""
    nn.init.normal_(embedding.weight, std=embedding.embedding_dim**-0.5)
    return embedding


def open_forget_gates(linear: nn.Linear, hidden: int) -> nn.Linear:
    """A bias of one for the forget gates of a map to gates i, f, o, g, … (Jozefowicz et al., 2015, section 2.2)."""
    nn.init.ones_(linear.bias[hidden : 2 * hidden])
    return linear
