"""Attention over the regions of an image: two ways to score them, one interface.

    keys(values (B,R,E)) -> (B,R,A)                                    once per image, in its own form
    scores(query (B,K,·), keys (B,R,A)) -> (B,K,G,R)                   before the softmax
    own(query (B,K,·), key (B,K,A)) -> (B,K,G,1)                       the score of one extra region for each row
    forward(query, keys, values) -> context (B,K,E), weights (B,K,R)   each head reads its share of E

B images · K rows (or K·T rows and steps) of an image · R regions · E embedding · A attention · G heads
"""

from __future__ import annotations

import math

import torch
from torch import Tensor, nn

from showtell.errors import RecipeError
from showtell.model.functions import additive_scores, exponential

HEADS = 8  # Vaswani et al. (2017), section 3.2.2


class AdditiveAttention(nn.Module):
    """Bahdanau's additive attention: e = vᵀ tanh(W_k k + W_q q), α = softmax(e). One head.

    Bahdanau et al., "Neural Machine Translation by Jointly Learning to Align and Translate", 2015, appendix A.1.2.
    Keys are projected once per image (`keys`), queries once per step.
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
        """values (B,R,·) -> e^{2 W_k k} (B,R,A), constant over time."""
        return exponential(self.key(values))

    def scores(self, query: Tensor, keys: Tensor) -> Tensor:
        """query (B,K,·), keys (B,R,A) -> scores (B,K,1,R)."""
        scores = additive_scores(exponential(self.query(query)), keys, self.score.weight[0])  # (B,K,R)
        return scores[:, :, None]

    def own(self, query: Tensor, key: Tensor) -> Tensor:
        """query (B,K,·), key (B,K,A), already projected -> scores (B,K,1,1)."""
        score: Tensor = self.score(torch.tanh(key + self.query(query)))
        return score[..., None]

    def forward(self, query: Tensor, keys: Tensor, values: Tensor) -> tuple[Tensor, Tensor]:
        """query (B,K,·), keys (B,R,A), values (B,R,E) -> context (B,K,E), weights (B,K,R) that sum to one."""
        return attend(self.scores(query, keys), values)


class DotAttention(nn.Module):
    """Scaled dot-product attention with several heads: α = softmax(q·k / √d), each head on its share of A and of E.

    Vaswani et al., "Attention Is All You Need", 2017, equation (1) and section 3.2.2. Deviation: no W^V and W^O
    here; the caller's values are already projected, and a linear layer reads the context.
    """

    def __init__(self, *, key_size: int, query_size: int, size: int, heads: int = 0) -> None:
        super().__init__()
        self.heads = heads or HEADS
        for key, width in (("attention", size), ("embedding", key_size)):
            if width % self.heads:
                raise RecipeError(
                    f"decoder.heads is {self.heads}, which does not divide decoder.{key}, {width}; choose one that does"
                )
        self.key = nn.Linear(key_size, size, bias=False)  # a bias would shift the scores of all regions equally
        self.query = nn.Linear(query_size, size, bias=False)

    def keys(self, values: Tensor) -> Tensor:
        """values (B,R,·) -> keys (B,R,A), constant over time."""
        keys: Tensor = self.key(values)
        return keys

    def scores(self, query: Tensor, keys: Tensor) -> Tensor:
        """query (B,K,·), keys (B,R,A) -> scores (B,K,G,R)."""
        queries, by_head = split(self.query(query), self.heads), split(keys, self.heads)  # (B,G,K,·), (B,G,R,·)
        return (queries @ by_head.mT / math.sqrt(by_head.shape[-1])).transpose(1, 2)

    def own(self, query: Tensor, key: Tensor) -> Tensor:
        """query (B,K,·), key (B,K,A), already projected -> scores (B,K,G,1)."""
        products = (self.query(query) * key).view(*key.shape[:2], self.heads, -1)
        scores: Tensor = products.sum(-1, keepdim=True) / math.sqrt(products.shape[-1])
        return scores

    def forward(self, query: Tensor, keys: Tensor, values: Tensor) -> tuple[Tensor, Tensor]:
        """query (B,K,·), keys (B,R,A), values (B,R,E) -> context (B,K,E), mean weights (B,K,R) that sum to one."""
        return attend(self.scores(query, keys), values)


Attention = AdditiveAttention | DotAttention

ATTENTIONS: dict[str, type[Attention]] = {"additive": AdditiveAttention, "dot": DotAttention}


def attend(scores: Tensor, values: Tensor) -> tuple[Tensor, Tensor]:
    """scores (B,K,G,R), values (B,R,E) -> context (B,K,E), and the weights averaged over heads (B,K,R)."""
    weights = scores.softmax(-1)
    return mix(weights, values), weights.mean(2)


def mix(weights: Tensor, values: Tensor) -> Tensor:
    """weights (B,K,G,R), values (B,R,E) -> (B,K,E): each head's weighted sum of its share of E, concatenated."""
    context = weights.transpose(1, 2) @ split(values, weights.shape[2])  # (B,G,K,E/G)
    return context.transpose(1, 2).flatten(2)


def split(x: Tensor, heads: int) -> Tensor:
    """(B,R,E) -> (B,G,R,E/G)"""
    return x.view(*x.shape[:-1], heads, -1).transpose(1, 2)
