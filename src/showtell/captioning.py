"""What a caption is, and how images become batches, whatever computes the captions. No torch here."""

from __future__ import annotations

import itertools
import math
from abc import ABC, abstractmethod
from collections.abc import Iterable, Iterator, Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass, field, replace
from typing import Any

import numpy as np
from numpy.typing import NDArray
from PIL.Image import Image

from showtell.decoding import BATCH_SIZE, Sampling, SearchOptions, Wishes, need_whole
from showtell.errors import DataError, ImageError
from showtell.images import ImageTransform, Source, open_image

Pixels = NDArray[np.float32]

_FOR_SHORT = 20  # beams: narrow ones have dropped the sentences that end in time (experiments/LOG.md)


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


class BaseCaptioner(ABC):
    """Images in, captions out, in batches; a subclass encodes and searches."""

    transform: ImageTransform
    defaults: SearchOptions
    recipe: Mapping[str, Any]  # of its training
    grid: tuple[int, int] | None  # the encoder's regions; None when it is pooled

    def caption(
        self,
        images: Sequence[Source] | Source,
        *,
        beam: int | None = None,
        n: int = 1,
        sampling: Sampling | None = None,
        wishes: Wishes | None = None,
        batch_size: int = BATCH_SIZE,
    ) -> list[Caption]:
        """The best caption of each image, in order, with n - 1 alternatives each.

        Images are paths, bytes, open files or PIL images; a single one needs no list. `beam` defaults to the bundle's
        (to 20 or more with `wishes.max_tokens`) and is at least n. With `sampling` the n captions are drawn instead,
        likeliest first. `wishes` are words that must or must not occur, and other ways to search. Raises `ImageError` for the first image that cannot be read,
        `DataError` for a wish that cannot be met.
        """
        sources: Sequence[Source] = images if isinstance(images, list | tuple) else [images]  # type: ignore[list-item]
        captions = []
        for result in self.caption_each(
            sources, beam=beam, n=n, sampling=sampling, wishes=wishes, batch_size=batch_size
        ):
            if isinstance(result, ImageError):
                raise result
            captions.append(result)
        return captions

    def caption_each(
        self,
        sources: Iterable[Source],
        *,
        beam: int | None = None,
        n: int = 1,
        sampling: Sampling | None = None,
        wishes: Wishes | None = None,
        batch_size: int = BATCH_SIZE,
        workers: int = 2,
    ) -> Iterator[Caption | ImageError]:
        """One result per source, in order, as they come: its caption, or why it cannot be read.

        `workers` threads, 1 or more, decode images one batch ahead of the model; at most two batches are in memory.
        (What evaluates or chooses for a whole data set takes 0 for one per core; here 0 is refused.) Raises `DataError`
        for wishes that sampling cannot meet, and for a `batch_size` or `workers` below 1.
        """
        if isinstance(sources, str | bytes) or not isinstance(sources, Iterable):
            raise DataError(f"images are {sources!r:.60}; expected several, such as a list of paths")
        _need_counts(batch_size=batch_size, workers=workers)
        if sampling is not None and wishes is not None and wishes.searched():
            raise DataError(
                "words that must or must not occur, differing captions, a consensus and a length normalisation are searched for, and sampling "
                "draws; give one or the other"
            )
        options = self.options(beam=beam, n=n, wishes=wishes)
        with ThreadPoolExecutor(workers) as pool:
            waiting, first = None, 0
            for batch in itertools.chain(_batches(sources, batch_size), [None]):
                loading = None if batch is None else [pool.submit(self._load, source, options) for source in batch]
                if waiting is not None:
                    yield from self._caption_batch([future.result() for future in waiting], first, options, sampling)
                    first += len(waiting)
                waiting = loading

    def options(self, *, beam: int | None = None, n: int = 1, wishes: Wishes | None = None) -> SearchOptions:
        """The options that `caption` searches with: the bundle's own decoding for n captions, with at least n beams,
        changed by the wishes. Where these have a longest caption, there are 20 beams or more unless `beam` is given.

        `DataError` for numbers that are not whole or below 1, and for a wish that cannot be met.
        """
        _need_counts(n=n, beam=1 if beam is None else beam)
        short = _FOR_SHORT if wishes is not None and wishes.max_tokens is not None else 0
        options = replace(self.defaults, n=n, beam=max(n, beam or max(self.defaults.beam, short)))
        return options if wishes is None else self._wished(options, wishes)

    @property
    def enough(self) -> int:
        """The pixels that a photo's shorter side needs for `see`, as `open_image` takes them."""
        return self.transform.enough

    def see(self, image: Image, options: SearchOptions) -> Any:
        """Prepares one decoded image for `caption_seen`; may run in any thread."""
        return self.transform(image)

    def caption_seen(
        self,
        seen: Sequence[Any],
        options: SearchOptions,
        *,
        sampling: Sampling | None = None,
        places: Sequence[int] | None = None,
    ) -> list[Caption]:
        """`caption` for one batch of images that `see` has prepared with the same options.

        `places` are those of the images among all that they came with, from 0, by default those in the batch: what is
        drawn depends on them.
        """
        return self._caption_seen(seen, range(len(seen)) if places is None else places, options, sampling)

    def _caption_batch(
        self, loaded: list[Any], first: int, options: SearchOptions, sampling: Sampling | None
    ) -> Iterator[Caption | ImageError]:
        good = {place: item for place, item in enumerate(loaded, first) if not isinstance(item, ImageError)}
        captions: Iterator[Caption] = iter(())
        if good:
            captions = iter(self._caption_seen(list(good.values()), list(good), options, sampling))
        yield from (item if isinstance(item, ImageError) else next(captions) for item in loaded)

    def _caption_seen(
        self, seen: Sequence[Any], places: Sequence[int], options: SearchOptions, sampling: Sampling | None
    ) -> list[Caption]:
        found = self._search(self._batch(list(seen)), places, options, sampling)
        return [replace(best, alternatives=tuple(others)) for best, *others in found]

    @abstractmethod
    def _search(
        self, pixels: Any, places: Sequence[int], options: SearchOptions, sampling: Sampling | None
    ) -> list[list[Caption]]:
        """The n captions of each image, best first.

        `pixels` is what `_batch` returned, by default (B,3,S,S); `places` are the images' positions among all sources,
        from 0.
        """

    def _wished(self, options: SearchOptions, wishes: Wishes) -> SearchOptions:
        """`options` changed by the wishes; `DataError` for those that this captioner cannot meet."""
        if wishes.required or wishes.excluded or wishes.diverse or wishes.consensus or wishes.views or wishes.begins:
            raise DataError(
                "an exported captioner has no words asked for or ruled out, no beginning, no differing captions, no consensus and no views; "
                "ask the bundle that it came from"
            )
        return measured(options, wishes)

    def _load(self, source: Source, options: SearchOptions) -> Any:
        try:
            return self.see(open_image(source, enough=self.enough), options)
        except ImageError as error:
            return error

    def _batch(self, seen: list[Any]) -> Any:
        """Joins several prepared images into the input of `_search`."""
        return np.stack(seen)


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


def _need_counts(**numbers: int) -> None:
    for name, number in numbers.items():
        need_whole(**{name: number})
        if number < 1:
            raise DataError(f"{name} is {number}; expected 1 or more")


def _batches(sources: Iterable[Source], size: int) -> Iterator[list[Source]]:
    iterator = iter(sources)
    while batch := list(itertools.islice(iterator, size)):
        yield batch
