"""CIDEr-D as coco-caption computes it (there called CIDEr), document frequencies from the references themselves.

Vedantam et al., "CIDEr: Consensus-based Image Description Evaluation", 2015, section 5 (CIDEr-D). As in coco-caption the
length term compares numbers of bigrams, and term frequencies are not divided by the caption's length.
"""

from __future__ import annotations

import math
from collections import Counter
from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np

from showtell.metrics.ngrams import MAX_N, Counted, Ngram, check_corpus, count

_SIGMA_SQUARED = 6.0**2


@dataclass(frozen=True, slots=True)
class Cider:
    """CIDEr-D, 0 … 10: the mean, and of each image. On a corpus of one image every score is 0."""

    corpus: float
    each: list[float]


@dataclass(frozen=True, slots=True)
class _Vector:
    """tf·idf by n; the norms are those of each n."""

    weights: tuple[dict[Ngram, float], ...]
    norms: tuple[float, ...]
    bigrams: int


def cider_d(candidates: Sequence[str], references: Sequence[Sequence[str]]) -> Cider:
    """CIDEr-D of tokenised candidates against tokenised references. `DataError` for an empty corpus."""
    check_corpus(candidates, references)
    return cider_counted([count(c) for c in candidates], [[count(r) for r in captions] for captions in references])


def cider_counted(candidates: Sequence[Counted], references: Sequence[Sequence[Counted]]) -> Cider:
    """`cider_d` of captions that are counted already."""
    frequency: Counter[Ngram] = Counter()
    for captions in references:
        frequency.update(set().union(*(c.ngrams.keys() for c in captions)))
    images = math.log(len(references))
    idf = {ngram: images - math.log(times) for ngram, times in frequency.items()}
    each = []
    for candidate, captions in zip(candidates, references, strict=True):
        spoken = _vector(candidate, idf, images)
        similarity = np.zeros(MAX_N)
        for reference in captions:
            similarity += _similarity(spoken, _vector(reference, idf, images))
        each.append(float(np.mean(similarity) / len(captions) * 10.0))
    return Cider(float(np.mean(each)), each)


def _vector(caption: Counted, idf: dict[Ngram, float], unseen: float) -> _Vector:
    weights: tuple[dict[Ngram, float], ...] = tuple({} for _ in range(MAX_N))
    squares = [0.0] * MAX_N
    for ngram, times in caption.ngrams.items():
        weight = times * idf.get(ngram, unseen)
        weights[len(ngram) - 1][ngram] = weight
        squares[len(ngram) - 1] += weight * weight
    return _Vector(weights, tuple(math.sqrt(s) for s in squares), max(0, len(caption.words) - 1))


def _similarity(candidate: _Vector, reference: _Vector) -> np.ndarray[tuple[int], np.dtype[np.float64]]:
    """Clipped cosine by n, times the Gaussian penalty of the difference in length."""
    values = np.zeros(MAX_N)
    for n, (spoken, written) in enumerate(zip(candidate.weights, reference.weights, strict=True)):
        total = sum(
            min(weight, written[ngram]) * written[ngram] for ngram, weight in spoken.items() if ngram in written
        )
        norms = candidate.norms[n] * reference.norms[n]
        values[n] = total / norms if norms else total
    penalty = math.exp(-((candidate.bigrams - reference.bigrams) ** 2) / (2 * _SIGMA_SQUARED))
    return values * penalty
