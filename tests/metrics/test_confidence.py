"""Whether a captioner knows which of its captions are good."""

from __future__ import annotations

import math
import random

import pytest

from showtell.errors import DataError
from showtell.metrics import keep_above, select_surest


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


@pytest.mark.parametrize("images", [80, 157])
def test_the_correlation_is_spearmans_and_the_surest_are_scored_alone(images: int) -> None:
    sure, scores = drawn(images)
    found = select_surest(sure, scores)
    assert found is not None
    assert found.correlation == pytest.approx(pearson(ranks(sure), ranks(scores)))
    assert -1 <= found.low < found.correlation < found.high <= 1
    descending = sorted(sure, reverse=True)
    wanted = [descending[round(share * images) - 1] for share in (0.75, 0.5, 0.25)]
    assert [kept.confidence for kept in found.surest] == wanted
    for kept in (*found.surest, keep_above(sure, scores, 0.35), keep_above(sure, scores, 0.9)):
        chosen = [score for value, score in zip(sure, scores, strict=True) if value >= kept.confidence]
        assert (kept.images, kept.share) == (len(chosen), pytest.approx(len(chosen) / images))
        assert kept.score == pytest.approx(sum(chosen) / len(chosen))
        assert kept.low < kept.score < kept.high


def test_a_confidence_that_no_caption_has_keeps_none() -> None:
    kept = keep_above([0.1, 0.2], [1.0, 2.0], 0.3)
    assert (kept.images, kept.share, kept.score) == (0, 0.0, 0.0)


def test_the_order_of_the_images_does_not_matter() -> None:
    sure, scores = drawn(80)
    first, second = select_surest(sure, scores), select_surest(sure[::-1], scores[::-1])
    assert first is not None and second is not None
    assert [kept.score for kept in first.surest] == pytest.approx([kept.score for kept in second.surest])


def test_only_the_order_of_confidences_matters() -> None:
    sure, scores = drawn(80)
    first, second = select_surest(sure, scores), select_surest([math.log(value) for value in sure], scores)
    assert first is not None and second is not None
    assert (first.correlation, first.low, first.high) == (second.correlation, second.low, second.high)
    assert [(kept.score, kept.low) for kept in first.surest] == [(kept.score, kept.low) for kept in second.surest]


def test_who_is_surest_where_the_captions_are_worst_is_told_so() -> None:
    sure = [i / 30 for i in range(30)]
    found = select_surest(sure, [-value for value in sure])
    assert found is not None and found.correlation == pytest.approx(-1)


def test_the_interval_of_a_correlation_is_bonett_and_wrights() -> None:
    # Both have the ranks 1 ... 40, and swapping neighbours costs 2 each: rho = 1 - 6 * 40 / (40 * (40**2 - 1)).
    sure = [float(i) for i in range(40)]
    found = select_surest(sure, [float(i ^ 1) for i in range(40)])
    assert found is not None
    rho = 1 - 6 * 40 / (40 * (40**2 - 1))
    assert found.correlation == pytest.approx(rho)
    wide = 1.96 * math.sqrt((1 + rho**2 / 2) / 37)
    assert found.low == pytest.approx(math.tanh(math.atanh(rho) - wide))
    assert found.high == pytest.approx(math.tanh(math.atanh(rho) + wide))


def test_the_interval_of_a_score_is_as_wide_as_drawing_images_makes_it() -> None:
    draw = random.Random(3)
    sure = [i / 400 for i in range(400)]
    scores = [draw.gauss(1.0, 0.5) for _ in sure]
    found = select_surest(sure, scores, shares=(0.5,))
    assert found is not None
    (half,) = found.surest
    assert (half.high - half.low) / 2 == pytest.approx(1.96 * 0.5 / math.sqrt(200), rel=0.2)


def test_few_images_or_no_differences_say_nothing() -> None:
    sure, scores = drawn(30)
    assert select_surest(sure[:19], scores[:19]) is None
    assert select_surest([0.5] * 20, scores[:20]) is None
    assert select_surest(sure, [0.0] * 30) is None
    found = select_surest(sure, scores)
    assert found is not None and [kept.images >= 20 for kept in found.surest] == [True]  # of 75, 50 and 25 %


@pytest.mark.parametrize(
    ("sure", "scores", "shares", "message"),
    [
        ([0.1] * 20, [0.1] * 19, (0.5,), "20 confidences and 19 scores"),
        ([0.1] * 19 + [math.nan], [0.1] * 20, (0.5,), "not finite"),
        ([0.1] * 20, [0.1] * 20, (25.0,), "a share is 25"),
        ([0.1] * 20, [0.1] * 20, (0.0,), "a share is 0"),
    ],
)
def test_wrong_numbers_are_refused(sure: list[float], scores: list[float], shares: tuple[float], message: str) -> None:
    with pytest.raises(DataError, match=message):
        select_surest(sure, scores, shares=shares)
