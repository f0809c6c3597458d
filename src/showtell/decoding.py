"""Options for choosing captions, by search or by sampling, whatever runs it."""

from __future__ import annotations

import operator
import random
from collections.abc import Callable
from dataclasses import dataclass
from numbers import Real
from typing import Any

from showtell.errors import DataError

BATCH_SIZE = 32  # images captioned together, unless another number is asked for
MOST_VIEWS = 8
MOST_TOKENS = 100  # of a caption whose length is asked for
MOST_REQUIRED = 4  # every subset of them has a beam of its own
MOST_PENALTY = 10.0  # of a length or of another caption's words: more would leave the range of float32
TEMPERATURES = (0.01, 100.0)  # likewise
Phrase = tuple[int, ...]  # token ids that follow each other


@dataclass(frozen=True, slots=True)
class SearchOptions:
    """`score = log_prob / length ** length_penalty`; length and `max_length` count the `<end>`.

    The beam is split into `groups`; a word costs `diversity` nats each time that an earlier group says it at the same
    step. Every caption has a phrase of each of `required` and none of `forbidden`; a phrase that one of the tokens
    `continuing` follows has not been said, as the word goes on. Captions begin with `beginning` and have `min_length`
    tokens or more before the `<end>`; `closing` ones have ended by `max_length`, as nothing else may be said there.
    `consensus` candidates are ranked by how much they agree, and the image is looked at in `views` ways.
    """

    beam: int = 5
    max_length: int = 30
    length_penalty: float = 1.0
    no_repeat_ngram: int = 0
    n: int = 1
    temperature: float = 1.0
    top_p: float = 1.0
    groups: int = 1
    diversity: float = 0.5
    required: tuple[tuple[Phrase, ...], ...] = ()
    forbidden: tuple[Phrase, ...] = ()
    continuing: tuple[int, ...] = ()
    beginning: Phrase = ()
    min_length: int = 0
    closing: bool = False
    consensus: int = 0
    views: int = 1

    @property
    def states(self) -> int:
        """The groups of `beam` beams that a search for `required` and `forbidden` has, at most: one for each set of
        requirements met and each beginning of a phrase; 1 without such words."""
        goes_on = bool(self.continuing)  # then a phrase that is whole may not yet be said
        begun = {p[:k] for p in self.forbidden for k in range(1, len(p) + goes_on)}
        awaited: dict[Phrase, set[int]] = {}  # beginnings that count until the requirements that they belong to are met
        for number, any_of in enumerate(self.required):
            for beginning in {p[:k] for p in any_of for k in range(1, len(p) + goes_on)} - begun:
                awaited.setdefault(beginning, set()).add(number)
        subsets = 1 << len(self.required)
        return subsets * (1 + len(begun)) + sum(subsets - (subsets >> len(whose)) for whose in awaited.values())

    def only(self, step: int, end_id: int) -> int | None:
        """The token that has to come as number `step`, counted from 1; None where there is a choice."""
        if step <= len(self.beginning):
            return self.beginning[step - 1]
        return end_id if self.closing and step == self.max_length else None

    def ruled_out(self, step: int, end_id: int) -> tuple[int, ...]:
        """Tokens that may not come as number `step`: an early end, and what would go on with the last word of the
        beginning."""
        early = (end_id,) * (step <= self.min_length)
        return early + self.continuing * (step == len(self.beginning) + 1 > 1)


@dataclass(frozen=True, slots=True)
class Sampling:
    """Draws captions instead of searching; the same seed draws the same ones for the same image in the same place."""

    temperature: float = 1.0
    top_p: float = 0.9
    seed: int = 0

    def __post_init__(self) -> None:
        _need_numbers(temperature=self.temperature, top_p=self.top_p)
        need_whole(seed=self.seed)
        low, high = TEMPERATURES
        if not low <= self.temperature <= high:
            raise DataError(f"temperature is {self.temperature}, expected {low:g} to {high:g}")
        if not 0 < self.top_p <= 1:
            raise DataError(f"top_p is {self.top_p}, expected more than 0 and at most 1")
        if not 0 <= self.seed < 2**31:
            raise DataError(f"seed is {self.seed}, expected 0 to {2**31 - 1}")

    def seed_of(self, place: int) -> int:
        """The seed of the image in a place, from 0: 32 bits, all that torch reads."""
        return random.Random(f"{self.seed}/{place}").getrandbits(32)

    def describe(self) -> str:
        """The sampling as a protocol names it."""
        return f"sampled at temperature {self.temperature:g} from {self.top_p:g} of the probability, seed {self.seed}"


@dataclass(frozen=True, slots=True)
class Wishes:
    """What is asked of captions beyond the bundle's own decoding.

    Every caption has each of the words `required`, where "dog|dogs" is met by either, and none of `excluded`, where
    "dog|dogs" rules out both. "doghouse" is not "dog"; words of scripts without spaces cannot be told apart by captioners
    of subwords (`data.vocabulary = "bpe"`), whose "dog." with its full stop may be one more token. `diverse` searches
    as many groups as there are captions, and a word costs `diversity` nats (0.5) each time that an earlier group says it. `consensus` candidates are
    ranked by how much they agree, and the image is looked at in `views` ways (1 to 4; to 8 for a bundle trained on
    turned pictures). Captions begin with the words `begins`, and have `min_tokens` to `max_tokens` tokens before the
    `<end>`: words, or pieces of words for captioners of subwords. `length_penalty` and `no_repeat_ngram` are those of `search` in a recipe.
    None keeps the bundle's own. Sampling meets the wishes about length, beginning, repetition and views.
    """

    required: tuple[str, ...] = ()
    excluded: tuple[str, ...] = ()
    diverse: bool = False
    diversity: float | None = None
    consensus: int | None = None
    views: int | None = None
    begins: str = ""
    min_tokens: int = 0
    max_tokens: int | None = None
    length_penalty: float | None = None
    no_repeat_ngram: int | None = None

    def __post_init__(self) -> None:
        _need_texts(required=self.required, excluded=self.excluded)
        _need_numbers(**self._given("diversity", "length_penalty"))
        need_whole(min_tokens=self.min_tokens, **self._given("consensus", "views", "max_tokens", "no_repeat_ngram"))
        if not isinstance(self.begins, str):
            raise DataError(f"begins is {self.begins!r}; expected text")
        if len(self.required) > MOST_REQUIRED:
            raise DataError(f"{len(self.required)} words are required, expected at most {MOST_REQUIRED}")
        if self.diversity is not None and not 0 <= self.diversity <= MOST_PENALTY:
            raise DataError(f"diversity is {self.diversity}, expected 0 to {MOST_PENALTY:g}")
        if self.consensus is not None and not 0 <= self.consensus <= 100:
            raise DataError(f"a consensus of {self.consensus} candidates: expected 0 to 100")
        if self.views is not None and not 1 <= self.views <= MOST_VIEWS:
            raise DataError(f"{self.views} views: expected 1 to {MOST_VIEWS}")
        if self.diverse and (self.required or self.excluded):
            raise DataError("diverse captions and words that must or must not occur do not go together; ask for one")
        if self.diverse and self.consensus:
            raise DataError("diverse captions differ, and a consensus ranks them by how much they agree; ask for one")
        if self.max_tokens is not None and not 1 <= self.max_tokens <= MOST_TOKENS:
            raise DataError(f"a longest caption of {self.max_tokens} words: expected 1 to {MOST_TOKENS}")
        most = self.max_tokens or MOST_TOKENS
        if not 0 <= self.min_tokens <= most:
            raise DataError(f"{self.min_tokens} words at least: expected 0 to {most}")
        if self.length_penalty is not None and not 0 <= self.length_penalty <= MOST_PENALTY:
            raise DataError(f"length normalisation is {self.length_penalty}, expected 0 to {MOST_PENALTY:g}")
        if self.no_repeat_ngram is not None and self.no_repeat_ngram < 0:
            raise DataError(f"no {self.no_repeat_ngram} words twice: expected 0 (no such rule) or more")

    def _given(self, *names: str) -> dict[str, Any]:
        return {name: value for name in names if (value := getattr(self, name)) is not None}

    def searched(self) -> tuple[str, ...]:
        """Those of them that can only be searched for, by the names of their options."""
        wished = {
            "with": self.required, "without": self.excluded, "diverse": self.diverse, "consensus": self.consensus,
            "length_penalty": self.length_penalty is not None,
        }  # fmt: skip
        return tuple(name for name, value in wished.items() if value)


def sampling_asked(
    wishes: Wishes,
    *,
    n: int,
    beam: int | None = None,
    sample: bool = False,
    temperature: float | None = None,
    top_p: float | None = None,
    seed: int | None = None,
    spelt: Callable[[str], str] = str,
) -> Sampling | None:
    """How captions are to be sampled, if they are, by options as somebody gave them, None where they did not.

    `DataError` for options that are right by themselves but not with each other, `wishes` among them; `spelt` writes an
    option's name as whoever asks does.
    """
    if beam is not None and beam < n:
        raise DataError(f"{spelt('n')} is {n} and {spelt('beam')} {beam}, expected a beam of at least n")
    if wishes.diverse and n < 2:
        raise DataError(f"{spelt('diverse')} captions are several and {spelt('n')} is {n}, expected 2 or more")
    if wishes.diversity is not None and not wishes.diverse:
        raise DataError(f"{spelt('diversity')} goes with {spelt('diverse')}, which is missing")
    searching = (*wishes.searched(), *(("beam",) if beam is not None else ()))
    if sample and searching:
        verb = "searches" if len(searching) == 1 else "search"
        named = ", ".join(map(spelt, searching))
        raise DataError(f"{named} {verb}, and {spelt('sample')} draws; leave out one or the other")
    drawing = {"temperature": temperature, "top_p": top_p, "seed": seed}
    given = {name: value for name, value in drawing.items() if value is not None}
    if given and not sample:
        verb = "goes" if len(given) == 1 else "go"
        raise DataError(f"{', '.join(map(spelt, given))} {verb} with {spelt('sample')}, which is missing")
    return Sampling(**given) if sample else None  # type: ignore[arg-type]


def need_whole(**numbers: Any) -> None:
    """Raises `DataError` for the first of the named values that is no whole number."""
    for name, value in numbers.items():
        try:
            operator.index(value)  # numpy's integers are whole, too
            whole = not isinstance(value, bool)
        except TypeError:
            whole = False
        if not whole:
            raise DataError(f"{name} is {value!r}; expected a whole number")


def _need_numbers(**numbers: Any) -> None:
    for name, value in numbers.items():
        if not isinstance(value, Real) or isinstance(value, bool):
            raise DataError(f"{name} is {value!r}; expected a number")


def _need_texts(**lists: Any) -> None:
    for name, texts in lists.items():
        if not isinstance(texts, list | tuple) or not all(isinstance(text, str) for text in texts):
            raise DataError(f"{name} is {texts!r}; expected a list of texts, such as ['dog', 'red|green']")


def none_found(options: SearchOptions) -> DataError:
    """The error, with advice, where no caption of an image was found, or can be drawn, that meets all that is asked for."""
    ngram, words = options.no_repeat_ngram, options.required or options.forbidden
    asked = [
        f"of {options.min_length} to {options.max_length - 1} words" if options.min_length else f"of {options.max_length - 1} words or fewer",
        *(["with all that must occur and nothing that must not"] if words else []),
        *([f"without {'the same word' if ngram == 1 else f'the same {ngram} words in a row'} twice"] if ngram else []),
    ]  # fmt: skip
    advice = (
        "ask for fewer words, or search with a wider beam" if words else "ask for shorter captions, or allow repetition"
    )
    return DataError(f"no caption {', '.join(asked)} was found; {advice}")
