"""The ways for an image to enter the LSTM of Show and Tell: one small module each, with one interface.

    input_size                        the size of the LSTM's input
    start(lstm, image) -> (h, c)      the state before `<start>`, each (L,B,H)
    inputs(words, image) -> Tensor    what the LSTM reads at each step

B images · K rows of an image · N = B·K · T steps · E embedding · H hidden · L layers
"""

from __future__ import annotations

import torch
from torch import Tensor, nn


class FirstInput(nn.Module):
    """The image is the first input, before `<start>` (Vinyals et al., 2015, equation 10)."""

    def __init__(self, *, embedding: int, hidden: int, layers: int) -> None:
        super().__init__()
        self.input_size = embedding

    def start(self, lstm: nn.LSTM, image: Tensor) -> tuple[Tensor, Tensor]:
        """image (B,E) -> the state after the LSTM has read it."""
        _, (h, c) = lstm(image[:, None])
        return h, c

    def inputs(self, words: Tensor, image: Tensor) -> Tensor:
        """words (N,T,E) -> words, unchanged."""
        return words


class InitialState(nn.Module):
    """The image is the initial state of all layers: h₀, c₀ = tanh(W v + b), as in Xu et al. (2015), section 3.1.2."""

    def __init__(self, *, embedding: int, hidden: int, layers: int) -> None:
        super().__init__()
        self.input_size, self.layers = embedding, layers
        self.state = nn.Linear(embedding, 2 * layers * hidden)

    def start(self, lstm: nn.LSTM, image: Tensor) -> tuple[Tensor, Tensor]:
        """image (B,E) -> the state computed from it."""
        state = torch.tanh(self.state(image)).view(image.shape[0], 2, self.layers, -1)  # (B,2,L,H)
        h, c = state.permute(1, 2, 0, 3).contiguous()
        return h, c

    def inputs(self, words: Tensor, image: Tensor) -> Tensor:
        """words (N,T,E) -> words, unchanged."""
        return words


class EveryInput(nn.Module):
    """The image is appended to each word, as in Donahue et al., "Long-term Recurrent Convolutional Networks", 2015."""

    def __init__(self, *, embedding: int, hidden: int, layers: int) -> None:
        super().__init__()
        self.input_size, self.layers, self.hidden = 2 * embedding, layers, hidden

    def start(self, lstm: nn.LSTM, image: Tensor) -> tuple[Tensor, Tensor]:
        """image (B,E) -> zeros."""
        zeros = image.new_zeros(self.layers, image.shape[0], self.hidden)
        return zeros, zeros

    def inputs(self, words: Tensor, image: Tensor) -> Tensor:
        """words (N,T,E), image (B,E) -> (N,T,2E)."""
        by_image = words.view(image.shape[0], -1, *words.shape[1:])  # (B,K,T,E)
        return torch.cat((by_image, image[:, None, None].expand_as(by_image)), -1).flatten(0, 1)


Injection = FirstInput | InitialState | EveryInput

INJECTIONS: dict[str, type[Injection]] = {"first": FirstInput, "state": InitialState, "every": EveryInput}
