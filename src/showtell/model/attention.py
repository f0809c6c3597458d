"""Attention over the regions of an image."""

from __future__ import annotations

from torch import Tensor, nn

from showtell.model.functions import additive_scores, exponential


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
        """values (B,R,·) -> e^{2 W_k k} (B,R,A), constant over time."""
        return exponential(self.key(values))

    def forward(self, query: Tensor, keys: Tensor) -> Tensor:
        """query (B,K,·), keys (B,R,A) -> weights (B,K,R) that sum to one over the regions."""
        scores = additive_scores(exponential(self.query(query)), keys, self.score.weight[0])  # (B,K,R)
        return scores.softmax(-1)
