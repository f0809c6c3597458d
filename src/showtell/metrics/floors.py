"""Baselines for a score: the best single caption for all images, and people."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np

from showtell.errors import DataError
from showtell.metrics.evaluate import evaluate
from showtell.metrics.ngrams import count
from showtell.metrics.tokenize import tokenize


def best_constant_caption(captions: Sequence[str]) -> str:
    """The caption of `captions` whose n-grams the others share most: deterministic, found without test references.

    An n-gram counts by the number of captions that have it. A caption's worth is the mean over its n-grams of each
    length, summed over lengths 1 … 4; only captions within a word of the median length compete. `DataError` for none.
    """
    if not captions:
        raise DataError("no training caption to choose a constant one from; expected at least one")
    counted = count([" ".join(tokenize(caption)) for caption in captions])
    worth = np.zeros(len(captions))
    for table in counted.ngrams:
        frequency = np.bincount(table.ngram, minlength=1)
        entries = np.bincount(table.caption, minlength=len(captions))
        worth += np.bincount(table.caption, frequency[table.ngram], minlength=len(captions)) / np.maximum(1, entries)
    usual = np.sort(counted.lengths)[len(captions) // 2]
    worth[np.abs(counted.lengths - usual) > 1] = -1
    return max(captions[int(i)] for i in np.flatnonzero(worth == worth.max()))


def leave_one_out(references: Sequence[Sequence[str]], candidates: Sequence[str] | None = None) -> dict[str, float]:
    """The mean scores of people: each reference in turn is the candidate, and the others are its references.

    With `candidates`, these are scored instead against the same reduced references, for comparison. Images with fewer
    than two references are left out; of the others, as many references take a turn as the image with the fewest has.
    `DataError` where no image has two.
    """
    kept = [i for i, captions in enumerate(references) if len(captions) > 1]
    if not kept:
        raise DataError("no image has two references; people can be scored only against other people")
    rounds = min(len(references[i]) for i in kept)
    totals: dict[str, float] = {}
    for out in range(rounds):
        rest = [[caption for k, caption in enumerate(references[i]) if k != out] for i in kept]
        spoken = [references[i][out] if candidates is None else candidates[i] for i in kept]
        for name, score in evaluate(spoken, rest).scores.items():
            totals[name] = totals.get(name, 0.0) + score / rounds
    return totals
