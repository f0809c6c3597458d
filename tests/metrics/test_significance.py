"""Intervals and paired tests: against the plain way of computing them, and on captioners known to differ or not."""

from __future__ import annotations

import random
from dataclasses import replace

import numpy as np
import pytest

from showtell.errors import DataError
from showtell.metrics import Protocol, Report, bleu, bootstrap, compare, evaluate
from showtell.metrics.significance import _resampled

PROTOCOL = Protocol("made up", "test", 1, "3", "PTB", "none", "0")
WORDS = [
    "a",
    "red",
    "green",
    "dog",
    "cat",
    "ball",
    "on",
    "under",
    "near",
    "big",
    "small",
    "runs",
    "sits",
    "house",
    "tree",
]


def corpus(images: int, seed: int = 0) -> list[list[str]]:
    draw = random.Random(seed)
    return [[" ".join(draw.choices(WORDS, k=draw.randint(5, 9))) for _ in range(3)] for _ in range(images)]


def spoil(references: list[list[str]], share: float, seed: int) -> Report:
    """A captioner that says the first reference with `share` of its words replaced."""
    draw = random.Random(seed)
    candidates = [
        " ".join(draw.choice(WORDS) if draw.random() < share else word for word in captions[0].split())
        for captions in references
    ]
    return evaluate(candidates, references, protocol=PROTOCOL)


def test_a_resampled_score_is_the_score_of_the_resampled_images() -> None:
    references = corpus(20)
    candidates = [captions[1] for captions in corpus(20, seed=1)]
    report = evaluate(candidates, references, protocol=PROTOCOL)
    drawn = _resampled([report.parts], 10, seed=3)[0]
    counts = np.random.default_rng(3).multinomial(20, np.full(20, 1 / 20), size=10)
    for row, times in zip(drawn, counts, strict=True):
        chosen = [i for i, count in enumerate(times) for _ in range(count)]
        expected = bleu([candidates[i] for i in chosen], [references[i] for i in chosen]).corpus
        assert row[:4].tolist() == pytest.approx(list(expected), abs=1e-12)
        assert row[5] == pytest.approx(float(np.mean([report.each["cider"][i] for i in chosen])), abs=1e-12)


def test_intervals_hold_the_score_and_narrow_with_more_images() -> None:
    widths = []
    for images in (30, 300):
        intervals = bootstrap(spoil(corpus(images), 0.3, seed=1))
        assert list(intervals) == ["bleu_1", "bleu_2", "bleu_3", "bleu_4", "rouge_l", "cider"]
        assert all(i.low < i.score < i.high for i in intervals.values())
        widths.append(intervals["bleu_1"].high - intervals["bleu_1"].low)
    assert 2 < widths[0] / widths[1] < 5  # √10


def test_a_better_captioner_is_found_out_and_an_equal_one_is_not() -> None:
    references = corpus(200)
    good, bad, as_good = (spoil(references, share, seed) for share, seed in ((0.2, 1), (0.4, 2), (0.2, 3)))
    for name, result in compare(bad, good).items():
        assert result.p < 0.01 and 0 < result.low < result.difference < result.high, name
    for name, result in compare(good, as_good).items():
        assert result.p > 0.05 and result.low < 0 < result.high, name
    assert {(c.difference, c.p) for c in compare(good, good).values()} == {(0.0, 1.0)}


def test_reports_may_list_their_scores_in_another_order() -> None:
    report = spoil(corpus(30), 0.3, seed=1)
    other = replace(report, parts=tuple(reversed(report.parts)))
    assert {(c.difference, c.low, c.high) for c in compare(report, other).values()} == {(0.0, 0.0, 0.0)}


def test_p_is_uniform_where_there_is_no_difference() -> None:
    references = corpus(40)
    values = [
        compare(spoil(references, 0.3, seed), spoil(references, 0.3, seed + 1000), resamples=200)["cider"].p
        for seed in range(60)
    ]
    assert 0.3 < float(np.mean(values)) < 0.7
    assert sum(p < 0.1 for p in values) <= 15


def test_other_images_cannot_be_compared() -> None:
    with pytest.raises(DataError, match="20 and 30 images"):
        compare(spoil(corpus(20), 0.2, 1), spoil(corpus(30), 0.2, 1))
