"""Show, Attend and Tell: soft attention over the grid, gated context, deep output.

Xu et al., "Show, Attend and Tell: Neural Image Caption Generation with Visual Attention", 2015. Deviations: regions
are projected to E and layer-normalised first, so that context and words have the same size; h_0 and c_0 come from one
linear map of the mean region and a tanh instead of two MLPs; attention may be scaled dot-product (`attention_kind`);
dropout on features, words and the deep output.

B images · K rows of an image · R regions · T steps · F feature size · E embedding · H hidden · A attention · V vocabulary
"""

from __future__ import annotations

from typing import NamedTuple

import torch
from torch import Tensor, nn

from showtell.model.attention import ATTENTIONS
from showtell.model.contract import Output, Step, init_embedding
from showtell.model.functions import Dropout, lstm_cell


class AttentionMemory(NamedTuple):
    """The regions of an image and their keys, projected once."""

    values: Tensor  # (B,R,E)
    keys: Tensor  # (B,R,A), as `attention.keys` gives them


class AttentionState(NamedTuple):
    """Hidden and cell state."""

    h: Tensor  # (B,K,H)
    c: Tensor  # (B,K,H)


class AttentionDecoder(nn.Module):
    """An LSTM that looks at the image before each word."""

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
        self.regions = nn.Sequential(nn.Linear(feature_size, embedding), nn.LayerNorm(embedding))
        self.attention = ATTENTIONS[attention_kind](key_size=embedding, query_size=hidden, size=attention, heads=heads)
        self.start = nn.Linear(embedding, 2 * hidden)
        self.embedding = init_embedding(nn.Embedding(vocabulary_size, embedding))
        self.word_gates = nn.Linear(embedding, 4 * hidden)
        self.gates = nn.Linear(embedding + hidden, 4 * hidden, bias=False)
        self.beta = nn.Linear(hidden, embedding)
        self.deep_hidden = nn.Linear(hidden, embedding)
        self.deep_context = nn.Linear(embedding, embedding, bias=False)
        self.output = nn.Linear(embedding, vocabulary_size)
        self.dropout = Dropout(dropout)
        if tied:
            self.output.weight = self.embedding.weight

    def prepare(self, features: Tensor) -> AttentionMemory:
        """features (B,R,F) -> what is constant over time."""
        values = self.regions(self.dropout(features))  # (B,R,E)
        return AttentionMemory(values, self.attention.keys(values))

    def init_state(self, memory: AttentionMemory, rows: int) -> AttentionState:
        """h_0 and c_0 from the mean region (section 3.1.2)."""
        h, c = torch.tanh(self.start(memory.values.mean(1))).chunk(2, -1)  # (B,H)
        return AttentionState(*(x[:, None].expand(-1, rows, -1) for x in (h, c)))  # (B,K,H)

    def step(self, tokens: Tensor, state: AttentionState, memory: AttentionMemory) -> Step:
        """tokens (B,K) -> logits (B,K,V) for the word after `tokens`, and where the decoder looked (B,K,R)."""
        words = self.dropout(self.embedding(tokens))  # (B,K,E)
        state, context, weights = self._cell(self.word_gates(words), state, memory)
        return Step(self._read_out(words, state.h, context), state, weights)

    def forward(self, features: Tensor, tokens: Tensor) -> Output:
        """features (B,R,F), tokens (B,K,T) from `<start>` on -> logits (B,K,T,V), attention (B,K,T,R).

        What does not depend on the previous step is computed for all steps at once: the words' part of the gates
        before the loop, the deep output after it.
        """
        memory = self.prepare(features)
        state = self.init_state(memory, tokens.shape[1])
        words = self.dropout(self.embedding(tokens))  # (B,K,T,E)
        hidden, contexts, attention = [], [], []
        for gates in self.word_gates(words).unbind(2):  # T × (B,K,4H)
            state, context, weights = self._cell(gates, state, memory)
            hidden.append(state.h)
            contexts.append(context)
            attention.append(weights)
        logits = self._read_out(words, torch.stack(hidden, 2), torch.stack(contexts, 2))  # (B,K,T,V)
        return Output(logits, torch.stack(attention, 2))

    def _cell(
        self, word_gates: Tensor, state: AttentionState, memory: AttentionMemory
    ) -> tuple[AttentionState, Tensor, Tensor]:
        """One step of the LSTM (equations 1–3) on the gated context β·ẑ (equations 4–6, 13; section 4.2.1)."""
        context, weights = self.attention(state.h, memory.keys, memory.values)  # (B,K,E), (B,K,R)
        context = torch.sigmoid(self.beta(state.h)) * context
        gates = word_gates + self.gates(torch.cat((context, state.h), -1))  # (B,K,4H)
        return AttentionState(*lstm_cell(gates, state.c)), context, weights

    def _read_out(self, words: Tensor, hidden: Tensor, context: Tensor) -> Tensor:
        """The deep output (equation 7): L_o (E y + L_h h + L_z ẑ), over any leading dimensions."""
        mixed = words + self.deep_hidden(self.dropout(hidden)) + self.deep_context(context)
        logits: Tensor = self.output(self.dropout(mixed))
        return logits
