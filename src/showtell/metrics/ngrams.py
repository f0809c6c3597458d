"""N-grams of tokenised captions as numbers, counted once for all metrics."""

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
    """The n-grams of one length in many captions, one entry for each distinct n-gram of a caption.

    Entries are sorted by n-gram, then by caption.
    """

    caption: Ints  # (entries,)
    ngram: Ints  # (entries,) from 0 to size - 1
    times: Ints  # (entries,) how often the caption has it
    keys: Ints  # (size,) ascending: n-gram i, as the id of its first n-1 words times `radix`, plus its last word

    @property
    def size(self) -> int:
        """The number of distinct n-grams."""
        return len(self.keys)


@dataclass(frozen=True, slots=True)
class Counted:
    """Captions as metrics see them: their words as concatenated ids, and their 1- to 4-grams."""

    words: Ints  # (W,)
    lengths: Ints  # (C,) words a caption
    ngrams: tuple[Ngrams, ...]  # of length 1, 2, 3, 4
    radix: int  # one more than the largest word id

    @property
    def starts(self) -> Ints:
        """(C,): where each caption begins in `words`."""
        return np.cumsum(self.lengths) - self.lengths


@dataclass(frozen=True, slots=True)
class Corpus:
    """One candidate per image, and references; caption i < images is image i's candidate, the rest are references."""

    counted: Counted
    image: Ints  # (C,) the image of each caption
    images: int

    @classmethod
    def of(cls, candidates: Sequence[str], references: Sequence[Sequence[str]]) -> Corpus:
        """Counts tokenised captions (tokens separated by spaces). `DataError` where they cannot be scored."""
        check_corpus(candidates, references)
        written = list(itertools.chain.from_iterable(references))
        own = np.arange(len(candidates))
        image = np.concatenate((own, np.repeat(own, [len(captions) for captions in references])))
        return cls(count([*candidates, *written]), image, len(candidates))


def count(captions: Sequence[str]) -> Counted:
    """The words and the 1- to 4-grams of captions whose tokens are separated by spaces."""
    split = [caption.split() for caption in captions]
    lengths = np.fromiter(map(len, split), dtype=np.int64, count=len(split))
    flat = list(itertools.chain.from_iterable(split))
    ids = {word: i for i, word in enumerate(dict.fromkeys(flat))}
    words = np.fromiter(map(ids.__getitem__, flat), dtype=np.int64, count=len(flat))
    return count_ids(words, lengths)


def count_ids(words: Ints, lengths: Ints) -> Counted:
    """`count` of captions given as concatenated word ids and the number of words of each.

    One sort per n: positions of the same n-gram come together in the order of their captions.
    """
    caption = np.repeat(np.arange(len(lengths)), lengths)
    left = np.repeat(np.cumsum(lengths), lengths) - np.arange(len(words))  # words from here to the caption's end
    radix = int(words.max()) + 1 if len(words) else 1
    tables, position, key = [], np.arange(len(words)), words
    for n in range(1, MAX_N + 1):
        order = _order(key)
        rising, owner = key[order], caption[position[order]]
        new = np.flatnonzero(_differs(rising))  # where each distinct n-gram begins
        ngram = np.repeat(np.arange(len(new)), np.diff(new, append=len(rising)))
        entry = np.flatnonzero(_differs(rising) | _differs(owner))
        times = np.diff(entry, append=len(rising))
        tables.append(Ngrams(owner[entry], ngram[entry], times, rising[new]))
        key = np.empty_like(key)
        key[order] = ngram
        longer = left[position] > n  # another word of the caption follows the n-gram
        position = position[longer]
        key = key[longer] * radix + words[position + n]
    return Counted(words, lengths, tuple(tables), radix)


def _order(key: Ints) -> Ints:
    """A stable argsort of `key`: packs key and place into one number, as sorting is faster than argsorting."""
    bits = max(1, len(key) - 1).bit_length()
    if len(key) and int(key.max()).bit_length() + bits > 62:
        return np.argsort(key, kind="stable")
    return np.sort(key << bits | np.arange(len(key))) & ((1 << bits) - 1)


def _differs(values: Ints) -> NDArray[np.bool_]:
    """Where a value differs from the one before it."""
    different = np.ones(len(values), dtype=bool)
    np.not_equal(values[1:], values[:-1], out=different[1:])
    return different


def check_corpus(candidates: Sequence[str], references: Sequence[Sequence[str]]) -> None:
    """Raises `DataError` for corpora that cannot be scored."""
    if not candidates:
        raise DataError("no candidate captions; expected at least one image to score")
    if len(candidates) != len(references):
        raise DataError(f"{len(candidates)} candidates and references for {len(references)} images; expected as many")
    empty = next((i for i, captions in enumerate(references) if not captions), None)
    if empty is not None:
        raise DataError(f"image {empty} has no reference caption; expected at least one")
