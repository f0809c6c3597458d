"""A decoder for search on a CPU: its linear layers are packed for the processor, with the same results up to rounding.

At each step, search multiplies a few rows by all weights, so reading the weights limits its speed. Packed once into
oneDNN's blocked layout, they let the search for one image take less than half the time. A layer's result for a row was
also observed not to depend on the number of rows, as it does where a library chooses a kernel for each shape.

N rows · T steps · I input · H hidden · L layers
"""

from __future__ import annotations

import copy
from typing import Any

import torch
from torch import Tensor, nn

from showtell.model.functions import lstm_cell

_SMALLEST = 64  # outputs; smaller layers are not worth packing


def packed(decoder: Any) -> Any:
    """A packed copy of `decoder` in `eval()`, for `prepare`, `init_state` and `step` without gradients.

    Weights that are not packed are shared. Returns the decoder itself if it is packed already, not in single precision
    on a CPU, or if torch was built without oneDNN.
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
    """`nn.Linear` with packed weights. They are a copy: later changes to the layer are not seen."""

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
    """`nn.LSTM` (batch first, one direction, no dropout), one step at a time."""

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
        """x (N,T,I), h and c (L,N,H), zeros by default -> hidden (N,T,H), h and c (L,N,H)."""
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
    """Indices that reorder torch's gates i, f, g, o to the i, f, o, g of `lstm_cell`."""
    i, f, g, o = torch.arange(4 * hidden).chunk(4)
    return torch.cat((i, f, o, g))
