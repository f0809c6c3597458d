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
from showtell.metrics.significance import draws

SHARES = (0.75, 0.5, 0.25)
_FEWEST = 20  # captions: fewer say nothing
_NORMAL = 1.96  # standard deviations that hold 95 %

Floats = NDArray[np.float64]


@dataclass(frozen=True, slots=True)
class Kept:
    """The captions of at least some `confidence`: their number, their share of all, and their mean score with the range
    that it has in 95 % of the splits drawn again, for that confidence. Scores are 0 where none is kept."""

    confidence: float
    images: int
    share: float
    score: float
    low: float
    high: float


@dataclass(frozen=True, slots=True)
class Selection:
    """What confidence is worth: Spearman's rank correlation with the scores, its 95 % interval, and the surest captions."""

    correlation: float
    low: float
    high: float
    surest: tuple[Kept, ...]


def select_surest(
    confidences: Sequence[float], scores: Sequence[float], *, shares: Sequence[float] = SHARES
) -> Selection | None:
    """What one confidence and one score per image say of each other, and the mean scores of the surest captions.

    `shares` are fractions of the images (more are kept where several have the last one's confidence); those of fewer than
    20 captions are left out. The correlation's interval is Bonett and Wright's, "Sample Size Requirements for Estimating
    Pearson, Kendall and Spearman Correlations", 2000. None for fewer than 20 images, and where all confidences or all
    scores are the same. `DataError` for uneven lists, numbers that are not finite, and shares not above 0 and up to 1.
    """
    sure, good = _checked(confidences, scores)
    if wrong := [share for share in shares if not 0 < share <= 1]:
        raise DataError(f"a share is {wrong[0]}; expected more than 0 and up to 1")
    if len(sure) < _FEWEST or np.ptp(sure) == 0 or np.ptp(good) == 0:
        return None
    descending = np.sort(sure)[::-1]
    counts = [count for share in shares if (count := round(share * len(sure))) >= _FEWEST]
    return Selection(*_correlation(sure, good), tuple(_kept([float(descending[n - 1]) for n in counts], sure, good)))


def keep_above(confidences: Sequence[float], scores: Sequence[float], least: float) -> Kept:
    """The captions of at least the confidence `least`. `DataError` as for `select_surest`."""
    return _kept([least], *_checked(confidences, scores))[0]


def _checked(confidences: Sequence[float], scores: Sequence[float]) -> tuple[Floats, Floats]:
    if len(confidences) != len(scores):
        raise DataError(f"found {len(confidences)} confidences and {len(scores)} scores; expected one of each an image")
    sure, good = np.asarray(confidences, dtype=np.float64), np.asarray(scores, dtype=np.float64)
    if not (np.isfinite(sure).all() and np.isfinite(good).all()):
        raise DataError("a confidence or a score is not finite; expected numbers")
    return sure, good


def _kept(thresholds: Sequence[float], sure: Floats, good: Floats) -> list[Kept]:
    chosen = (sure[:, None] >= np.asarray(thresholds)).astype(np.float64)  # (images,thresholds)
    means = np.concatenate([
        counts @ (chosen * good[:, None]) / np.maximum(1, counts @ chosen) for counts in draws(len(sure), 1000, 0)
    ])  # fmt: skip
    low, high = np.quantile(means, [0.025, 0.975], axis=0)
    images = chosen.sum(0)
    score = good @ chosen / np.maximum(1, images)
    return [
        Kept(threshold, int(images[i]), float(images[i]) / len(sure), float(score[i]), float(low[i]), float(high[i]))
        for i, threshold in enumerate(thresholds)
    ]


def _correlation(sure: Floats, good: Floats) -> tuple[float, float, float]:
    """Spearman's, and its interval."""
    found = float(np.clip(np.corrcoef(_ranks(sure), _ranks(good))[0, 1], -1.0, 1.0))
    if abs(found) == 1:
        return found, found, found
    wide = _NORMAL * math.sqrt((1 + found**2 / 2) / (len(sure) - 3))
    return found, math.tanh(math.atanh(found) - wide), math.tanh(math.atanh(found) + wide)


def _ranks(values: Floats) -> Floats:
    """From 1; equal values share the mean of theirs."""
    _, place, times = np.unique(values, return_inverse=True, return_counts=True)
    ranks: Floats = (np.cumsum(times) - (times - 1) / 2)[place]
    return ranks
