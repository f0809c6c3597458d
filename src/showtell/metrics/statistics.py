"""Statistics of captions beyond their scores: lengths, words, repetition, copies of training captions."""

from __future__ import annotations

from collections import Counter
from collections.abc import Collection, Mapping, Sequence
from dataclasses import dataclass

from showtell.errors import DataError
from showtell.metrics.tokenize import tokenize
from showtell.writing import join_words


@dataclass(frozen=True, slots=True)
class TextStatistics:
    """Statistics of captions; shares are fractions of the captions."""

    captions: int
    mean_length: float  # PTB words
    lengths: Mapping[int, float]  # number of words -> share of the captions
    vocabulary: int  # distinct words
    distinct: float  # distinct captions
    most_frequent: str
    most_frequent_share: float
    copies: float  # training captions, word for word
    unfinished: float  # half sentences: see `never_last`


def describe(captions: Sequence[str], training: Collection[str]) -> TextStatistics:
    """Statistics of raw captions, compared as PTB tokens with those of the training split. `DataError` for none."""
    if not captions:
        raise DataError("no captions to describe; expected at least one")
    written = [tuple(tokenize(caption)) for caption in training]
    known, dangling = set(written), never_last(written)
    spoken = [tuple(tokenize(caption)) for caption in captions]
    (most_frequent, times), *_ = Counter(spoken).most_common(1)
    total = len(spoken)
    return TextStatistics(
        captions=total,
        mean_length=sum(map(len, spoken)) / total,
        lengths={length: times / total for length, times in sorted(Counter(map(len, spoken)).items())},
        vocabulary=len({word for words in spoken for word in words}),
        distinct=len(set(spoken)) / total,
        most_frequent=join_words(most_frequent),
        most_frequent_share=times / total,
        copies=sum(words in known for words in spoken) / total,
        unfinished=sum(not words or words[-1] in dangling for words in spoken) / total,
    )


def never_last(captions: Sequence[Sequence[str]]) -> frozenset[str]:
    """The words that leave a caption unfinished when they end it, learnt from tokenised captions of any language.

    They are frequent enough to tell (five would be last if all words were alike) and are last at most a twentieth as
    often as words are on average: "a" ends 2 of Flickr8k's 30,000 training captions, so "never" would be too strict.
    """
    seen = Counter(word for words in captions for word in words)
    last = Counter(words[-1] for words in captions if words)
    share = last.total() / max(1, seen.total())
    return frozenset(word for word, times in seen.items() if times * share >= 5 and last[word] <= times * share / 20)
