"""What decoders return to training and search, and how they initialise their layers."""

from __future__ import annotations

from typing import Any, NamedTuple

import torch
from torch import Tensor, nn


class Step(NamedTuple):
    """One step of all rows. `state` is the decoder's own State, all tensors (B,K,…)."""

    logits: Tensor  # (B,K,V)
    state: Any
    attention: Tensor | None  # (B,K,R)


class Output(NamedTuple):
    """All steps of all rows, for training."""

    logits: Tensor  # (B,K,T,V)
    attention: Tensor | None  # (B,K,T,R)


def init_embedding(embedding: nn.Embedding) -> nn.Embedding:
    """Draws small vectors, so that an output layer that shares them starts near the uniform distribution."""
    nn.init.normal_(embedding.weight, std=embedding.embedding_dim**-0.5)
    return embedding


def open_forget_gates(linear: nn.Linear, hidden: int) -> nn.Linear:
    """Sets the forget gates' bias to one in a map to gates i, f, o, g, … (Jozefowicz et al., 2015, section 2.2)."""
    nn.init.ones_(linear.bias[hidden : 2 * hidden])
    return linear


def weigh_words(linear: nn.Linear) -> nn.Linear:
    """Scales a map of word vectors so that a word, small after `init_embedding`, weighs as much as a normalised region.

    Without it, previous words count for little at first, and for less the more layers lie between them and the output.
    """
    with torch.no_grad():
        linear.weight.mul_(linear.in_features**0.5)
    return linear
