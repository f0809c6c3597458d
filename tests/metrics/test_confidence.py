"""Whether a captioner knows which of its captions are good."""

from __future__ import annotations

import math
import random

import pytest

from showtell.errors import DataError
from showtell.metrics import assess_confidence


def ranks(values: list[float]) -> list[float]:
    """By the definition: the mean of the places that a value's equals have in the sorted list."""
    ordered = sorted(values)
    return [sum(i + 1 for i, other in enumerate(ordered) if other == v) / ordered.count(v) for v in values]


def pearson(one: list[float], two: list[float]) -> float:
    middle = sum(one) / len(one), sum(two) / len(two)
    along = sum((a - middle[0]) * (b - middle[1]) for a, b in zip(one, two, strict=True))
    return along / math.sqrt(sum((a - middle[0]) ** 2 for a in one) * sum((b - middle[1]) ** 2 for b in two))


def drawn(images: int, seed: int = 0) -> tuple[list[float], list[float]]:
    draw = random.Random(seed)
    sure = [draw.randint(1, 9) / 10 for _ in range(images)]  # with ties
    return sure, [value + draw.choice([0.0, 0.5, 1.0]) for value in sure]


@pytest.mark.parametrize("images", [20, 57])
def test_the_correlation_is_spearmans_and_the_surest_are_scored_alone(images: int) -> None:
    sure, scores = drawn(images)
    found = assess_confidence(sure, scores)
    assert found is not None
    assert found.correlation == pytest.approx(pearson(ranks(sure), ranks(scores)))
    assert -1 <= found.low < found.correlation < found.high <= 1
    ordered = sorted(range(images), key=lambda i: (-sure[i], i))
    assert [kept.share for kept in found.kept] == [0.75, 0.5, 0.25]
    for kept in found.kept:
        first = ordered[: round(kept.share * images)]
        assert kept.confidence == min(sure[i] for i in first)
        assert kept.score == pytest.approx(sum(scores[i] for i in first) / len(first))


def test_only_the_order_of_confidences_matters() -> None:
    sure, scores = drawn(40)
    first, second = assess_confidence(sure, scores), assess_confidence([math.log(value) for value in sure], scores)
    assert first is not None and second is not None
    assert (first.correlation, first.low, first.high) == (second.correlation, second.low, second.high)
    assert [kept.score for kept in first.kept] == [kept.score for kept in second.kept]


def test_who_is_surest_where_the_captions_are_worst_is_told_so() -> None:
    sure = [i / 30 for i in range(30)]
    found = assess_confidence(sure, [-value for value in sure])
    assert found is not None
    assert (found.correlation, found.low, found.high) == (pytest.approx(-1), pytest.approx(-1), pytest.approx(-1))


def test_the_interval_holds_what_more_images_say_in_most_draws() -> None:
    true = assess_confidence(*drawn(20_000, seed=1))
    assert true is not None
    parts = [assess_confidence(*drawn(200, seed=seed)) for seed in range(2, 202)]
    inside = sum(part is not None and part.low < true.correlation < part.high for part in parts)
    assert 0.9 < inside / len(parts) < 0.99


def test_few_images_or_no_differences_say_nothing() -> None:
    sure, scores = drawn(20)
    assert assess_confidence(sure[:19], scores[:19]) is None
    assert assess_confidence([0.5] * 20, scores) is None
    assert assess_confidence(sure, [0.0] * 20) is None
    with pytest.raises(DataError, match="20 confidences and 19 scores"):
        assess_confidence(sure, scores[:19])
