"""Whether a captioner knows which of its captions are good: its confidence against their scores.

Selective prediction: keep the captions that the model is surest of, and score these alone, for several shares of all.
That is the risk-coverage curve of El-Yaniv and Wiener, "On the Foundations of Noise-free Selective Classification",
2010, with a score in place of the risk. Scores of an image do not change with the images kept: CIDEr has the document
frequencies of the whole split.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from showtell.errors import DataError

SHARES = (0.75, 0.5, 0.25)
_FEWEST = 20  # captions that are told of; fewer say nothing
_NORMAL = 1.96  # standard deviations that hold 95 %
_DRAWS, _CHUNK = 1000, 128  # resamples, and how many at a time: flat memory

Floats = NDArray[np.float64]


@dataclass(frozen=True, slots=True)
class Kept:
    """The captions of at least some `confidence`: their share of all, their mean score and its 95 % interval."""

    share: float
    confidence: float
    score: float
    low: float
    high: float


@dataclass(frozen=True, slots=True)
class Selection:
    """What confidence is worth: Spearman's rank correlation with the scores, its 95 % interval, and captions kept by it."""

    correlation: float
    low: float
    high: float
    kept: tuple[Kept, ...]


def select_surest(
    confidences: Sequence[float],
    scores: Sequence[float],
    *,
    shares: Sequence[float] = SHARES,
    least: Sequence[float] = (),
) -> Selection | None:
    """What one confidence and one score per image say of each other.

    The captions kept are the surest, for each of `shares` (fractions of the images; more where several have the last
    one's confidence), and those of at least a confidence, for each of `least`; without those that would be fewer than
    20. Their intervals are from a bootstrap over the images, that of the correlation is Bonett and Wright's, "Sample
    Size Requirements for Estimating Pearson, Kendall and Spearman Correlations", 2000. None for fewer than 20 images,
    and where all confidences or all scores are the same. `DataError` for uneven lists, for numbers that are not finite
    and for shares that are not above 0 and up to 1.
    """
    if len(confidences) != len(scores):
        raise DataError(f"found {len(confidences)} confidences and {len(scores)} scores; expected one of each an image")
    sure, good = np.asarray(confidences, dtype=np.float64), np.asarray(scores, dtype=np.float64)
    if not (np.isfinite(sure).all() and np.isfinite(good).all()):
        raise DataError("a confidence or a score is not finite; expected numbers")
    if wrong := [share for share in shares if not 0 < share <= 1]:
        raise DataError(f"a share is {wrong[0]}; expected more than 0 and up to 1")
    if len(sure) < _FEWEST or np.ptp(sure) == 0 or np.ptp(good) == 0:
        return None
    descending = np.sort(sure)[::-1]
    thresholds = [*(descending[max(1, round(share * len(sure))) - 1] for share in shares), *least]
    kept = [_keep(float(threshold), sure, good) for threshold in thresholds if (sure >= threshold).sum() >= _FEWEST]
    return Selection(*_correlation(sure, good), tuple(kept))


def _correlation(sure: Floats, good: Floats) -> tuple[float, float, float]:
    """Spearman's, and its interval."""
    found = float(np.clip(np.corrcoef(_ranks(sure), _ranks(good))[0, 1], -1.0, 1.0))
    if abs(found) == 1:
        return found, found, found
    wide = _NORMAL * math.sqrt((1 + found**2 / 2) / (len(sure) - 3))
    return found, math.tanh(math.atanh(found) - wide), math.tanh(math.atanh(found) + wide)


def _keep(threshold: float, sure: Floats, good: Floats) -> Kept:
    chosen = sure >= threshold
    means = _resampled(chosen.astype(np.float64), good)
    low, high = np.quantile(means, [0.025, 0.975])
    return Kept(float(chosen.mean()), threshold, float(good[chosen].mean()), float(low), float(high))


def _resampled(chosen: Floats, good: Floats) -> Floats:
    """The mean score of the chosen images, each time that all images are drawn again with replacement."""
    draw, images = np.random.default_rng(0), len(good)
    means = []
    for start in range(0, _DRAWS, _CHUNK):
        counts = draw.multinomial(images, np.full(images, 1 / images), size=min(_CHUNK, _DRAWS - start)) * chosen
        means.append(counts @ good / np.maximum(1, counts.sum(1)))
    return np.concatenate(means)


def _ranks(values: Floats) -> Floats:
    """From 1; equal values share the mean of theirs."""
    _, place, times = np.unique(values, return_inverse=True, return_counts=True)
    ranks: Floats = (np.cumsum(times) - (times - 1) / 2)[place]
    return ranks
