"""The loss, against the same thing written out."""

from __future__ import annotations

import torch

from showtell.model.contract import Output
from showtell.training.losses import caption_loss


def test_padding_counts_nothing_and_the_end_counts() -> None:
    logits = torch.randn(2, 3, 5, 11, generator=torch.Generator().manual_seed(0))
    targets = torch.randint(3, 11, (2, 3, 5))
    targets[..., -1] = 2
    targets[0, 1, 2:] = 0
    targets[1, 2] = 0
    total, words = 0.0, 0
    for (b, k, t), target in zip(
        torch.cartesian_prod(*map(torch.arange, targets.shape)).tolist(), targets.flatten(), strict=True
    ):
        if target:
            total -= float(logits[b, k, t].log_softmax(0)[target])
            words += 1
    assert abs(float(caption_loss(Output(logits, None), targets)) - total / words) < 1e-5


def test_looking_everywhere_once_costs_nothing() -> None:
    logits, targets = torch.randn(1, 1, 4, 6), torch.full((1, 1, 4), 3)
    even = torch.full((1, 1, 4, 4), 0.25)
    narrow = torch.zeros(1, 1, 4, 4)
    narrow[..., 0] = 1
    plain = caption_loss(Output(logits, None), targets)
    assert torch.isclose(caption_loss(Output(logits, even), targets, doubly_stochastic=1.0), plain)
    assert caption_loss(Output(logits, narrow), targets, doubly_stochastic=1.0) > plain + 1
