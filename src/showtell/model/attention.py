"""Attention over the regions of an image: two ways to score them, one interface.

    keys(values (B,R,E)) -> (B,R,A)                                    once an image
    as_keys(projected (…,A)) -> (…,A)                                  the same, of what is projected already
    scores(query (B,K,·), keys (B,R,A)) -> (B,K,G,R)                   before the softmax
    forward(query, keys, values) -> context (B,K,E), weights (B,K,R)   each head reads its share of E

B images · K rows (or K·T rows and steps) of an image · R regions · E embedding · A attention · G heads
"""

from __future__ import annotations

import math

from torch import Tensor, nn

from showtell.errors import RecipeError
from showtell.model.functions import additive_scores, exponential

HEADS = 8  # Vaswani et al. (2017), section 3.2.2


class AdditiveAttention(nn.Module):
    """Bahdanau's additive attention: e = vᵀ tanh(W_k k + W_q q), α = softmax(e). One head.

    Bahdanau et al., "Neural Machine Translation by Jointly Learning to Align and Translate", 2015, appendix A.1.2.
    Keys are projected once an image (`keys`), queries once a step.
    """

    def __init__(self, *, key_size: int, query_size: int, size: int, heads: int = 0) -> None:
        super().__init__()
        if heads > 1:
            raise RecipeError(
                f"decoder.heads is {heads}: additive attention has one head; set decoder.attention_kind to 'dot'"
            )
        self.heads = 1
        self.key = nn.Linear(key_size, size)
        self.query = nn.Linear(query_size, size, bias=False)
        self.score = nn.Linear(size, 1, bias=False)

    def keys(self, values: Tensor) -> Tensor:
        """values (B,R,·) -> keys (B,R,A), constant over time."""
        return self.as_keys(self.key(values))

    def as_keys(self, projected: Tensor) -> Tensor:
        """What is projected to A already -> keys of the same shape: e^{2k}, the form that `additive_scores` wants."""
        return exponential(projected)

    def scores(self, query: Tensor, keys: Tensor) -> Tensor:
        """query (B,K,·), keys (B,R,A) -> scores (B,K,1,R)."""
        return additive_scores(exponential(self.query(query)), keys, self.score.weight[0])[:, :, None]

    def forward(self, query: Tensor, keys: Tensor, values: Tensor) -> tuple[Tensor, Tensor]:
        """query (B,K,·), keys (B,R,A), values (B,R,E) -> context (B,K,E), weights (B,K,R) that sum to one."""
        return attend(self.scores(query, keys), values)


class DotAttention(nn.Module):
    """Scaled dot-product attention with several heads: α = softmax(q·k / √d), each head on its share of A and of E.

    Vaswani et al., "Attention Is All You Need", 2017, equation (1) and section 3.2.2. Deviation: W^V and W^O are not
    here; the caller's values are projected already, and what reads the context is linear.
    """

    def __init__(self, *, key_size: int, query_size: int, size: int, heads: int = 0) -> None:
        super().__init__()
        self.heads = heads or HEADS
        for key, width in (("attention", size), ("embedding", key_size)):
            if width % self.heads:
                raise RecipeError(
                    f"decoder.heads is {self.heads}, which does not divide decoder.{key}, {width}; choose one that does"
                )
        self.key = nn.Linear(key_size, size, bias=False)  # a bias would add the same to the scores of all regions
        self.query = nn.Linear(query_size, size, bias=False)

    def keys(self, values: Tensor) -> Tensor:
        """values (B,R,·) -> keys (B,R,A), constant over time."""
        return self.as_keys(self.key(values))

    def as_keys(self, projected: Tensor) -> Tensor:
        """What is projected to A already is a key."""
        return projected

    def scores(self, query: Tensor, keys: Tensor) -> Tensor:
        """query (B,K,·), keys (B,R,A) -> scores (B,K,G,R)."""
        queries, by_head = split(self.query(query), self.heads), split(keys, self.heads)  # (B,G,K,·), (B,G,R,·)
        return (queries @ by_head.mT / math.sqrt(by_head.shape[-1])).transpose(1, 2)

    def forward(self, query: Tensor, keys: Tensor, values: Tensor) -> tuple[Tensor, Tensor]:
        """query (B,K,·), keys (B,R,A), values (B,R,E) -> context (B,K,E), mean weights (B,K,R) that sum to one."""
        return attend(self.scores(query, keys), values)


Attention = AdditiveAttention | DotAttention

ATTENTIONS: dict[str, type[Attention]] = {"additive": AdditiveAttention, "dot": DotAttention}


def attend(scores: Tensor, values: Tensor) -> tuple[Tensor, Tensor]:
    """scores (B,K,G,R), values (B,R,E) -> context (B,K,E), and the weights as a mean over heads (B,K,R)."""
    weights = scores.softmax(-1)
    return mix(weights, values), weights.mean(2)


def mix(weights: Tensor, values: Tensor) -> Tensor:
    """weights (B,K,G,R), values (B,R,E) -> (B,K,E): each head's weighted sum of its share of E, side by side."""
    context = weights.transpose(1, 2) @ split(values, weights.shape[2])  # (B,G,K,E/G)
    return context.transpose(1, 2).flatten(2)


def split(x: Tensor, heads: int) -> Tensor:
    """(B,R,E) -> (B,G,R,E/G)"""
    return x.view(*x.shape[:-1], heads, -1).transpose(1, 2)
