"""A decoder for searching: its linear layers laid out as the processor reads them, the same numbers to rounding.

A search multiplies a few rows by all weights at each step, and is bound by how these are read: laid out once in the
blocks that oneDNN computes with, one image's search takes less than half of the time. What a layer gives for a row was also seen
not to depend on how many rows there are, which it does where a library chooses its way anew for each shape.

N rows · T steps · I input · H hidden · L layers
"""

from __future__ import annotations

import copy
from typing import Any

import torch
from torch import Tensor, nn

from showtell.model.functions import lstm_cell

_SMALLEST = 64  # outputs; a smaller layer is not worth it


def packed(decoder: Any) -> Any:
    """A copy of `decoder`, in `eval()`, for `prepare`, `init_state` and `step`, without gradients; other weights are shared.

    The decoder itself where it is packed already or not on a CPU, or where torch was built without oneDNN.
    """
    if any(isinstance(module, PackedLinear) for module in decoder.modules()):
        return decoder
    weights = next(decoder.parameters())
    if weights.device.type != "cpu" or weights.dtype != torch.float32 or not _can_pack():
        return decoder
    shared = {id(tensor): tensor for tensor in (*decoder.parameters(), *decoder.buffers())}
    twin = copy.deepcopy(decoder, shared)
    _replace(twin)
    return twin.eval()


def _can_pack() -> bool:
    available: bool = torch.backends.mkldnn.is_available()  # type: ignore[no-untyped-call]
    return available and hasattr(torch.ops.mkldnn, "_linear_pointwise")


def _replace(module: nn.Module) -> None:
    for name, child in module.named_children():
        if type(child) is nn.Linear and child.out_features >= _SMALLEST:
            setattr(module, name, PackedLinear(child.weight, child.bias))
        elif isinstance(child, nn.LSTM):
            setattr(module, name, PackedLSTM(child))
        else:
            _replace(child)


class PackedLinear(nn.Module):
    """`nn.Linear` with its weights laid out once. They are a copy: later changes of the layer's own are not seen."""

    def __init__(self, weight: Tensor, bias: Tensor | None) -> None:
        super().__init__()
        with torch.no_grad():
            self._packed = torch.ops.mkldnn._reorder_linear_weight(weight.detach().contiguous(), None)
            self._bias = None if bias is None else bias.detach().clone()

    @torch.no_grad()
    def forward(self, x: Tensor) -> Tensor:
        """(…,I) -> (…,O)"""
        result: Tensor = torch.ops.mkldnn._linear_pointwise(x, self._packed, self._bias, "none", [], "")
        return result


class PackedLSTM(nn.Module):
    """`nn.LSTM` (batch first, one direction, no dropout), a step at a time."""

    def __init__(self, lstm: nn.LSTM) -> None:
        super().__init__()
        self.hidden_size, self.num_layers = lstm.hidden_size, lstm.num_layers
        self.layers = nn.ModuleList(
            PackedLinear(torch.cat(weights, 1)[order], sum(biases)[order])
            for order, weights, biases in (
                (
                    _gate_order(lstm.hidden_size),
                    [getattr(lstm, f"weight_{kind}_l{layer}") for kind in ("ih", "hh")],
                    [getattr(lstm, f"bias_{kind}_l{layer}") for kind in ("ih", "hh")],
                )
                for layer in range(lstm.num_layers)
            )
        )

    @torch.no_grad()
    def forward(self, x: Tensor, state: tuple[Tensor, Tensor] | None = None) -> tuple[Tensor, tuple[Tensor, Tensor]]:
        """x (N,T,I), h and c (L,N,H), zeros where none are given -> hidden (N,T,H), h and c (L,N,H)."""
        zeros = x.new_zeros(self.num_layers, len(x), self.hidden_size)
        h, c = (list(part.unbind(0)) for part in state or (zeros, zeros))
        hidden = []
        for inputs in x.unbind(1):
            for index, layer in enumerate(self.layers):
                h[index], c[index] = lstm_cell(layer(torch.cat((inputs, h[index]), -1)), c[index])
                inputs = h[index]
            hidden.append(inputs)
        return torch.stack(hidden, 1), (torch.stack(h), torch.stack(c))


def _gate_order(hidden: int) -> Tensor:
    """torch's gates are i, f, g, o; `lstm_cell` wants i, f, o, g."""
    i, f, g, o = torch.arange(4 * hidden).chunk(4)
    return torch.cat((i, f, o, g))
