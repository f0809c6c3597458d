"""The decoding that scores best on validation data: length normalisation, beam and consensus, one after the other."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass, replace
from typing import Any

from showtell.config import SearchConfig
from showtell.data.vocabulary import Vocabulary
from showtell.decoding import SearchOptions
from showtell.generate import best_captions
from showtell.metrics import Protocol, evaluate
from showtell.search import StepDecoder

PENALTIES = (0.0, 0.5, 0.7, 1.0, 1.3)
BEAMS = (3, 5, 8)
CONSENSUS = (0, 10)


@dataclass(frozen=True, slots=True)
class Tried:
    """One decoding and its scores on the validation data."""

    search: SearchConfig
    scores: dict[str, float]

    def __str__(self) -> str:
        return f"{self.search.one_view().describe():52s} BLEU-4 {100 * self.scores['bleu_4']:5.1f}  CIDEr {100 * self.scores['cider']:6.1f}"


@dataclass(frozen=True, slots=True)
class Choice:
    """The decoding with the best CIDEr, the first of equals, and all that were tried, the given one first."""

    search: SearchConfig
    tried: tuple[Tried, ...]

    @property
    def best(self) -> Tried:
        """The chosen one."""
        return next(tried for tried in self.tried if tried.search == self.search)


def choose_decoding(
    decoder: StepDecoder,
    features: Callable[[], Iterable[Any]],
    references: Sequence[Sequence[str]],
    vocabulary: Vocabulary,
    *,
    protocol: Protocol,
    search: SearchConfig,
    penalties: Sequence[float] = PENALTIES,
    beams: Sequence[int] = BEAMS,
    consensus: Sequence[int] = CONSENSUS,
    report: Callable[[Tried], None] = lambda tried: None,
) -> Choice:
    """Starts from `search` and changes one value at a time, keeping what raises CIDEr; twelve decodings or fewer.

    `features()` gives the images' features in chunks (B,R,F), anew each time; `references` are theirs, in that order, and
    `protocol` says of what; the decoding in it is each time another.
    """
    tried: dict[SearchConfig, Tried] = {}

    def cider(config: SearchConfig) -> float:
        if config not in tried:
            tried[config] = Tried(config, _scores(decoder, features(), references, vocabulary, protocol, config))
            report(tried[config])
        return tried[config].scores["cider"]

    best = search
    for key, values in (("length_penalty", penalties), ("beam", beams), ("consensus", consensus)):
        ways = [best, *(best.model_copy(update={key: value}) for value in values)]
        best = max(ways, key=cider)  # the first of equals
    return Choice(best, tuple(tried.values()))


def _scores(
    decoder: StepDecoder,
    features: Iterable[Any],
    references: Sequence[Sequence[str]],
    vocabulary: Vocabulary,
    protocol: Protocol,
    config: SearchConfig,
) -> dict[str, float]:
    candidates = best_captions(decoder, features, vocabulary, SearchOptions(**config.model_dump()))
    return evaluate(candidates, references, protocol=replace(protocol, decoding=config.describe())).scores
