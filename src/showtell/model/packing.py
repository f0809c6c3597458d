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

from showtell.model.functions import LSTM, lstm_cell

_SMALLEST = 64  # outputs; smaller layers are not worth packing


def packed(decoder: Any) -> Any:
    """A packed copy of `decoder` in `eval()`, for `prepare`, `init_state` and `step` without gradients.

    The copy shares its weights with `decoder` and differs from it in nothing but how its layers compute: `nn.Linear` and
    `nn.LSTM`, of exactly these types, in single precision on a CPU, with nothing set that the packed form cannot do.
    Returns the decoder itself if no layer is like that, or all of them are packed already, or torch was built without
    oneDNN.
    """
    layers = [name for name, module in decoder.named_modules() if _fits(module)]
    if not layers or not _can_pack():
        return decoder
    held = (tensor for module in decoder.modules() for tensor in vars(module).values() if isinstance(tensor, Tensor))
    results = [tensor for tensor in held if not tensor.is_leaf]  # of a hook, say; torch copies no such tensor
    shared = {id(tensor): tensor for tensor in (*decoder.parameters(), *decoder.buffers(), *results)}
    twin = copy.deepcopy(decoder, shared).eval()
    for name in layers:
        layer = twin.get_submodule(name)
        layer.forward = PackedLSTM(layer) if isinstance(layer, nn.LSTM) else PackedLinear(layer.weight, layer.bias)
    return twin


def _can_pack() -> bool:
    available: bool = torch.backends.mkldnn.is_available()  # type: ignore[no-untyped-call]
    return available and hasattr(torch.ops.mkldnn, "_linear_pointwise")


def _fits(layer: nn.Module) -> bool:
    """Whether the packed form computes exactly what `layer` does."""
    if layer._forward_pre_hooks or "forward" in vars(layer):  # a hook may make the weights anew for each call
        return False
    if any(weight.device.type != "cpu" or weight.dtype != torch.float32 for weight in layer.parameters(recurse=False)):
        return False
    if type(layer) is nn.Linear:
        return layer.out_features >= _SMALLEST
    return (
        type(layer) in (nn.LSTM, LSTM)
        and bool(layer.batch_first and layer.bias)
        and not (layer.bidirectional or layer.proj_size)
    )


class PackedLinear:
    """The `forward` of an `nn.Linear` with packed weights. They are a copy: later changes to the layer are not seen."""

    def __init__(self, weight: Tensor, bias: Tensor | None) -> None:
        with torch.no_grad():
            self._packed = torch.ops.mkldnn._reorder_linear_weight(weight.detach().contiguous(), None)
            self._bias = None if bias is None else bias.detach().clone()

    @torch.no_grad()
    def __call__(self, input: Tensor) -> Tensor:
        """(…,I) -> (…,O)"""
        result: Tensor = torch.ops.mkldnn._linear_pointwise(input, self._packed, self._bias, "none", [], "")
        return result


class PackedLSTM:
    """The `forward` of an `nn.LSTM` (batch first, one direction, no dropout), one step at a time."""

    def __init__(self, lstm: nn.LSTM) -> None:
        self._plain = copy.copy(lstm)  # not itself, which will hold this object: such a circle is freed late
        self._layers = [
            PackedLinear(torch.cat(weights, 1)[order], sum(biases)[order])
            for order, weights, biases in (
                (
                    _gate_order(lstm.hidden_size),
                    [getattr(lstm, f"weight_{kind}_l{layer}") for kind in ("ih", "hh")],
                    [getattr(lstm, f"bias_{kind}_l{layer}") for kind in ("ih", "hh")],
                )
                for layer in range(lstm.num_layers)
            )
        ]

    @torch.no_grad()
    def __call__(self, *given: Any, **named: Any) -> Any:
        """As the layer itself, which computes whatever is not x (N,T,I), and (h, c) if need be, in this order."""
        if named or not isinstance(given[0], Tensor) or given[0].ndim != 3:
            return self._plain(*given, **named)
        return self._run(*given)

    def _run(self, x: Tensor, state: tuple[Tensor, Tensor] | None = None) -> tuple[Tensor, tuple[Tensor, Tensor]]:
        """x (N,T,I), h and c (L,N,H), zeros by default -> hidden (N,T,H), h and c (L,N,H)."""
        zeros = x.new_zeros(self._plain.num_layers, len(x), self._plain.hidden_size)
        h, c = (list(part.unbind(0)) for part in state or (zeros, zeros))
        hidden = []
        for inputs in x.unbind(1):
            for index, layer in enumerate(self._layers):
                h[index], c[index] = lstm_cell(layer(torch.cat((inputs, h[index]), -1)), c[index])
                inputs = h[index]
            hidden.append(inputs)
        return torch.stack(hidden, 1), (torch.stack(h), torch.stack(c))


def _gate_order(hidden: int) -> Tensor:
    """Indices that reorder torch's gates i, f, g, o to the i, f, o, g of `lstm_cell`."""
    i, f, g, o = torch.arange(4 * hidden).chunk(4)
    return torch.cat((i, f, o, g))
