"""The consensus is the medoid of what is likely, and its utility is CIDEr-D between captions."""

from __future__ import annotations

import itertools

import numpy as np
import pytest

from showtell.metrics.consensus import expected_utility, utilities

MEDOID, NEAR, FAR, LONELY = (5, 6, 7, 8, 2), (5, 6, 7, 9, 2), (4, 6, 7, 8, 2), (10, 11, 12, 13, 2)


def test_the_medoid_is_worth_most_and_the_lonely_one_least() -> None:
    worth = expected_utility([NEAR, MEDOID, FAR, LONELY], [-3.0] * 4)
    assert worth.argmax() == 1
    assert worth.argmin() == 3


def test_probability_outweighs_company() -> None:
    assert expected_utility([NEAR, MEDOID, FAR, LONELY], [-9.0, -9.0, -9.0, -0.01]).argmax() == 3


def test_the_order_of_candidates_and_the_scale_of_their_probability_do_not_matter() -> None:
    candidates, log_probs = [NEAR, MEDOID, FAR, LONELY], [-1.0, -2.0, -4.0, -1.5]
    worth = expected_utility(candidates, log_probs)
    for order in itertools.permutations(range(4)):
        shuffled = expected_utility([candidates[i] for i in order], [log_probs[i] - 500 for i in order])
        np.testing.assert_allclose(shuffled, worth[list(order)])


def test_utilities_are_cider_d_without_document_frequencies() -> None:
    candidates = [(5, 6, 5, 2), (5, 2), (6, 5, 5, 5, 2), ()]
    found = utilities(candidates)
    for (i, a), (j, b) in itertools.product(enumerate(candidates), repeat=2):
        assert found[i, j] == pytest.approx(by_hand(a, b), abs=1e-9)


def by_hand(candidate: tuple[int, ...], reference: tuple[int, ...]) -> float:
    total = 0.0
    for n in range(1, 5):
        own, other = (
            {g: grams.count(g) for g in grams}
            for grams in ([c[i : i + n] for i in range(len(c) - n + 1)] for c in (candidate, reference))
        )
        clipped = sum(min(own.get(g, 0), times) * times for g, times in other.items())
        norm = np.sqrt(sum(v * v for v in own.values()) * sum(v * v for v in other.values()))
        total += clipped / norm if norm else 0.0
    bigrams = max(0, len(candidate) - 1) - max(0, len(reference) - 1)
    return float(10 * total / 4 * np.exp(-(bigrams**2) / 72))
