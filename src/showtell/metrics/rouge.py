"""ROUGE-L as coco-caption computes it: the best precision and the best recall over the references, β = 1.2.

Lin, "ROUGE: A Package for Automatic Evaluation of Summaries", 2004, section 3.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np

from showtell.metrics.ngrams import check_corpus

_BETA_SQUARED = 1.2**2


@dataclass(frozen=True, slots=True)
class Rouge:
    """ROUGE-L as fractions: the mean, and of each image."""

    corpus: float
    each: list[float]


def rouge_l(candidates: Sequence[str], references: Sequence[Sequence[str]]) -> Rouge:
    """ROUGE-L of tokenised candidates against tokenised references. `DataError` for an empty corpus."""
    check_corpus(candidates, references)
    each = [_score(c.split(" "), [r.split(" ") for r in rs]) for c, rs in zip(candidates, references, strict=True)]
    return Rouge(float(np.mean(each)), each)


def _score(candidate: list[str], references: list[list[str]]) -> float:
    common = [lcs(candidate, reference) for reference in references]
    precision = max(common) / len(candidate)
    recall = max(length / len(reference) for length, reference in zip(common, references, strict=True))
    if precision == 0 or recall == 0:
        return 0.0
    return ((1 + _BETA_SQUARED) * precision * recall) / (recall + _BETA_SQUARED * precision)


def lcs(first: Sequence[str], second: Sequence[str]) -> int:
    """The length of the longest common subsequence, by Hyyrö's bit-parallel recurrence: a row is one integer."""
    places: dict[str, int] = {}
    for i, word in enumerate(first):
        places[word] = places.get(word, 0) | 1 << i
    full = (1 << len(first)) - 1
    row = full
    for word in second:
        matches = row & places.get(word, 0)
        row = ((row + matches) | (row - matches)) & full
    return len(first) - row.bit_count()
