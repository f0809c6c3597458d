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
_FEWEST = 20  # images: of fewer, a quarter says nothing
_NORMAL = 1.96  # standard deviations that hold 95 %


@dataclass(frozen=True, slots=True)
class Kept:
    """The captions that a model is surest of: their share of all, the least confidence among them, their mean score."""

    share: float
    confidence: float
    score: float


@dataclass(frozen=True, slots=True)
class Confidence:
    """What confidence is worth: Spearman's rank correlation with the scores, its 95 % interval, and selections."""

    correlation: float
    low: float
    high: float
    kept: tuple[Kept, ...]


def assess_confidence(
    confidences: Sequence[float], scores: Sequence[float], *, shares: Sequence[float] = SHARES
) -> Confidence | None:
    """What one confidence and one score per image say of each other; `shares` are fractions of the images to keep.

    None for fewer than 20 images, and where all confidences or all scores are the same. The interval is Bonett and
    Wright's, "Sample Size Requirements for Estimating Pearson, Kendall and Spearman Correlations", 2000. `DataError` for
    uneven lists.
    """
    if len(confidences) != len(scores):
        raise DataError(f"found {len(confidences)} confidences and {len(scores)} scores; expected one of each an image")
    sure, good = np.asarray(confidences, dtype=np.float64), np.asarray(scores, dtype=np.float64)
    if len(sure) < _FEWEST or np.ptp(sure) == 0 or np.ptp(good) == 0:
        return None
    found = float(np.clip(np.corrcoef(_ranks(sure), _ranks(good))[0, 1], -1.0, 1.0))
    wide = _NORMAL * math.sqrt((1 + found**2 / 2) / (len(sure) - 3))
    middle = math.atanh(found) if abs(found) < 1 else math.copysign(math.inf, found)
    order = np.argsort(-sure, kind="stable")
    return Confidence(
        found, math.tanh(middle - wide), math.tanh(middle + wide), tuple(_keep(share, sure[order], good[order]) for share in shares)
    )  # fmt: skip


def _keep(share: float, sure: NDArray[np.float64], good: NDArray[np.float64]) -> Kept:
    """The first of the images, which are sorted by confidence."""
    count = max(1, round(share * len(sure)))
    return Kept(share, float(sure[count - 1]), float(good[:count].mean()))


def _ranks(values: NDArray[np.float64]) -> NDArray[np.float64]:
    """From 1; equal values share the mean of theirs."""
    _, place, times = np.unique(values, return_inverse=True, return_counts=True)
    ranks: NDArray[np.float64] = (np.cumsum(times) - (times - 1) / 2)[place]
    return ranks
