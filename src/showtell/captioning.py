"""Captions of photos, whatever computes them: what a caption is, and how images become batches. No torch here."""

from __future__ import annotations

import itertools
from abc import ABC, abstractmethod
from collections.abc import Iterable, Iterator, Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass, replace
from typing import Any

import numpy as np
from numpy.typing import NDArray

from showtell.decoding import Sampling, SearchOptions
from showtell.errors import ImageError
from showtell.images import ImageTransform, Source, open_image

Pixels = NDArray[np.float32]


@dataclass(frozen=True, slots=True)
class Word:
    """A token of a caption, its log-probability in nats, and where the decoder looked for it (h,w).

    `attention` sums to one, or to less: the rest went to what has no place in the picture (the image as a whole, or the
    sentinel of `adaptive`). It is None for a decoder that has none, and for sampled captions.
    """

    text: str
    log_prob: float
    attention: NDArray[np.float32] | None


@dataclass(frozen=True, slots=True)
class Caption:
    """What is said of an image.

    `log_prob` is the whole caption's in nats, its `<end>` included; `score` is what the search ranked by (divided by the
    length); `alternatives` are the next best captions.
    """

    text: str
    log_prob: float
    score: float
    words: tuple[Word, ...]
    alternatives: tuple[Caption, ...] = ()


class BaseCaptioner(ABC):
    """Images in, captions out, in batches; a subclass encodes and searches."""

    transform: ImageTransform
    defaults: SearchOptions
    recipe: Mapping[str, Any]  # what it was trained by
    grid: tuple[int, int] | None  # the encoder's regions; None when it is pooled

    def caption(
        self,
        images: Sequence[Source] | Source,
        *,
        beam: int | None = None,
        n: int = 1,
        sampling: Sampling | None = None,
        batch_size: int = 32,
    ) -> list[Caption]:
        """The best caption of each image, in order, with n - 1 alternatives each.

        Images are paths, bytes, open files or PIL images; one alone may be given without a list. `beam` is the
        bundle's unless given, and at least n; with `sampling` the n captions are drawn instead, likeliest first. Raises
        `ImageError` for the first that cannot be read.
        """
        sources: Sequence[Source] = images if isinstance(images, list | tuple) else [images]  # type: ignore[list-item]
        captions = []
        for result in self.caption_each(sources, beam=beam, n=n, sampling=sampling, batch_size=batch_size):
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
        batch_size: int = 32,
    ) -> Iterator[Caption | ImageError]:
        """One result a source, in order, as they come: its caption, or why it cannot be read.

        Images are decoded in threads, one batch ahead of the model; never more than two batches are in memory.
        """
        options = replace(self.defaults, n=n, beam=max(n, beam or self.defaults.beam))
        with ThreadPoolExecutor(2) as pool:
            waiting, first = None, 0
            for batch in itertools.chain(_batches(sources, batch_size), [None]):
                loading = None if batch is None else [pool.submit(self._load, source) for source in batch]
                if waiting is not None:
                    yield from self._caption_batch([future.result() for future in waiting], first, options, sampling)
                    first += len(waiting)
                waiting = loading

    def _caption_batch(
        self, loaded: list[Pixels | ImageError], first: int, options: SearchOptions, sampling: Sampling | None
    ) -> Iterator[Caption | ImageError]:
        good = {place: item for place, item in enumerate(loaded, first) if not isinstance(item, ImageError)}
        captions: Iterator[Caption] = iter(())
        if good:
            found = self._search(np.stack(list(good.values())), list(good), options, sampling)
            captions = (replace(best, alternatives=tuple(others)) for best, *others in found)
        yield from (item if isinstance(item, ImageError) else next(captions) for item in loaded)

    @abstractmethod
    def _search(
        self, pixels: Pixels, places: Sequence[int], options: SearchOptions, sampling: Sampling | None
    ) -> list[list[Caption]]:
        """For each image of `pixels` (B,3,S,S), its n captions, best first; `places` count the images from 0."""

    def _load(self, source: Source) -> Pixels | ImageError:
        try:
            return self.transform(open_image(source))
        except ImageError as error:
            return error


def _batches(sources: Iterable[Source], size: int) -> Iterator[list[Source]]:
    iterator = iter(sources)
    while batch := list(itertools.islice(iterator, size)):
        yield batch
