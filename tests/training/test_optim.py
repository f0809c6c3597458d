"""Schedule and averaged weights."""

from __future__ import annotations

import pytest
import torch

from showtell.config import PhaseConfig, TrainConfig
from showtell.errors import BundleError
from showtell.training.checkpoint import load_optimizer, optimizer_tensors
from showtell.training.optim import AveragedWeights, build_optimizer, schedule, set_learning_rate


def test_the_rate_rises_then_falls_to_a_twentieth() -> None:
    rates = [schedule(step, 100, warmup=10, cosine=True) for step in range(101)]
    assert rates[0] == pytest.approx(0.1) and rates[10] == pytest.approx(1.0)
    assert rates[100] == pytest.approx(0.05)
    assert rates[10:] == sorted(rates[10:], reverse=True)


def test_without_a_cosine_the_rate_is_constant() -> None:
    assert schedule(7, 32, warmup=100, cosine=False) == 1.0  # a short phase learns for three quarters of its steps
    assert {schedule(step, 100, warmup=0, cosine=False) for step in range(100)} == {1.0}


def test_swapping_twice_changes_nothing() -> None:
    weights = {"w": torch.zeros(2)}
    averaged = AveragedWeights(weights, decay=0.9)
    weights["w"] += 1
    averaged.update(weights)
    averaged.swap(weights)
    assert 0 < weights["w"][0] < 1.0
    averaged.swap(weights)
    assert weights["w"].tolist() == [1.0, 1.0]


def test_the_average_of_a_constant_is_that_constant() -> None:
    weights = {"w": torch.full((3,), 2.0)}
    averaged = AveragedWeights(weights, decay=0.99)
    for _ in range(5):
        averaged.update(weights)
    assert averaged.average["w"].tolist() == [2.0, 2.0, 2.0]


def test_each_block_of_the_cnn_has_its_rate_and_its_beginning() -> None:
    decoder, *blocks = (torch.nn.Linear(2, 2) for _ in range(4))
    phase = PhaseConfig(lr=1e-3, encoder_lr=1e-4, encoder_lr_decay=0.5, unfreeze_every=2)
    optimizer = build_optimizer(
        decoder.parameters(), [list(block.parameters()) for block in blocks], phase=phase, weight_decay=0.1
    )

    def rates(epoch: int) -> list[float]:
        train = TrainConfig(cosine=False)
        assert set_learning_rate(optimizer, step=0, steps=100, epoch=epoch, train=train) == 1e-3
        of = {id(p): group["lr"] for group in optimizer.param_groups for p in group["params"]}
        assert all(of[id(block.weight)] == of[id(block.bias)] for block in blocks)
        return [of[id(block.weight)] for block in blocks]

    assert rates(0) == [0, 0, 1e-4]
    assert rates(2) == [0, 5e-5, 1e-4]
    assert rates(4) == rates(9) == [2.5e-5, 5e-5, 1e-4]


def test_a_frozen_block_stays_as_it_is() -> None:
    phase = PhaseConfig(unfreeze_every=1)
    early, late = torch.nn.Linear(2, 2), torch.nn.Linear(2, 2)
    optimizer = build_optimizer([], [list(early.parameters()), list(late.parameters())], phase=phase, weight_decay=0.1)
    before = early.weight.clone(), late.weight.clone()
    set_learning_rate(optimizer, step=0, steps=10, epoch=0, train=TrainConfig())
    late(early(torch.ones(1, 2))).sum().backward()
    optimizer.step()
    assert torch.equal(early.weight, before[0]) and not torch.equal(late.weight, before[1])


def test_the_state_of_other_parameters_is_refused() -> None:
    """Two in another order, as an earlier version's of two encoders: their moments would be read past their end."""
    weights = [torch.nn.Parameter(torch.ones(3, 4)), torch.nn.Parameter(torch.ones(5))]
    first, other, fewer = (torch.optim.AdamW(chosen) for chosen in (weights, weights[::-1], weights[:1]))
    sum(weight.sum() for weight in weights).backward()  # type: ignore[union-attr]
    first.step()
    for optimizer in (other, fewer):
        with pytest.raises(BundleError, match="other parameters, or in another order"):
            load_optimizer(optimizer, optimizer_tensors(first))
    again = torch.optim.AdamW(weights)
    load_optimizer(again, optimizer_tensors(first))
    assert torch.equal(again.state[weights[0]]["exp_avg"], first.state[weights[0]]["exp_avg"])
