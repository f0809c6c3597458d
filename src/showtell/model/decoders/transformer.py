"""The decoder half of the Transformer: each word attends to the words before it and to the image's regions.

Vaswani et al., "Attention Is All You Need", 2017. Deviations: layer normalisation comes before each sub-layer, and once
at the end (Xiong et al., "On Layer Normalization in the Transformer Architecture", 2020), so that training needs no
long warm-up; queries and keys have no bias; regions are projected to E and layer-normalised, with no encoder layers.

`embedding` is the paper's d_model, `hidden` its d_ff. The State grows over time: keys and values of the t words so far.

B images · K rows of an image · N = B·K · R regions · T new steps, t so far · F feature size · E embedding · H hidden ·
L layers · G heads · V vocabulary
"""

from __future__ import annotations

import math
from typing import NamedTuple

import torch
from torch import Tensor, nn

from showtell.model.attention import DotAttention, attend, mix
from showtell.model.contract import Output, Step, init_embedding
from showtell.model.functions import Dropout


class TransformerMemory(NamedTuple):
    """Keys and values of the regions, for each layer."""

    keys: Tensor  # (B,R,L,E)
    values: Tensor  # (B,R,L,E)


class TransformerState(NamedTuple):
    """Keys and values of the words so far, for each layer."""

    keys: Tensor  # (B,K,t,L,E)
    values: Tensor  # (B,K,t,L,E)


class Layer(nn.Module):
    """One layer: attention to the words so far, attention to the regions, feed-forward (section 3.1)."""

    def __init__(self, *, embedding: int, hidden: int, heads: int, dropout: float) -> None:
        super().__init__()
        self.before_words, self.before_regions, self.before_forward = (nn.LayerNorm(embedding) for _ in range(3))
        self.words, self.regions = (
            DotAttention(key_size=embedding, query_size=embedding, size=embedding, heads=heads) for _ in range(2)
        )
        self.word_values, self.word_output = nn.Linear(embedding, embedding), nn.Linear(embedding, embedding)
        self.region_values, self.region_output = nn.Linear(embedding, embedding), nn.Linear(embedding, embedding)
        self.feed_forward = nn.Sequential(
            nn.Linear(embedding, hidden), nn.ReLU(), Dropout(dropout), nn.Linear(hidden, embedding)
        )
        self.dropout = Dropout(dropout)

    def look_back(self, x: Tensor, keys: Tensor, values: Tensor) -> tuple[Tensor, Tensor, Tensor]:
        """New x (N,T,E), past keys and values (N,t,E) -> x after self-attention, all keys and values (N,t+T,E)."""
        normed = self.before_words(x)
        keys = torch.cat((keys, self.words.keys(normed)), 1)
        values = torch.cat((values, self.word_values(normed)), 1)
        scores = self.words.scores(normed, keys)  # (N,T,G,t+T)
        weights = (scores + _no_future(scores.shape[1], scores.shape[3], like=scores)).softmax(-1)
        return x + self.dropout(self.word_output(mix(weights, values))), keys, values

    def look_at_image(self, x: Tensor, keys: Tensor, values: Tensor) -> tuple[Tensor, Tensor]:
        """x (B,K·T,E), keys and values of regions (B,R,E) -> x after attention, mean weights of heads (B,K·T,R)."""
        context, looked = attend(self.regions.scores(self.before_regions(x), keys), values)
        return x + self.dropout(self.region_output(context)), looked

    def think(self, x: Tensor) -> Tensor:
        """x (…,E) -> x after the feed-forward network (section 3.3)."""
        thought: Tensor = x + self.dropout(self.feed_forward(self.before_forward(x)))
        return thought


class TransformerDecoder(nn.Module):
    """A small stack of layers; `step` computes only the new word and keeps its keys and values for later ones."""

    def __init__(
        self,
        *,
        feature_size: int,
        vocabulary_size: int,
        embedding: int,
        hidden: int,
        layers: int = 1,
        heads: int = 0,
        dropout: float = 0.0,
        tied: bool = False,
    ) -> None:
        super().__init__()
        self.regions = nn.Sequential(nn.Linear(feature_size, embedding), nn.LayerNorm(embedding))
        self.embedding = init_embedding(nn.Embedding(vocabulary_size, embedding))
        self.layers = nn.ModuleList(
            Layer(embedding=embedding, hidden=hidden, heads=heads, dropout=dropout) for _ in range(layers)
        )
        self.norm = nn.LayerNorm(embedding)
        self.output = nn.Linear(embedding, vocabulary_size)
        self.dropout = Dropout(dropout)
        if tied:
            self.output.weight = self.embedding.weight

    def prepare(self, features: Tensor) -> TransformerMemory:
        """features (B,R,F) -> what is constant over time."""
        regions = self.regions(self.dropout(features))  # (B,R,E)
        layers = self._layers()
        return TransformerMemory(
            torch.stack([layer.regions.keys(regions) for layer in layers], 2),
            torch.stack([layer.region_values(regions) for layer in layers], 2),
        )

    def init_state(self, memory: TransformerMemory, rows: int) -> TransformerState:
        """No words yet: (B,K,0,L,E)."""
        images, _, layers, size = memory.keys.shape
        empty = memory.keys.new_zeros(images, rows, 0, layers, size)
        return TransformerState(empty, empty)

    def step(self, tokens: Tensor, state: TransformerState, memory: TransformerMemory) -> Step:
        """tokens (B,K) -> logits (B,K,V) for the word after `tokens`, and where the last layer looked (B,K,R)."""
        output, state = self._run(tokens[..., None], state, memory)
        assert output.attention is not None
        return Step(output.logits[:, :, 0], state, output.attention[:, :, 0])

    def forward(self, features: Tensor, tokens: Tensor) -> Output:
        """features (B,R,F), tokens (B,K,T) from `<start>` on -> logits (B,K,T,V), attention (B,K,T,R)."""
        memory = self.prepare(features)
        output, _ = self._run(tokens, self.init_state(memory, tokens.shape[1]), memory)
        return output

    def _run(
        self, tokens: Tensor, state: TransformerState, memory: TransformerMemory
    ) -> tuple[Output, TransformerState]:
        """T new words (B,K,T) after those in `state`: logits (B,K,T,V), attention (B,K,T,R), the state after them."""
        images, rows, steps = tokens.shape
        past = state.keys.shape[2]
        words = self.embedding(tokens.flatten(0, 1)) * math.sqrt(self.embedding.embedding_dim)  # (N,T,E), section 3.4
        x = self.dropout(words + _positions(past, past + steps, like=words))
        looked, keys, values = x, [], []
        for index, layer in enumerate(self._layers()):
            x, key, value = layer.look_back(x, *(part[:, :, :, index].flatten(0, 1) for part in state))
            x, looked = layer.look_at_image(x.view(images, rows * steps, -1), *(part[:, :, index] for part in memory))
            x = layer.think(x).view(images * rows, steps, -1)
            keys.append(key)
            values.append(value)
        logits = self.output(self.dropout(self.norm(x))).view(images, rows, steps, -1)
        after = (
            torch.stack(parts, 2).view(images, rows, past + steps, len(parts), -1) for parts in (keys, values)
        )  # (B,K,t+T,L,E)
        return Output(logits, looked.view(images, rows, steps, -1)), TransformerState(*after)

    def _layers(self) -> list[Layer]:
        return list(self.layers)  # type: ignore[arg-type]


def _no_future(new: int, seen: int, *, like: Tensor) -> Tensor:
    """Mask (T,1,t+T) for the last T of t+T words: 0 up to the word itself, -inf after it (section 3.2.3)."""
    places = torch.arange(seen, device=like.device)
    later = places > places[seen - new :, None]
    return torch.zeros(later.shape, device=like.device).masked_fill(later, float("-inf"))[:, None]


def _positions(first: int, end: int, *, like: Tensor) -> Tensor:
    """Sinusoids (T,E) of positions `first` … `end` - 1 (section 3.5). Deviation: sines and cosines in two halves."""
    size = like.shape[-1]
    rates = torch.exp(torch.arange(0, size, 2, device=like.device) * (-math.log(10000.0) / size))
    angles = torch.arange(first, end, device=like.device)[:, None] * rates  # (T,E/2)
    return torch.cat((angles.sin(), angles.cos()), -1)[:, :size].to(like.dtype)
