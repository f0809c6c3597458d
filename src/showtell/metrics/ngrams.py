"""N-grams of tokenised captions as numbers: counted once, for all metrics."""

from __future__ import annotations

import itertools
from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from showtell.errors import DataError

MAX_N = 4

Ints = NDArray[np.int64]


@dataclass(frozen=True, slots=True)
class Ngrams:
    """The n-grams of one length of many captions, one entry for each different one of a caption, sorted by caption."""

    caption: Ints  # (entries,)
    ngram: Ints  # (entries,) from 0 to size - 1
    times: Ints  # (entries,) how often the caption has it
    keys: Ints  # (size,) rising: what n-gram i is, the id of its first n-1 words times `radix`, plus its last word

    @property
    def size(self) -> int:
        """How many different n-grams there are."""
        return len(self.keys)


@dataclass(frozen=True, slots=True)
class Counted:
    """Captions as metrics see them: their words as ids, one after the other, and their 1- to 4-grams."""

    words: Ints  # (W,)
    lengths: Ints  # (C,) words a caption
    ngrams: tuple[Ngrams, ...]  # of length 1, 2, 3, 4
    radix: int  # one more than the largest word

    @property
    def starts(self) -> Ints:
        """(C,): where each caption begins in `words`."""
        return np.cumsum(self.lengths) - self.lengths


@dataclass(frozen=True, slots=True)
class Corpus:
    """One candidate an image and its references; caption i < images is image i's candidate, the rest are references."""

    counted: Counted
    image: Ints  # (C,) whose caption it is
    images: int

    @classmethod
    def of(cls, candidates: Sequence[str], references: Sequence[Sequence[str]]) -> Corpus:
        """Counts tokenised captions (tokens apart by white space). `DataError` where they cannot be scored."""
        check_corpus(candidates, references)
        written = list(itertools.chain.from_iterable(references))
        own = np.arange(len(candidates))
        image = np.concatenate((own, np.repeat(own, [len(captions) for captions in references])))
        return cls(count([*candidates, *written]), image, len(candidates))


def count(captions: Sequence[str]) -> Counted:
    """The words and the 1- to 4-grams of captions whose tokens are apart by white space."""
    split = [caption.split() for caption in captions]
    ids: dict[str, int] = {}
    flat = [ids.setdefault(word, len(ids)) for words in split for word in words]
    return count_ids(np.array(flat, dtype=np.int64), np.array([len(words) for words in split], dtype=np.int64))


def count_ids(words: Ints, lengths: Ints) -> Counted:
    """`count` of captions whose words are ids already: one after the other, and how many words each has."""
    caption = np.repeat(np.arange(len(lengths)), lengths)
    left = np.repeat(np.cumsum(lengths), lengths) - np.arange(len(words))  # words from here to the caption's end
    radix = int(words.max()) + 1 if len(words) else 1
    tables, position, key = [], np.arange(len(words)), words
    for n in range(1, MAX_N + 1):
        different, key = np.unique(key, return_inverse=True)
        entries, times = np.unique(caption[position] * len(different) + key, return_counts=True)
        size = max(1, len(different))
        tables.append(Ngrams(entries // size, entries % size, times, different))
        longer = left[position] > n  # an n-gram that one more word of its caption follows
        position = position[longer]
        key = key[longer] * radix + words[position + n]
    return Counted(words, lengths, tuple(tables), radix)


def check_corpus(candidates: Sequence[str], references: Sequence[Sequence[str]]) -> None:
    """Raises `DataError` for corpora that cannot be scored."""
    if not candidates:
        raise DataError("no candidate captions; expected at least one image to score")
    if len(candidates) != len(references):
        raise DataError(f"{len(candidates)} candidates and references for {len(references)} images; expected as many")
    empty = next((i for i, captions in enumerate(references) if not captions), None)
    if empty is not None:
        raise DataError(f"image {empty} has no reference caption; expected at least one")
