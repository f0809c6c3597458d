"""What a captioner must beat: the best caption that is the same for every image."""

from __future__ import annotations

from collections import Counter
from collections.abc import Sequence

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
    counted = {caption: count(" ".join(tokenize(caption))) for caption in dict.fromkeys(captions)}
    frequency: Counter[tuple[str, ...]] = Counter()
    for caption in captions:
        frequency.update(counted[caption].ngrams.keys())
    lengths = sorted(len(counted[caption].words) for caption in captions)
    usual = lengths[len(lengths) // 2]

    def worth(caption: str) -> tuple[float, str]:
        c = counted[caption]
        by_length = [[frequency[g] for g in c.ngrams if len(g) == n] for n in range(1, 5)]
        return sum(sum(values) / (len(values) or 1) for values in by_length), caption

    fitting = [caption for caption in counted if abs(len(counted[caption].words) - usual) <= 1]
    return max(fitting or counted, key=worth)
