"""Schedule and averaged weights."""

from __future__ import annotations

import pytest
import torch

from showtell.training.optim import AveragedWeights, schedule


def test_the_rate_rises_then_falls_to_a_twentieth() -> None:
    rates = [schedule(step, 100, warmup=10, cosine=True) for step in range(101)]
    assert rates[0] == pytest.approx(0.1) and rates[10] == pytest.approx(1.0)
    assert rates[100] == pytest.approx(0.05)
    assert rates[10:] == sorted(rates[10:], reverse=True)


def test_without_a_cosine_the_rate_is_constant() -> None:
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
