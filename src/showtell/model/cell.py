"""The LSTM's cell, for decoders that do something between two steps.

B images · K rows of an image · H hidden
"""

from __future__ import annotations

import torch
from torch import Tensor, nn


def lstm_cell(gates: Tensor, c: Tensor) -> tuple[Tensor, Tensor]:
    """gates (B,K,4H) in the order i, f, o, g before their squashing, c (B,K,H) -> the next h and c."""
    i, f, o, g = gates.chunk(4, -1)
    c = torch.sigmoid(f) * c + torch.sigmoid(i) * torch.tanh(g)
    return torch.sigmoid(o) * torch.tanh(c), c


def open_forget_gates(linear: nn.Linear, hidden: int) -> nn.Linear:
    """A bias of one for the forget gates of a map to gates i, f, o, g (Jozefowicz et al., 2015, section 2.2)."""
    with torch.no_grad():
        linear.bias[hidden : 2 * hidden].fill_(1.0)
    return linear
