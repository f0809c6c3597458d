"""The uncertainty of scores: bootstrap intervals, and paired tests of two captioners on the same images.

Koehn, "Statistical Significance Tests for Machine Translation Evaluation", 2004 (bootstrap); Riezler and Maxwell, "On
Some Pitfalls in Automatic Evaluation and Significance Testing for MT", 2005 (approximate randomisation). Images are
resampled. CIDEr keeps the document frequencies of the whole split: an image's score does not change with the draw.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from showtell.errors import DataError
from showtell.metrics.evaluate import NAMES, Additive, Report

_CHUNK = 128  # resamples at a time: flat memory
_LEVEL = 0.05  # of significance


@dataclass(frozen=True, slots=True)
class Interval:
    """A score, and the range that it has in 95 % (or `level`) of the resampled splits."""

    score: float
    low: float
    high: float


@dataclass(frozen=True, slots=True)
class Comparison:
    """The second report's score minus the first's, its interval, and the chance of such a difference between equals."""

    difference: float
    low: float
    high: float
    p: float


def bootstrap(report: Report, *, resamples: int = 1000, seed: int = 0, level: float = 0.95) -> dict[str, Interval]:
    """Score name -> percentile interval over `resamples` draws of the images with replacement."""
    draws = _resampled([report.parts], resamples, seed)[0]
    low, high = np.quantile(draws, [(1 - level) / 2, (1 + level) / 2], axis=0)
    return {
        name: Interval(score, float(low[i]), float(high[i])) for i, (name, score) in enumerate(report.scores.items())
    }


def compare(
    first: Report, second: Report, *, resamples: int = 1000, seed: int = 0, level: float = 0.95
) -> dict[str, Comparison]:
    """Score name -> the difference between two reports on the same images in the same order.

    The interval is from a paired bootstrap, p from approximate randomisation (two-sided, at least 1/(resamples+1)).
    `DataError` where the numbers of images differ.
    """
    names = [name for name in first.scores if name in second.scores]
    if first.images != second.images:
        raise DataError(
            f"reports on {first.images} and {second.images} images cannot be compared; score both on the same split"
        )
    one, two = _only(first, names), _only(second, names)
    drawn = _resampled([one, two], resamples, seed)
    low, high = np.quantile(drawn[1] - drawn[0], [(1 - level) / 2, (1 + level) / 2], axis=0)
    observed = np.array([second.scores[name] - first.scores[name] for name in names])
    extreme = _swapped(one, two, resamples, seed, np.abs(observed) - 1e-12)
    p = (extreme + 1) / (resamples + 1)
    return {n: Comparison(float(observed[i]), float(low[i]), float(high[i]), float(p[i])) for i, n in enumerate(names)}


def verdict(compared: Mapping[str, Comparison]) -> str:
    """Which differences are significant, in a sentence."""
    parts = []
    for word, sign in (("higher", 1), ("lower", -1)):
        names = [NAMES[name] for name, c in compared.items() if c.p < _LEVEL and sign * c.difference > 0]
        if names:
            parts.append(f"significantly {word} in {', '.join(names)}")
    return "; ".join(parts) or f"no difference is significant at p < {_LEVEL}"


Parts = Sequence[Additive]


def _only(report: Report, names: Sequence[str]) -> Parts:
    """A report's parts whose scores are all among `names`, in that order."""
    shared = [part for part in report.parts if set(part.names) <= set(names)]
    return sorted(shared, key=lambda part: names.index(part.names[0]))


def _table(parts: Parts) -> NDArray[np.float64]:
    """(images,…): the `sums` of all parts, side by side."""
    return np.concatenate([part.sums for part in parts], axis=1)


def _scores(parts: Parts, sums: NDArray[np.float64], images: int) -> NDArray[np.float64]:
    """Sums (draws,…) of `_table` rows -> scores (draws,names), in the report's order."""
    edges = np.cumsum([part.sums.shape[1] for part in parts])[:-1]
    columns = np.split(sums, edges, axis=1)
    return np.concatenate([part.score(own, images) for part, own in zip(parts, columns, strict=True)], axis=1)


def _resampled(reports: Sequence[Parts], resamples: int, seed: int) -> list[NDArray[np.float64]]:
    """The scores (resamples,scores) of each report on the same draws."""
    tables = [_table(parts) for parts in reports]
    images = len(tables[0])
    found: list[list[NDArray[np.float64]]] = [[] for _ in reports]
    for counts in draws(images, resamples, seed):
        for part, parts, table in zip(found, reports, tables, strict=True):
            part.append(_scores(parts, counts @ table, images))
    return [np.concatenate(part) for part in found]


def draws(images: int, resamples: int, seed: int) -> Iterator[NDArray[np.float64]]:
    """How often each image is drawn (draws,images), with replacement: several draws at a time, `resamples` in all."""
    draw, share = np.random.default_rng(seed), np.full(images, 1 / images)
    for start in range(0, resamples, _CHUNK):
        yield draw.multinomial(images, share, size=min(_CHUNK, resamples - start)).astype(np.float64)


def _swapped(
    first: Parts, second: Parts, resamples: int, seed: int, observed: NDArray[np.float64]
) -> NDArray[np.float64]:
    """How often swapping the two reports' captions at random makes a difference as large as `observed`."""
    one, two = _table(first), _table(second)
    draw, images = np.random.default_rng(seed + 1), len(one)
    extreme = np.zeros(len(observed))
    for start in range(0, resamples, _CHUNK):
        swap = draw.integers(0, 2, size=(min(_CHUNK, resamples - start), images)).astype(np.float64)
        moved = swap @ (two - one)
        difference = _scores(second, two.sum(0) - moved, images) - _scores(first, one.sum(0) + moved, images)
        extreme += (np.abs(difference) >= observed).sum(0)
    return extreme
