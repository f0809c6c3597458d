"""The options of a request, and what they mean to the captioner: the command line's, under the same names."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Annotated, Any

from pydantic import BaseModel, ConfigDict, Field, ValidationInfo, field_validator
from pydantic_core import PydanticCustomError

from showtell.captioner import Captioner
from showtell.decoding import (
    MOST_PENALTY,
    MOST_REQUIRED,
    MOST_TOKENS,
    TEMPERATURES,
    Sampling,
    SearchOptions,
    Wishes,
    sampling_asked,
)
from showtell.errors import DataError
from showtell.serve.problems import refusal

MOST_BEAMS = 20
MOST_EXCLUDED = 20
_MOST_WORDS = 40  # of both kinds, alternatives counted: each takes time at every step
_MOST_STATES = 64  # what a search has to compare grows with their square
_MOST_WEIGHT = 2**MOST_REQUIRED
_TEXT = 100  # characters

Text = Annotated[str, Field(max_length=_TEXT)]


class Asked(BaseModel):
    """The options of a request, from a form, a query or JSON."""

    model_config = ConfigDict(extra="forbid", allow_inf_nan=False)
    n: int = Field(1, ge=1, le=10, description="captions an image")
    beam: int | None = Field(
        None, ge=1, le=MOST_BEAMS, description="beams an image; by default the model's, at least n"
    )
    attention: bool = Field(False, description="say where the model looked for each word")
    required: list[Text] = Field(
        [], alias="with", max_length=MOST_REQUIRED, description="words that must occur; `dog|dogs`: either of them"
    )
    without: list[Text] = Field([], max_length=MOST_EXCLUDED, description="words that must not occur")
    begins: Text = Field("", description="words that every caption begins with: `a photo of`")
    min_length: int = Field(
        0, ge=0, le=MOST_TOKENS, description="words, or pieces of words, that a caption has at least"
    )
    max_length: int | None = Field(
        None, ge=1, le=MOST_TOKENS,
        description="words, or pieces, that a caption has at most; it is searched for among those that end by then, with 20 beams or more unless `beam` is given",
    )  # fmt: skip
    length_penalty: float | None = Field(
        None, ge=0, le=MOST_PENALTY,
        description="captions are ranked by log-probability / length to the power of this; by default the model's",
    )  # fmt: skip
    no_repeat: int | None = Field(
        None, ge=0, le=MOST_TOKENS,
        description="so many words in a row are said once at most; 0: no such rule; by default the model's",
    )  # fmt: skip
    diverse: bool = Field(False, description="captions in different words; needs n of 2 or more")
    diversity: float | None = Field(
        None, ge=0, le=MOST_PENALTY, description="with diverse: the penalty for another caption's words, in nats; 0.5 by default"
    )  # fmt: skip
    sample: bool = Field(False, description="draw captions instead of searching for the likeliest")
    temperature: float | None = Field(
        None, ge=TEMPERATURES[0], le=TEMPERATURES[1],
        description="with sample: below 1 for plainer captions, above 1 for wilder ones; 1 by default",
    )  # fmt: skip
    top_p: float | None = Field(
        None, gt=0, le=1,
        description="with sample: draw from the likeliest words that have this share of the probability; 0.9 by default",
    )  # fmt: skip
    seed: int | None = Field(
        None, ge=0, le=2**31 - 1, description="with sample: the same seed draws the same captions of the same images; 0 by default"
    )  # fmt: skip

    @field_validator("*", mode="before")
    @classmethod
    def _no_truth_for_a_number(cls, value: Any, info: ValidationInfo) -> Any:
        """pydantic reads true as 1."""
        kind = cls.model_fields[str(info.field_name)].annotation
        if isinstance(value, bool) and kind in (int, int | None):
            raise PydanticCustomError("int_type", "Expected a whole number")
        if isinstance(value, bool) and kind == (float | None):
            raise PydanticCustomError("float_type", "Expected a number")
        return value

    def wishes(self) -> Wishes:
        """What is asked for beyond the captioner's own decoding; `DataError` where it does not go together."""
        return Wishes(
            tuple(self.required), tuple(self.without), self.diverse, self.diversity,
            begins=self.begins, min_tokens=self.min_length, max_tokens=self.max_length,
            length_penalty=self.length_penalty, no_repeat_ngram=self.no_repeat,
        )  # fmt: skip

    def sampling(self) -> Sampling | None:
        """How captions are drawn; None where they are searched for. `DataError` for options that do not go together."""
        return sampling_asked(
            self.wishes(), n=self.n, beam=self.beam, sample=self.sample,
            temperature=self.temperature, top_p=self.top_p, seed=self.seed,
        )  # fmt: skip


OPTIONS = tuple(field.alias or name for name, field in Asked.model_fields.items())
LISTS = {"with": MOST_REQUIRED, "without": MOST_EXCLUDED}  # options that may be repeated, and how often


@dataclass(frozen=True, slots=True)
class Way:
    """How an image is captioned. Only images captioned in equal ways share a batch, where each takes as much room as
    `weight` ordinary ones."""

    options: SearchOptions
    sampling: Sampling | None = None
    weight: int = 1


def check_together(asked: Asked) -> None:
    """Refuses ("wrong_option") options that are right by themselves but not with each other."""
    try:
        asked.sampling()
    except DataError as error:
        raise _wrong(str(error)) from None
    words = sum(1 + text.count("|") for text in (*asked.required, *asked.without))
    if words > _MOST_WORDS:
        raise _wrong(f"with and without name {words} words, expected at most {_MOST_WORDS}, alternatives counted")


def way_of(captioner: Captioner, asked: Asked) -> Way:
    """How the captioner meets what is asked. Refuses ("wrong_option") what it cannot, or what would take too much: no
    image has more beams than a batch of ordinary ones with the widest beam. May take a while, for a thread."""
    try:
        wishes = asked.wishes()
        options = captioner.options(beam=asked.beam, n=asked.n, wishes=wishes if wishes != Wishes() else None)
        sampling = asked.sampling()
    except DataError as error:
        raise _wrong(str(error)) from None
    if sampling is not None:
        return Way(options, sampling)
    beams, usual = max(options.beam, options.consensus), max(MOST_BEAMS, captioner.defaults.consensus)
    if options.states > _MOST_STATES or options.states * beams > _MOST_WEIGHT * usual:
        raise _wrong(
            f"the words that must or must not occur need {options.states} times the {beams} beams, "
            f"expected at most {min(_MOST_STATES, _MOST_WEIGHT * usual // beams)} times; ask for fewer words, or a narrower beam"
        )
    return Way(options, weight=-(-options.states * beams // usual))


def _wrong(message: str) -> Exception:
    return refusal("wrong_option", message)
