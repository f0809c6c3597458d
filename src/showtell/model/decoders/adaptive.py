"""Knowing When to Look: before each word, the decoder looks at the image or at its own memory.

Lu et al., "Knowing When to Look: Adaptive Attention via a Visual Sentinel for Image Captioning", 2017. Deviations:
regions are projected to E and layer-normalised instead of a ReLU (equation 14), and v_g is their mean (15); the
sentinel and h are mapped to E before they are added to the context (equation 13), so that E and H may differ and the
output layer can share the word embeddings; attention may have several heads, each with its own β; words are scaled to
the size of regions in the gates (`weigh_words`); forget gates start open; dropout on features, words and the output.

The attention returned is α̂ over the regions (equation 12): it sums to 1 − β, and the rest is the sentinel's.
`train.doubly_stochastic` would penalise the sentinel's share; leave it at 0 with this decoder.

B images · K rows of an image · R regions · T steps · F feature size · E embedding · H hidden · A attention · G heads ·
V vocabulary
"""

from __future__ import annotations

from typing import NamedTuple

import torch
from torch import Tensor, nn

from showtell.model.attention import ATTENTIONS, mix
from showtell.model.contract import Output, Step, init_embedding, open_forget_gates, weigh_words
from showtell.model.functions import Dropout, lstm_cell


class AdaptiveMemory(NamedTuple):
    """The regions, their keys, and the image's part of the gates at every step."""

    values: Tensor  # (B,R,E)
    keys: Tensor  # (B,R,A)
    gates: Tensor  # (B,5H)


class AdaptiveState(NamedTuple):
    """Hidden and cell state."""

    h: Tensor  # (B,K,H)
    c: Tensor  # (B,K,H)


class AdaptiveDecoder(nn.Module):
    """An LSTM that, after each step, looks at the image or at a sentinel of its own memory."""

    def __init__(
        self,
        *,
        feature_size: int,
        vocabulary_size: int,
        embedding: int,
        hidden: int,
        attention: int,
        attention_kind: str = "additive",
        heads: int = 0,
        dropout: float = 0.0,
        tied: bool = False,
    ) -> None:
        super().__init__()
        self.hidden = hidden
        self.regions = nn.Sequential(nn.Linear(feature_size, embedding), nn.LayerNorm(embedding))
        self.attention = ATTENTIONS[attention_kind](key_size=embedding, query_size=hidden, size=attention, heads=heads)
        self.embedding = init_embedding(nn.Embedding(vocabulary_size, embedding))
        # gates i, f, o, g, and the sentinel's
        self.word_gates = weigh_words(open_forget_gates(nn.Linear(embedding, 5 * hidden), hidden))
        self.image_gates = nn.Linear(embedding, 5 * hidden, bias=False)
        self.gates = nn.Linear(hidden, 5 * hidden, bias=False)
        self.sentinel_key = nn.Linear(hidden, attention)
        self.sentinel_value = nn.Linear(hidden, embedding)
        self.deep_hidden = nn.Linear(hidden, embedding)
        self.output = nn.Linear(embedding, vocabulary_size)
        self.dropout = Dropout(dropout)
        if tied:
            self.output.weight = self.embedding.weight

    def prepare(self, features: Tensor) -> AdaptiveMemory:
        """features (B,R,F) -> what is constant over time; the image is part of each input x_t = [w_t; v_g]."""
        values = self.regions(self.dropout(features))  # (B,R,E)
        return AdaptiveMemory(values, self.attention.keys(values), self.image_gates(values.mean(1)))

    def init_state(self, memory: AdaptiveMemory, rows: int) -> AdaptiveState:
        """Zeros: the image comes with every input."""
        zeros = memory.gates.new_zeros(memory.gates.shape[0], rows, self.hidden)
        return AdaptiveState(zeros, zeros)

    def step(self, tokens: Tensor, state: AdaptiveState, memory: AdaptiveMemory) -> Step:
        """tokens (B,K) -> logits (B,K,V) for the word after `tokens`, and where the decoder looked (B,K,R)."""
        words = self.dropout(self.embedding(tokens))  # (B,K,E)
        state, sentinel = self._cell(self.word_gates(words), state, memory)
        context, looked = self._look(state.h, sentinel, memory)
        return Step(self._read_out(state.h, context), state, looked)

    def forward(self, features: Tensor, tokens: Tensor) -> Output:
        """features (B,R,F), tokens (B,K,T) from `<start>` on -> logits (B,K,T,V), attention (B,K,T,R).

        The context does not enter the next step, so attention and output are computed for all steps at once.
        """
        memory = self.prepare(features)
        state = self.init_state(memory, tokens.shape[1])
        words = self.dropout(self.embedding(tokens))  # (B,K,T,E)
        hidden, sentinels = [], []
        for gates in self.word_gates(words).unbind(2):  # T × (B,K,5H)
            state, sentinel = self._cell(gates, state, memory)
            hidden.append(state.h)
            sentinels.append(sentinel)
        h, s = torch.cat(hidden, 1), torch.cat(sentinels, 1)  # (B,T·K,H)
        context, looked = self._look(h, s, memory)
        images, rows, steps = tokens.shape
        by_row = (x.view(images, steps, rows, -1).transpose(1, 2) for x in (h, context, looked))
        h, context, looked = by_row  # (B,K,T,·)
        return Output(self._read_out(h, context), looked)

    def _cell(self, word_gates: Tensor, state: AdaptiveState, memory: AdaptiveMemory) -> tuple[AdaptiveState, Tensor]:
        """One step of the LSTM, and the sentinel s = σ(W_x x + W_h h₋₁) ⊙ tanh(m) (equations 9 and 10)."""
        gates = word_gates + memory.gates[:, None] + self.gates(state.h)  # (B,K,5H)
        h, c = lstm_cell(gates[..., : 4 * self.hidden], state.c)
        return AdaptiveState(h, c), torch.sigmoid(gates[..., 4 * self.hidden :]) * torch.tanh(c)

    def _look(self, h: Tensor, sentinel: Tensor, memory: AdaptiveMemory) -> tuple[Tensor, Tensor]:
        """h and sentinel (B,K,H) -> the context ĉ = β s + (1 − β) c (B,K,E) and α̂ over the regions (B,K,R).

        Equations 6–8, 11 and 12: the sentinel is one more region in the softmax, one for each row.
        """
        scores = self.attention.scores(h, memory.keys)  # (B,K,G,R)
        own = self.attention.own(h, self.sentinel_key(sentinel))  # (B,K,G,1)
        weights = torch.cat((scores, own), -1).softmax(-1)  # (B,K,G,R+1)
        looked, beta = weights[..., :-1], weights[..., -1:]
        in_mind = self.sentinel_value(sentinel).view(*beta.shape[:3], -1)  # (B,K,G,E/G)
        return mix(looked, memory.values) + (beta * in_mind).flatten(2), looked.mean(2)

    def _read_out(self, hidden: Tensor, context: Tensor) -> Tensor:
        """W_p (ĉ + h) (equation 13), over any leading dimensions."""
        logits: Tensor = self.output(self.dropout(context + self.deep_hidden(hidden)))
        return logits
