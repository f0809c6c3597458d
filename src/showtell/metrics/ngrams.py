"""N-grams of tokenised captions, counted once for all metrics."""

from __future__ import annotations

from collections import Counter
from collections.abc import Sequence
from dataclasses import dataclass

from showtell.errors import DataError

Ngram = tuple[str, ...]
MAX_N = 4


@dataclass(frozen=True, slots=True)
class Counted:
    """A caption as metrics see it."""

    words: tuple[str, ...]
    ngrams: Counter[Ngram]


def count(caption: str, max_n: int = MAX_N) -> Counted:
    """The 1- to `max_n`-grams of a caption whose tokens are separated by white space."""
    words = tuple(caption.split())
    ngrams: Counter[Ngram] = Counter()
    for n in range(1, max_n + 1):
        ngrams.update(words[i : i + n] for i in range(len(words) - n + 1))
    return Counted(words, ngrams)


def check_corpus(candidates: Sequence[str], references: Sequence[Sequence[str]]) -> None:
    """Raises `DataError` for corpora that cannot be scored."""
    if not candidates:
        raise DataError("no candidate captions; expected at least one image to score")
    if len(candidates) != len(references):
        raise DataError(f"{len(candidates)} candidates and references for {len(references)} images; expected as many")
    empty = next((i for i, captions in enumerate(references) if not captions), None)
    if empty is not None:
        raise DataError(f"image {empty} has no reference caption; expected at least one")
