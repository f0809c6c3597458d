"""The hot spots of training, written for speed: equal to the plain equations up to rounding.

`tests/model/test_functions.py` holds the plain form of each function and compares values and gradients with it.

B images · K rows of an image · R regions · A attention · H hidden
"""

from __future__ import annotations

import math
from typing import Any

import torch
from torch import Tensor, nn
from torch.autograd import Function

_SATURATED = 20.0  # tanh(±20) is ±1 even in double precision, and e^{±80} still fits single precision
_BLOCK = 192 * 1024  # elements: a block stays in a core's L2 cache
_ACCELERATOR_BLOCK = 64 * 1024 * 1024  # elements: a quarter of a gigabyte, so few kernel launches


def exponential(projected: Tensor) -> Tensor:
    """x -> e^{2x} in single precision: the form in which `additive_scores` takes keys and queries."""
    return torch.exp(2 * projected.float().clamp(-_SATURATED, _SATURATED))


def additive_scores(query: Tensor, keys: Tensor, vector: Tensor) -> Tensor:
    """vᵀ tanh(k + q) for each row and region: query (B,K,A), keys (B,R,A), both as `exponential` gives them -> (B,K,R).

    tanh(k + q) = 1 − 2 / (1 + e^{2k} e^{2q}), so the exponentials are computed per key and per query, not per pair, and
    a pair costs one product and one reciprocal. Pairs are visited in blocks that fit a cache, and recomputed for the
    gradient instead of stored.
    """
    with torch.autocast(query.device.type, enabled=False):  # autocast would copy every block to another dtype
        run = _AdditiveScores.apply if torch.is_grad_enabled() else _AdditiveScores.forward
        scores: Tensor = run(query, keys, vector.float())
    return scores


class _AdditiveScores(Function):
    @staticmethod
    def forward(query: Tensor, keys: Tensor, vector: Tensor) -> Tensor:
        if torch.compiler.is_compiling():  # the number of images is unknown then
            return _score(_reciprocal(query, keys), vector)
        scores = query.new_empty((*query.shape[:2], keys.shape[1]))
        for images, regions in _blocks(query, keys):
            pairs = _reciprocal(query[images], keys[images, regions])  # (b,K,r,A)
            scores[images, :, regions] = _score(pairs, vector)
        return scores

    @staticmethod
    def setup_context(ctx: Any, inputs: tuple[Tensor, Tensor, Tensor], output: Tensor) -> None:
        ctx.save_for_backward(*inputs)

    @staticmethod
    def backward(ctx: Any, grad: Tensor) -> tuple[Tensor, Tensor, Tensor]:
        # With p = 1 / (1 + u), u = e^{2k} e^{2q}: d tanh = 4 (p − p²) d(k + q), and d e^{2k} = 2 e^{2k} dk.
        query, keys, vector = ctx.saved_tensors
        by_query, by_key = torch.zeros_like(query), torch.empty_like(keys)
        by_vector = torch.zeros_like(vector)
        for images, regions in _blocks(query, keys):
            pairs = _reciprocal(query[images], keys[images, regions])  # (b,K,r,A)
            weight = grad[images, :, regions]  # (b,K,r)
            by_vector += _vector_gradient(pairs, weight)
            pairs.addcmul_(pairs, pairs, value=-1)
            by_query[images] += (weight[..., None, :] @ pairs)[..., 0, :]
            by_key[images, regions] = pairs.mul_(weight[..., None]).sum(1)
        return by_query.mul_(2 * vector).div_(query), by_key.mul_(2 * vector).div_(keys), by_vector


def _blocks(query: Tensor, keys: Tensor) -> list[tuple[slice, slice]]:
    """Slices of images and regions whose pairs fit a block: several small images, or some regions of a large one."""
    images, rows, size = query.shape
    most = _BLOCK if query.device.type == "cpu" else _ACCELERATOR_BLOCK
    together = min(images, max(1, most // (rows * size * keys.shape[1])))
    count = max(1, most // (together * rows * size))
    return [
        (slice(image, image + together), slice(start, start + count))
        for image in range(0, images, together)
        for start in range(0, keys.shape[1], count)
    ]


def _reciprocal(query: Tensor, keys: Tensor) -> Tensor:
    """1 / (1 + e^{2k} e^{2q}): query (…,K,A), keys (…,R,A) -> (…,K,R,A)"""
    return torch.addcmul(query.new_ones(()), keys[..., None, :, :], query[..., None, :]).reciprocal_()


def _score(pairs: Tensor, vector: Tensor) -> Tensor:
    """Σ v (1 − 2 p) over the last dimension."""
    return vector.sum() - 2 * (pairs @ vector)


def _vector_gradient(pairs: Tensor, weight: Tensor) -> Tensor:
    """Σ g (1 − 2 p) over rows and regions."""
    return weight.sum() - 2 * (pairs.flatten(0, -2).t() @ weight.flatten())


def lstm_cell(gates: Tensor, cell: Tensor) -> tuple[Tensor, Tensor]:
    """gates (…,4H) in the order i, f, o, g before their nonlinearities, cell (…,H) -> h (…,H), c (…,H).

    c = σ(f) ⊙ c + σ(i) ⊙ tanh(g), h = σ(o) ⊙ tanh(c) (Hochreiter & Schmidhuber, 1997, with forget gates).
    """
    if not torch.is_grad_enabled():
        i, f, o, g = _gates(gates.float())
        cell = f * cell + i * g
        return o * torch.tanh(cell), cell
    h, c = _LSTMCell.apply(gates, cell)
    return h, c


class _LSTMCell(Function):
    """A dozen operations where autograd would record thirty: on small tensors, the number of operations is the cost."""

    @staticmethod
    def forward(ctx: Any, gates: Tensor, cell: Tensor) -> tuple[Tensor, Tensor]:
        i, f, o, g = _gates(gates.float())
        after = (f * cell).addcmul_(i, g)
        squashed = torch.tanh(after)
        ctx.save_for_backward(i, f, o, g, cell, squashed)
        ctx.dtype = gates.dtype
        return o * squashed, after

    @staticmethod
    def backward(ctx: Any, grad_h: Tensor, grad_c: Tensor) -> tuple[Tensor, Tensor]:
        i, f, o, g, cell, squashed = ctx.saved_tensors
        through = grad_c + grad_h * o * (1 - squashed * squashed)
        grads = torch.empty((*i.shape[:-1], 4 * i.shape[-1]), dtype=ctx.dtype, device=i.device)
        by_i, by_f, by_o, by_g = grads.chunk(4, -1)
        by_i.copy_(through * g * i * (1 - i))
        by_f.copy_(through * cell * f * (1 - f))
        by_o.copy_(grad_h * squashed * o * (1 - o))
        by_g.copy_(through * i * (1 - g * g))
        return grads, through * f


def _gates(gates: Tensor) -> tuple[Tensor, Tensor, Tensor, Tensor]:
    i, f, o, g = gates.chunk(4, -1)
    return torch.sigmoid(i), torch.sigmoid(f), torch.sigmoid(o), torch.tanh(g)


class LSTM(nn.LSTM):
    """`nn.LSTM` that computes in single precision on a GPU: autocast would have cuDNN run it in float16, whatever the
    dtype of the rest, and a bfloat16 run has no loss scaling, which float16 gradients need."""

    def forward(  # type: ignore[override]
        self, inputs: Tensor, state: tuple[Tensor, Tensor] | None = None
    ) -> tuple[Tensor, tuple[Tensor, Tensor]]:
        """inputs (N,T,I), h and c (L,N,H), zeros by default -> hidden (N,T,H), h and c (L,N,H)."""
        if inputs.device.type != "cuda":
            return super().forward(inputs, state)
        if state is not None:
            state = (state[0].float(), state[1].float())
        with torch.autocast("cuda", enabled=False):
            return super().forward(inputs.float(), state)


class Dropout(nn.Module):
    """Dropout that, on the CPU, draws a byte where `nn.Dropout` draws a number, in a tenth of the time.

    There the probability is rounded to 1/256, and what is kept is scaled by the rounded one, so the mean stays exact.
    `variational`: for x (B,K,T,·), the same elements are dropped at all steps of a caption (Gal & Ghahramani, "A
    Theoretically Grounded Application of Dropout in Recurrent Neural Networks", 2016, section 4). Deviation: only for
    what enters and leaves the recurrence; it changes nothing within it or between the layers of an `nn.LSTM`.
    """

    def __init__(self, p: float) -> None:
        super().__init__()
        self.p = p
        self.variational = False

    def forward(self, x: Tensor) -> Tensor:
        """x of any shape -> the same shape; unchanged outside training."""
        dropped = min(255, round(256 * self.p))
        if not self.training or not dropped:
            return x
        shape = (*x.shape[:2], 1, *x.shape[3:]) if self.variational and x.ndim == 4 else x.shape
        if x.device.type != "cpu":
            if shape == x.shape:
                return nn.functional.dropout(x, self.p)
            return x * nn.functional.dropout(x.new_ones(shape), self.p)
        count = math.prod(shape)
        words = torch.empty((count + 7) // 8, dtype=torch.int64).random_(torch.iinfo(torch.int64).min, None)
        kept = words.view(torch.uint8)[:count].view(shape) >= dropped
        return x * kept.to(x.dtype).mul_(256 / (256 - dropped))

    def extra_repr(self) -> str:
        """What `print(model)` shows."""
        return f"p={self.p}" + ", variational" * self.variational
