"""Several decoders, or several views of an image, as one decoder that averages their probabilities at each step.

B images · K rows per image · V vocabulary · R regions · M members
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any, NamedTuple

import torch
from torch import Tensor

from showtell.search.protocol import StepDecoder


@dataclass(frozen=True)
class Member:
    """A decoder, and how its words and regions map to those of the others.

    A member that sees the mirrored picture says "left" where the others say "right": `words` (V,) is its id for each of
    their ids, and `regions` (R,) its region for each of theirs. If not `aligned`, its regions correspond to none.
    """

    decoder: StepDecoder
    words: Tensor | None = None
    regions: Tensor | None = None
    aligned: bool = True


class EnsembleStep(NamedTuple):
    """`logits` are log-probabilities; attention is the aligned members' mean, None unless all have the same regions."""

    logits: Tensor
    state: tuple[Any, ...]
    attention: Tensor | None


class EnsembleDecoder:
    """Members behind the contract of one decoder: features, Memory and State are tuples of the members'."""

    def __init__(self, members: Sequence[Member]) -> None:
        self.members = tuple(members)

    def prepare(self, features: Sequence[Tensor]) -> tuple[Any, ...]:
        """Each member's features (B,R,F) -> each member's Memory."""
        pairs = zip(self.members, features, strict=True)
        return tuple(member.decoder.prepare(own) for member, own in pairs)

    def init_state(self, memory: tuple[Any, ...], rows: int) -> tuple[Any, ...]:
        """Each member's State."""
        pairs = zip(self.members, memory, strict=True)
        return tuple(member.decoder.init_state(own, rows) for member, own in pairs)

    def step(self, tokens: Tensor, state: tuple[Any, ...], memory: tuple[Any, ...]) -> EnsembleStep:
        """tokens (B,K) -> log(Σ p_m / M), the next State and attention."""
        log_probs, states, looked = [], [], []
        for member, own_state, own_memory in zip(self.members, state, memory, strict=True):
            words = member.words
            step = member.decoder.step(tokens if words is None else words[tokens], own_state, own_memory)
            own = step.logits.float().log_softmax(-1)  # (B,K,V)
            log_probs.append(own if words is None else own[..., words])
            states.append(step.state)
            if member.aligned:
                looked.append(
                    step.attention
                    if member.regions is None or step.attention is None
                    else step.attention[..., member.regions]
                )
        return EnsembleStep(mean_log_probs(log_probs), tuple(states), _mean(looked))


def mean_log_probs(log_probs: Sequence[Tensor]) -> Tensor:
    """M log-probabilities of one shape -> log(Σ p_m / M)."""
    return torch.stack(tuple(log_probs)).logsumexp(0) - math.log(len(log_probs))


def _mean(looked: Sequence[Tensor | None]) -> Tensor | None:
    known = [attention for attention in looked if attention is not None]
    if len(known) < len(looked) or len({attention.shape[-1] for attention in known}) != 1:
        return None
    return torch.stack([attention.float() for attention in known]).mean(0)
