"""Show and Tell: the image is the LSTM's first input, followed by `<start>` and the words.

`inject` can make it the initial state or part of every input instead (`showtell.model.injection`).

Vinyals et al., "Show and Tell: A Neural Image Caption Generator", 2015, equations (10)–(12). Deviations: dropout on
features, words and outputs; features are standardised over the training images and their linear map layer-normalised,
so that differences between images are no smaller than a word from the first step on; forget gates start open
(Jozefowicz et al., 2015), so that the image is remembered to the end of the caption.

B images · K rows of an image · T steps · F feature size · E embedding · H hidden · L layers · V vocabulary
"""

from __future__ import annotations

from typing import NamedTuple

import torch
from torch import Tensor, nn

from showtell.errors import RecipeError
from showtell.model.contract import Output, Step, init_embedding
from showtell.model.functions import LSTM, Dropout
from showtell.model.injection import INJECTIONS


class LSTMMemory(NamedTuple):
    """The image as a vector of a word's size."""

    image: Tensor  # (B,E)


class LSTMState(NamedTuple):
    """Hidden and cell states of all layers."""

    h: Tensor  # (B,K,L,H)
    c: Tensor  # (B,K,L,H)


class Standardize(nn.Module):
    """Features (B,F) minus their mean, divided by their deviation; both are running averages over training batches.

    Unlike batch normalisation, training and search use the same averages, and a batch may hold a single image.
    """

    mean: Tensor
    square: Tensor
    count: Tensor

    def __init__(self, size: int, *, slowest: float = 1e-3) -> None:
        """`slowest`: the smallest weight of a batch; until it is reached, all batches weigh the same."""
        super().__init__()
        self.slowest = slowest
        self.register_buffer("mean", torch.zeros(size))
        self.register_buffer("square", torch.ones(size))
        self.register_buffer("count", torch.zeros(()))

    def forward(self, features: Tensor) -> Tensor:
        """features (B,F) -> (B,F), in single precision."""
        features = features.float()
        if self.training:
            with torch.no_grad():
                self.count += 1
                weight = self.count.reciprocal().clamp(min=self.slowest)
                self.mean.lerp_(features.mean(0), weight)
                self.square.lerp_(features.square().mean(0), weight)
        variance = (self.square - self.mean.square()).clamp(min=1e-5)
        return (features - self.mean) * variance.rsqrt()


class LSTMDecoder(nn.Module):
    """An LSTM language model that is given the image."""

    def __init__(
        self,
        *,
        feature_size: int,
        vocabulary_size: int,
        embedding: int,
        hidden: int,
        layers: int = 1,
        inject: str = "first",
        dropout: float = 0.0,
        tied: bool = False,
    ) -> None:
        super().__init__()
        if tied and embedding != hidden:
            raise RecipeError(
                f"decoder.tied needs embedding == hidden for lstm, found {embedding} and {hidden}; "
                f"set decoder.embedding={hidden} as well, or decoder.tied=false"
            )
        self.standardize = Standardize(feature_size)
        self.image = nn.Sequential(nn.Linear(feature_size, embedding), nn.LayerNorm(embedding))
        self.embedding = init_embedding(nn.Embedding(vocabulary_size, embedding))
        self.inject = INJECTIONS[inject](embedding=embedding, hidden=hidden, layers=layers)
        between = dropout if layers > 1 else 0.0
        self.lstm = LSTM(self.inject.input_size, hidden, layers, batch_first=True, dropout=between)
        for layer in range(layers):
            nn.init.ones_(getattr(self.lstm, f"bias_ih_l{layer}")[hidden : 2 * hidden])  # gates i, f, g, o
        self.dropout = Dropout(dropout)
        self.output = nn.Linear(hidden, vocabulary_size)
        if tied:
            self.output.weight = self.embedding.weight

    def prepare(self, features: Tensor) -> LSTMMemory:
        """features (B,R,F) -> the image's vector; a grid is averaged over its regions."""
        return LSTMMemory(self.image(self.dropout(self.standardize(features.mean(1)))))  # (B,E)

    def init_state(self, memory: LSTMMemory, rows: int) -> LSTMState:
        """The state after the LSTM has seen the image (equation 10), for each of K rows."""
        h, c = self.inject.start(self.lstm, memory.image)  # (L,B,H)
        expand = (-1, rows, -1, -1)
        return LSTMState(*(x.transpose(0, 1)[:, None].expand(expand) for x in (h, c)))  # (B,K,L,H)

    def step(self, tokens: Tensor, state: LSTMState, memory: LSTMMemory) -> Step:
        """tokens (B,K) -> logits (B,K,V), for the word after `tokens`."""
        logits, state = self._run(tokens[..., None], state, memory)
        return Step(logits[:, :, 0], state, None)

    def forward(self, features: Tensor, tokens: Tensor) -> Output:
        """features (B,R,F), tokens (B,K,T) from `<start>` on -> logits (B,K,T,V): teacher forcing."""
        memory = self.prepare(features)
        logits, _ = self._run(tokens, self.init_state(memory, tokens.shape[1]), memory)
        return Output(logits, None)

    def _run(self, tokens: Tensor, state: LSTMState, memory: LSTMMemory) -> tuple[Tensor, LSTMState]:
        """tokens (B,K,T) -> logits (B,K,T,V) and the state after them (equations 11 and 12)."""
        images, rows, _ = tokens.shape
        words = self.dropout(self.embedding(tokens)).flatten(0, 1)  # (N,T,E), N = B·K
        before = tuple(x.flatten(0, 1).transpose(0, 1).contiguous() for x in state)  # (L,N,H)
        hidden, after = self.lstm(self.inject.inputs(words, memory.image), before)  # (N,T,H)
        logits = self.output(self.dropout(hidden.unflatten(0, (images, rows))))  # (B,K,T,V)
        return logits, LSTMState(*(x.transpose(0, 1).unflatten(0, (images, rows)) for x in after))
