"""What a captioner must beat: the best caption that is the same for every image."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np

from showtell.errors import DataError
from showtell.metrics.ngrams import count
from showtell.metrics.tokenize import tokenize


def best_constant_caption(captions: Sequence[str]) -> str:
    """The caption of `captions` whose n-grams the others share most: deterministic, found without any test reference.

    Each n-gram counts by the number of captions that have it; a caption's worth is the mean over its n-grams of each
    length, added up over the lengths 1 … 4, so that it is neither long nor short by itself. `DataError` for none.
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
