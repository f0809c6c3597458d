"""BLEU-1…4 of a corpus as coco-caption computes it: closest reference length, no smoothing.

Papineni et al., "BLEU: a Method for Automatic Evaluation of Machine Translation", 2002.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from showtell.metrics.ngrams import MAX_N, Corpus, Ints, Ngrams

# coco-caption's guards against division by zero; kept so that scores are equal to the last digit.
_SMALL, _TINY = 1e-9, 1e-15


@dataclass(frozen=True, slots=True)
class Bleu:
    """BLEU-1 … BLEU-4 as fractions: of the corpus, and of each image (a poor measure of one caption).

    `tallies` (images,10) are the counts behind the scores: correct and guessed 1- to 4-grams, the candidate's length,
    the closest reference's. They add up: `score_tallies` of any sum of rows is the score of those images.
    """

    corpus: tuple[float, ...]
    each: list[tuple[float, ...]]
    tallies: NDArray[np.float64]


def bleu(candidates: Sequence[str], references: Sequence[Sequence[str]]) -> Bleu:
    """BLEU of tokenised candidates (one per image) against tokenised references. `DataError` for an empty corpus."""
    return bleu_counted(Corpus.of(candidates, references))


def bleu_counted(corpus: Corpus) -> Bleu:
    """`bleu` of captions already counted."""
    images = corpus.images
    lengths = corpus.counted.lengths
    correct = [_correct(table, corpus.image, images) for table in corpus.counted.ngrams]
    guessed = [np.maximum(0, lengths[:images] - n) for n in range(MAX_N)]
    closest = closest_lengths(lengths[:images], lengths[images:], corpus.image[images:])
    tallies = np.column_stack((*correct, *guessed, lengths[:images], closest)).astype(np.float64)
    each = score_tallies(tallies)
    return Bleu(tuple(score_tallies(tallies.sum(0)).tolist()), [tuple(row) for row in each.tolist()], tallies)


def score_tallies(tallies: NDArray[np.float64]) -> NDArray[np.float64]:
    """BLEU-1…4 (…,4) of tallies (…,10)."""
    correct, guessed = tallies[..., :MAX_N], tallies[..., MAX_N : 2 * MAX_N]
    length, reference = tallies[..., -2], tallies[..., -1]
    precisions = np.cumprod((correct + _TINY) / (guessed + _SMALL), axis=-1)
    ratio = (length + _TINY) / (reference + _SMALL)
    penalty = np.exp(np.minimum(0.0, 1 - 1 / ratio))
    scores: NDArray[np.float64] = precisions ** (1 / np.arange(1, MAX_N + 1)) * penalty[..., None]
    return scores


def closest_lengths(lengths: Ints, written: Ints, candidate: Ints) -> Ints:
    """(N,): the reference length closest to each candidate's (N,), the shorter of two that are equally close.

    `written` (R,) are the references' lengths, `candidate` (R,) says whose reference each is.
    """
    radix = int(written.max(initial=0)) + 1
    best = np.full(len(lengths), np.iinfo(np.int64).max)
    np.minimum.at(best, candidate, np.abs(written - lengths[candidate]) * radix + written)
    return best % radix


def _correct(table: Ngrams, image: Ints, images: int) -> Ints:
    """(images,): the candidate's n-grams found in references, each at most as often as any one reference has it."""
    spoken = table.caption < images
    keys = table.ngram * images + image[table.caption]
    candidate = keys[spoken]  # sorted, each once
    place = np.searchsorted(candidate, keys[~spoken])
    place = np.minimum(place, max(0, len(candidate) - 1))
    shared = candidate[place] == keys[~spoken] if len(candidate) else np.zeros(len(place), dtype=bool)
    most = np.zeros(len(candidate), dtype=np.int64)
    np.maximum.at(most, place[shared], table.times[~spoken][shared])
    matched = np.minimum(most, table.times[spoken])
    return np.bincount(table.caption[spoken], matched, minlength=images).astype(np.int64)
