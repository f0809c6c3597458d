"""BLEU-1…4 of a corpus as coco-caption computes it: closest reference length, no smoothing.

Papineni et al., "BLEU: a Method for Automatic Evaluation of Machine Translation", 2002.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from showtell.metrics.ngrams import MAX_N, Counted, Ngram, check_corpus, count

# coco-caption's guards against division by zero; kept so that scores are equal to the last digit.
_SMALL, _TINY = 1e-9, 1e-15


@dataclass(frozen=True, slots=True)
class Bleu:
    """BLEU-1 … BLEU-4 as fractions: of the corpus, and of each image (a poor measure of one caption).

    `tallies` (images,10) is what a corpus's score is made of: correct and guessed 1- to 4-grams, the candidate's length, the
    closest reference's. They add up, so that `score_tallies` of any sum of rows is the score of those images.
    """

    corpus: tuple[float, ...]
    each: list[tuple[float, ...]]
    tallies: NDArray[np.float64]


def bleu(candidates: Sequence[str], references: Sequence[Sequence[str]]) -> Bleu:
    """BLEU of tokenised candidates (one an image) against tokenised references. `DataError` for an empty corpus."""
    check_corpus(candidates, references)
    return bleu_counted([count(c) for c in candidates], [[count(r) for r in captions] for captions in references])


def bleu_counted(candidates: Sequence[Counted], references: Sequence[Sequence[Counted]]) -> Bleu:
    """`bleu` of captions that are counted already."""
    rows = (_tally(c, r) for c, r in zip(candidates, references, strict=True))
    tallies = np.array(list(rows), dtype=np.float64)
    each = score_tallies(tallies)
    return Bleu(tuple(score_tallies(tallies.sum(0)).tolist()), [tuple(row) for row in each.tolist()], tallies)


def score_tallies(tallies: NDArray[np.float64]) -> NDArray[np.float64]:
    """BLEU-1…4 (…,4) of tallies (…,10)."""
    correct, guessed, (length, reference) = (
        tallies[..., :MAX_N],
        tallies[..., MAX_N:-2],
        np.moveaxis(tallies[..., -2:], -1, 0),
    )
    precisions = np.cumprod((correct + _TINY) / (guessed + _SMALL), axis=-1)
    scores = precisions ** (1 / np.arange(1, MAX_N + 1))
    ratio = (length + _TINY) / (reference + _SMALL)
    penalty = np.exp(np.minimum(0.0, 1 - 1 / ratio))
    result: NDArray[np.float64] = scores * penalty[..., None]
    return result


def _tally(candidate: Counted, references: Sequence[Counted]) -> list[int]:
    most: dict[Ngram, int] = {}
    for reference in references:
        for ngram in candidate.ngrams.keys() & reference.ngrams.keys():
            most[ngram] = max(most.get(ngram, 0), reference.ngrams[ngram])
    correct = [0] * MAX_N
    for ngram, available in most.items():
        correct[len(ngram) - 1] += min(available, candidate.ngrams[ngram])
    length = len(candidate.words)
    closest = min((abs(len(r.words) - length), len(r.words)) for r in references)[1]
    return [*correct, *(max(0, length - n) for n in range(MAX_N)), length, closest]
