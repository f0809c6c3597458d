"""What a caption is, and what computes one. No torch here."""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field, replace
from typing import TYPE_CHECKING, Any, Literal, Protocol

import numpy as np
from numpy.typing import NDArray
from PIL.Image import Image

from showtell.decoding import Sampling, SearchOptions, Wishes
from showtell.errors import DataError
from showtell.images import ImageTransform

if TYPE_CHECKING:
    from showtell import array_search, search

Pixels = NDArray[np.float32]
Precision = Literal["auto", "float32"]


@dataclass(frozen=True, slots=True)
class Word:
    """A token of a caption, its log-probability in nats, and where the decoder looked for it (h,w).

    `attention` sums to at most one: the rest went to regions without a place in the picture (the image as a whole, or
    the sentinel of `adaptive`). It is None for decoders without attention and for sampled captions.
    """

    text: str
    log_prob: float
    attention: NDArray[np.float32] | None = field(repr=False)  # pages of numbers


@dataclass(frozen=True, slots=True)
class Caption:
    """A caption of an image.

    `log_prob` is the whole caption's in nats, its `<end>` included; `score` is what the search ranked by, e.g. the
    former divided by a power of the length; `alternatives` are the next best captions. `finished`: it was not cut off at
    the longest length; where a longest caption is wished for, the search has made it end.
    """

    text: str
    log_prob: float
    score: float
    words: tuple[Word, ...] = field(repr=False)
    alternatives: tuple[Caption, ...] = ()
    finished: bool = True

    def __str__(self) -> str:
        return self.text

    @property
    def confidence(self) -> float:
        """The geometric mean of the probabilities of its words and of its `<end>`, 0 … 1: comparable across lengths."""
        return math.exp(self.log_prob / max(1, len(self.words) + self.finished))


class Engine(Protocol):
    """What computes captions for a `Captioner`: a bundle (torch), or an exported folder (ONNX Runtime)."""

    @property
    def transform(self) -> ImageTransform:
        """What turns an image into the encoder's input."""

    @property
    def grid(self) -> tuple[int, int] | None:
        """The encoder's regions; None when it is pooled."""

    @property
    def defaults(self) -> SearchOptions:
        """Its own decoding."""

    @property
    def recipe(self) -> Mapping[str, Any]:
        """That of its training."""

    @property
    def members(self) -> int:
        """How many captioners say each word together: more than one in an ensemble."""

    @property
    def enough(self) -> int:
        """The pixels that a photo's shorter side needs for `see`, as `open_image` takes them."""

    def wished(self, options: SearchOptions, wishes: Wishes) -> SearchOptions:
        """`options` changed by the wishes; `DataError` for those that it cannot meet."""

    def see(self, image: Image, options: SearchOptions) -> Any:
        """Prepares one decoded image for `search`; may run in any thread."""

    def search(
        self, seen: Sequence[Any], places: Sequence[int], options: SearchOptions, sampling: Sampling | None
    ) -> list[list[Caption]]:
        """The n captions of each image of a batch, best first.

        `seen` is what `see` returned with the same options; `places` are the images' positions among all sources, from 0.
        """


def caption_of(
    found: array_search.Hypothesis | search.Hypothesis,
    text: str,
    tokens: Sequence[str],
    attention: NDArray[np.float32] | None,
    grid: tuple[int, int] | None,
) -> Caption:
    """What a search found as a caption, with its text, its tokens as texts, and where the decoder looked for each (T,R)."""
    maps: Sequence[NDArray[np.float32] | None] = [None] * len(tokens)
    if attention is not None and grid is not None:
        height, width = grid  # the whole image, as one more region, has no place
        maps = list(attention[:, : height * width].reshape(len(attention), height, width))
    words = tuple(Word(*parts) for parts in zip(tokens, found.token_log_probs, maps, strict=False))
    return Caption(text, found.log_prob, found.score, words, finished=found.finished)


def measured(options: SearchOptions, wishes: Wishes) -> SearchOptions:
    """`options` with the length and the repetition wished for; `DataError` where captions end before they are long enough."""
    penalty, ngram = wishes.length_penalty, wishes.no_repeat_ngram
    longest = options.max_length if wishes.max_tokens is None else wishes.max_tokens + 1  # and the `<end>`
    if wishes.min_tokens >= longest:
        raise DataError(
            f"captions of {wishes.min_tokens} words or more are asked for, and they end after {longest - 1}; ask for a longest caption of {wishes.min_tokens} or more"
        )
    return replace(
        options,
        min_length=wishes.min_tokens,
        max_length=longest,
        closing=wishes.max_tokens is not None,
        length_penalty=options.length_penalty if penalty is None else penalty,
        no_repeat_ngram=options.no_repeat_ngram if ngram is None else ngram,
    )
