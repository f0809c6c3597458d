"""Attention over the regions of an image."""

from __future__ import annotations

import torch
from torch import Tensor, nn


class AdditiveAttention(nn.Module):
    """Bahdanau's additive attention: e = vᵀ tanh(W_k k + W_q q), α = softmax(e).

    Bahdanau et al., "Neural Machine Translation by Jointly Learning to Align and Translate", 2015, appendix A.1.2.
    Keys are projected once an image (`keys`), queries once a step.
    """

    def __init__(self, *, key_size: int, query_size: int, size: int) -> None:
        super().__init__()
        self.key = nn.Linear(key_size, size)
        self.query = nn.Linear(query_size, size, bias=False)
        self.score = nn.Linear(size, 1, bias=False)

    def keys(self, values: Tensor) -> Tensor:
        """values (B,R,·) -> keys (B,R,A), constant over time."""
        keys: Tensor = self.key(values)
        return keys

    def forward(self, query: Tensor, keys: Tensor) -> Tensor:
        """query (B,K,·), keys (B,R,A) -> weights (B,K,R) that sum to one over the regions."""
        mixed = torch.tanh(keys[:, None] + self.query(query)[:, :, None])  # (B,K,R,A)
        scores: Tensor = self.score(mixed).squeeze(-1)  # (B,K,R)
        return scores.softmax(-1)
