"""BLEU-1…4 of a corpus as coco-caption computes it: closest reference length, no smoothing.

Papineni et al., "BLEU: a Method for Automatic Evaluation of Machine Translation", 2002.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass

from showtell.metrics.ngrams import MAX_N, Counted, Ngram, check_corpus, count

# coco-caption's guards against division by zero; kept so that scores are equal to the last digit.
_SMALL, _TINY = 1e-9, 1e-15


@dataclass(frozen=True, slots=True)
class Bleu:
    """BLEU-1 … BLEU-4 as fractions: of the corpus, and of each image (a poor measure of one caption)."""

    corpus: tuple[float, ...]
    each: list[tuple[float, ...]]


@dataclass(frozen=True, slots=True)
class _Tally:
    correct: tuple[int, ...]
    guessed: tuple[int, ...]
    length: int
    reference_length: int


def bleu(candidates: Sequence[str], references: Sequence[Sequence[str]]) -> Bleu:
    """BLEU of tokenised candidates (one an image) against tokenised references. `DataError` for an empty corpus."""
    check_corpus(candidates, references)
    return bleu_counted([count(c) for c in candidates], [[count(r) for r in captions] for captions in references])


def bleu_counted(candidates: Sequence[Counted], references: Sequence[Sequence[Counted]]) -> Bleu:
    """`bleu` of captions that are counted already."""
    tallies = [_tally(c, r) for c, r in zip(candidates, references, strict=True)]
    total = _Tally(
        tuple(sum(t.correct[n] for t in tallies) for n in range(MAX_N)),
        tuple(sum(t.guessed[n] for t in tallies) for n in range(MAX_N)),
        sum(t.length for t in tallies),
        sum(t.reference_length for t in tallies),
    )
    return Bleu(_score(total), [_score(tally) for tally in tallies])


def _tally(candidate: Counted, references: Sequence[Counted]) -> _Tally:
    most: dict[Ngram, int] = {}
    for reference in references:
        for ngram in candidate.ngrams.keys() & reference.ngrams.keys():
            most[ngram] = max(most.get(ngram, 0), reference.ngrams[ngram])
    correct = [0] * MAX_N
    for ngram, available in most.items():
        correct[len(ngram) - 1] += min(available, candidate.ngrams[ngram])
    length = len(candidate.words)
    closest = min((abs(len(r.words) - length), len(r.words)) for r in references)[1]
    return _Tally(tuple(correct), tuple(max(0, length - n) for n in range(MAX_N)), length, closest)


def _score(tally: _Tally) -> tuple[float, ...]:
    scores, product = [], 1.0
    for n in range(MAX_N):
        product *= (tally.correct[n] + _TINY) / (tally.guessed[n] + _SMALL)
        scores.append(product ** (1 / (n + 1)))
    ratio = (tally.length + _TINY) / (tally.reference_length + _SMALL)
    penalty = math.exp(1 - 1 / ratio) if ratio < 1 else 1.0
    return tuple(score * penalty for score in scores)
