"""Bottom-Up and Top-Down: one LSTM decides where to look, a second one what to say.

Anderson et al., "Bottom-Up and Top-Down Attention for Image Captioning and Visual Question Answering", 2018, section 3.2:
the top-down half, over whatever regions there are (a grid here, detected objects there). Deviations: regions are
projected to E and layer-normalised first, and v̄ is their mean after that; h² is mapped to E before the output layer,
which can then share the word embeddings; words are scaled to the size of regions in the gates (`weigh_words`);
forget gates start open; dropout on features, words and the output.

B images · K rows of an image · R regions · T steps · F feature size · E embedding · H hidden · A attention · V vocabulary
"""

from __future__ import annotations

from typing import NamedTuple

import torch
from torch import Tensor, nn

from showtell.model.attention import ATTENTIONS
from showtell.model.contract import Output, Step, init_embedding, open_forget_gates, weigh_words
from showtell.model.functions import Dropout, lstm_cell


class UpDownMemory(NamedTuple):
    """The regions, their keys, and their mean's part of the first LSTM's gates at every step."""

    values: Tensor  # (B,R,E)
    keys: Tensor  # (B,R,A)
    gates: Tensor  # (B,4H)


class UpDownState(NamedTuple):
    """Hidden and cell state of the attention LSTM (1) and the language LSTM (2)."""

    h1: Tensor  # (B,K,H)
    c1: Tensor  # (B,K,H)
    h2: Tensor  # (B,K,H)
    c2: Tensor  # (B,K,H)


class UpDownDecoder(nn.Module):
    """Two LSTMs with attention between them."""

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
        self.word_gates = weigh_words(open_forget_gates(nn.Linear(embedding, 4 * hidden), hidden))
        self.image_gates = nn.Linear(embedding, 4 * hidden, bias=False)
        self.attention_gates = nn.Linear(2 * hidden, 4 * hidden, bias=False)
        self.language_gates = open_forget_gates(nn.Linear(embedding + 2 * hidden, 4 * hidden), hidden)
        self.deep_hidden = nn.Linear(hidden, embedding)
        self.output = nn.Linear(embedding, vocabulary_size)
        self.dropout = Dropout(dropout)
        if tied:
            self.output.weight = self.embedding.weight

    def prepare(self, features: Tensor) -> UpDownMemory:
        """features (B,R,F) -> what is constant over time."""
        values = self.regions(self.dropout(features))  # (B,R,E)
        return UpDownMemory(values, self.attention.keys(values), self.image_gates(values.mean(1)))

    def init_state(self, memory: UpDownMemory, rows: int) -> UpDownState:
        """Zeros: the mean region comes with every input."""
        zeros = memory.gates.new_zeros(memory.gates.shape[0], rows, self.hidden)
        return UpDownState(zeros, zeros, zeros, zeros)

    def step(self, tokens: Tensor, state: UpDownState, memory: UpDownMemory) -> Step:
        """tokens (B,K) -> logits (B,K,V) for the word after `tokens`, and where the decoder looked (B,K,R)."""
        words = self.dropout(self.embedding(tokens))  # (B,K,E)
        state, weights = self._cell(self.word_gates(words), state, memory)
        return Step(self._read_out(state.h2), state, weights)

    def forward(self, features: Tensor, tokens: Tensor) -> Output:
        """features (B,R,F), tokens (B,K,T) from `<start>` on -> logits (B,K,T,V), attention (B,K,T,R)."""
        memory = self.prepare(features)
        state = self.init_state(memory, tokens.shape[1])
        words = self.dropout(self.embedding(tokens))  # (B,K,T,E)
        hidden, attention = [], []
        for gates in self.word_gates(words).unbind(2):  # T × (B,K,4H)
            state, weights = self._cell(gates, state, memory)
            hidden.append(state.h2)
            attention.append(weights)
        return Output(self._read_out(torch.stack(hidden, 2)), torch.stack(attention, 2))

    def _cell(self, word_gates: Tensor, state: UpDownState, memory: UpDownMemory) -> tuple[UpDownState, Tensor]:
        """h¹ from [h²₋₁; v̄; W_e Π] (equation 2), v̂ (equations 3–5), h² from [v̂; h¹] (equation 6)."""
        before = self.attention_gates(torch.cat((state.h2, state.h1), -1))  # (B,K,4H)
        h1, c1 = lstm_cell(word_gates + memory.gates[:, None] + before, state.c1)
        context, weights = self.attention(h1, memory.keys, memory.values)  # (B,K,E), (B,K,R)
        h2, c2 = lstm_cell(self.language_gates(torch.cat((context, h1, state.h2), -1)), state.c2)
        return UpDownState(h1, c1, h2, c2), weights

    def _read_out(self, hidden: Tensor) -> Tensor:
        """W_p h² + b_p (equation 7), over any leading dimensions."""
        logits: Tensor = self.output(self.dropout(self.deep_hidden(hidden)))
        return logits
