"""The fast functions equal the plain equations, in value and in gradient."""

from __future__ import annotations

from collections.abc import Callable

import pytest
import torch
from torch import Tensor

from showtell.model import functions
from showtell.model.functions import LSTM, Dropout, additive_scores, exponential, lstm_cell


def plain_scores(query: Tensor, keys: Tensor, vector: Tensor) -> Tensor:
    return torch.tanh(keys[:, None] + query[:, :, None]) @ vector


def fast_scores(query: Tensor, keys: Tensor, vector: Tensor) -> Tensor:
    return additive_scores(exponential(query), exponential(keys), vector)


def plain_cell(gates: Tensor, cell: Tensor) -> tuple[Tensor, Tensor]:
    i, f, o, g = gates.chunk(4, -1)
    cell = torch.sigmoid(f) * cell + torch.sigmoid(i) * torch.tanh(g)
    return torch.sigmoid(o) * torch.tanh(cell), cell


def gradients(function: Callable[..., Tensor], *inputs: Tensor) -> list[Tensor]:
    """Value and gradients of a fixed weighted sum of what `function` gives."""
    leaves = [x.detach().clone().requires_grad_() for x in inputs]
    value = function(*leaves)
    (value * torch.sin(torch.arange(value.numel()).view(value.shape).float())).sum().backward()
    return [value.detach(), *(leaf.grad for leaf in leaves if leaf.grad is not None)]


@pytest.mark.parametrize("block", [1, 100, 10_000])
@pytest.mark.parametrize("scale", [0.1, 1.0, 6.0])
def test_additive_scores(block: int, scale: float, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(functions, "_BLOCK", block)
    torch.manual_seed(0)
    inputs = scale * torch.randn(3, 4, 7), scale * torch.randn(3, 6, 7), torch.randn(7)
    for fast, plain in zip(gradients(fast_scores, *inputs), gradients(plain_scores, *inputs), strict=True):
        torch.testing.assert_close(fast, plain, atol=2e-6, rtol=2e-5)


def test_saturated_keys_give_numbers() -> None:
    inputs = torch.tensor([[[500.0, -500.0]]]), torch.tensor([[[900.0, -900.0], [3.0, 3.0]]]), torch.ones(2)
    for x in gradients(fast_scores, *inputs):
        assert x.isfinite().all()
    torch.testing.assert_close(fast_scores(*inputs), torch.tensor([[[0.0, 0.0]]]))


def test_lstm_cell() -> None:
    torch.manual_seed(0)
    inputs = 2 * torch.randn(3, 4, 20), torch.randn(3, 4, 5)

    def joined(cell: Callable[[Tensor, Tensor], tuple[Tensor, Tensor]]) -> Callable[..., Tensor]:
        return lambda *x: torch.cat(cell(*x), -1)

    for fast, plain in zip(gradients(joined(lstm_cell), *inputs), gradients(joined(plain_cell), *inputs), strict=True):
        torch.testing.assert_close(fast, plain)
    with torch.no_grad():
        for fast, plain in zip(lstm_cell(*inputs), plain_cell(*inputs), strict=True):
            torch.testing.assert_close(fast, plain)


def test_dropout_keeps_the_mean_and_the_seed() -> None:
    dropout, x = Dropout(0.3), torch.ones(1000, 1000)
    torch.manual_seed(5)
    first = dropout(x)
    torch.manual_seed(5)
    assert torch.equal(first, dropout(x))
    assert first.mean().item() == pytest.approx(1, abs=5e-3)
    assert (first == 0).float().mean().item() == pytest.approx(0.3, abs=5e-3)
    columns = (first == 0).float().mean(0)
    assert columns.std().item() == pytest.approx((0.3 * 0.7 / 1000) ** 0.5, rel=0.15)  # bytes are independent
    assert torch.equal(dropout.eval()(x), x)


def test_variational_dropout_drops_the_same_at_all_steps() -> None:
    dropout = Dropout(0.5)
    dropout.variational = True
    dropped = dropout(torch.ones(5, 4, 20, 8)) == 0
    assert (dropped == dropped[:, :, :1]).all()
    assert 0.3 < dropped.float().mean() < 0.7 and dropped.any(-1).float().mean() > 0.9
    regions = dropout(torch.ones(5, 20, 8)) == 0  # no steps here
    assert (regions != regions[:, :1]).any()


@pytest.mark.skipif(not torch.cuda.is_available(), reason="needs a GPU, whose LSTM autocast would run in float16")
def test_an_lstm_on_a_gpu_computes_in_single_precision() -> None:
    lstm = LSTM(6, 4, 2, batch_first=True).cuda()
    inputs, zeros = torch.randn(3, 5, 6, device="cuda"), torch.zeros(2, 3, 4, device="cuda")
    expected, _ = lstm(inputs, (zeros, zeros))
    with torch.autocast("cuda", torch.bfloat16):
        hidden, (h, c) = lstm(inputs.bfloat16().float(), (zeros.bfloat16(), zeros))
    assert (hidden.dtype, h.dtype, c.dtype) == (torch.float32,) * 3
    torch.testing.assert_close(hidden, expected, atol=0.05, rtol=0)


def test_an_lstm_on_a_processor_is_that_of_torch() -> None:
    torch.manual_seed(0)
    lstm, plain = LSTM(6, 4, 2, batch_first=True), torch.nn.LSTM(6, 4, 2, batch_first=True)
    plain.load_state_dict(lstm.state_dict())
    inputs = torch.randn(3, 5, 6)
    torch.testing.assert_close(lstm(inputs), plain(inputs), rtol=0, atol=0)
