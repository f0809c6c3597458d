"""Captions of photos, from Python: `Captioner.load(folder).caption(images)`."""

from __future__ import annotations

import itertools
import random
from collections.abc import Iterable, Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass, replace
from pathlib import Path

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from showtell.bundle import Bundle, load_bundle
from showtell.errors import DataError, ImageError
from showtell.images import Source, open_image
from showtell.search import Hypothesis, SearchOptions, beam_search, sample

Pixels = NDArray[np.float32]


@dataclass(frozen=True, slots=True)
class Word:
    """A token of a caption, its log-probability in nats, and where the decoder looked for it (h,w), summing to one.

    `attention` is None for a decoder that has none, and for sampled captions.
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


@dataclass(frozen=True, slots=True)
class Sampling:
    """Captions drawn instead of searched for; the same seed draws the same ones for the same image in the same place."""

    temperature: float = 1.0
    top_p: float = 0.9
    seed: int = 0

    def __post_init__(self) -> None:
        if not self.temperature > 0:
            raise DataError(f"temperature is {self.temperature}, expected more than 0")
        if not 0 < self.top_p <= 1:
            raise DataError(f"top_p is {self.top_p}, expected more than 0 and at most 1")
        if not 0 <= self.seed < 2**31:
            raise DataError(f"seed is {self.seed}, expected 0 to {2**31 - 1}")


class Captioner:
    """A bundle, ready to caption."""

    def __init__(self, bundle: Bundle, *, device: torch.device) -> None:
        self.bundle, self.device = bundle, device
        self._defaults = SearchOptions(**bundle.search)

    @classmethod
    def load(cls, path: str | Path, device: str | torch.device | None = None) -> Captioner:
        """The captioner in a bundle's folder, on `device` (by default an accelerator where there is one).

        Raises `BundleError` for what is no bundle, is incomplete, or of a newer version.
        """
        chosen = torch.device(device) if device is not None else _best_device()
        torch.set_flush_denormal(True)
        return cls(load_bundle(path, chosen), device=chosen)

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
        options = replace(self._defaults, n=n, beam=max(n, beam or self._defaults.beam))
        with ThreadPoolExecutor(2) as pool:
            waiting, first = None, 0
            for batch in itertools.chain(_batches(sources, batch_size), [None]):
                loading = None if batch is None else [pool.submit(self._load, source) for source in batch]
                if waiting is not None:
                    yield from self._caption_batch([future.result() for future in waiting], first, options, sampling)
                    first += len(waiting)
                waiting = loading

    def features(self, pixels: Tensor) -> Tensor:
        """Transformed images (B,3,S,S) -> features (B,R,F): the encoder alone."""
        return self.bundle.encoder.encode(pixels.to(self.device))

    def _caption_batch(
        self, loaded: list[Pixels | ImageError], first: int, options: SearchOptions, sampling: Sampling | None
    ) -> Iterator[Caption | ImageError]:
        good = {place: item for place, item in enumerate(loaded, first) if not isinstance(item, ImageError)}
        captions: Iterator[Caption] = iter(())
        if good:
            features = self.features(torch.from_numpy(np.stack(list(good.values()))))
            captions = map(self._ranked, self._search(features, list(good), options, sampling))
        yield from (item if isinstance(item, ImageError) else next(captions) for item in loaded)

    def _search(
        self, features: Tensor, places: Sequence[int], options: SearchOptions, sampling: Sampling | None
    ) -> list[list[Hypothesis]]:
        vocabulary = self.bundle.vocabulary
        banned = (vocabulary.pad_id, vocabulary.start_id, vocabulary.unk_id)
        decoder, start, end = self.bundle.decoder, vocabulary.start_id, vocabulary.end_id
        if sampling is None:
            return beam_search(
                decoder, features, options=options, start_id=start, end_id=end, banned=banned, attention=True
            )
        options = replace(options, temperature=sampling.temperature, top_p=sampling.top_p)
        seeds = [random.Random(f"{sampling.seed}/{place}").getrandbits(32) for place in places]  # torch reads 32 bits
        generators = [torch.Generator().manual_seed(seed) for seed in seeds]
        with torch.inference_mode():
            return sample(
                decoder, features, options=options, start_id=start, end_id=end, banned=banned, generators=generators
            )

    def _ranked(self, hypotheses: list[Hypothesis]) -> Caption:
        best, *others = map(self._caption, hypotheses)
        return replace(best, alternatives=tuple(others))

    def _caption(self, found: Hypothesis) -> Caption:
        texts = self.bundle.vocabulary.tokens(found.tokens)
        maps = self._maps(found)
        words = tuple(Word(*parts) for parts in zip(texts, found.token_log_probs, maps, strict=False))
        return Caption(self.bundle.vocabulary.decode(found.tokens), found.log_prob, found.score, words)

    def _maps(self, found: Hypothesis) -> list[NDArray[np.float32] | None]:
        grid = self.bundle.grid
        if found.attention is None or grid is None:
            return [None] * len(found.tokens)
        return list(found.attention.float().view(-1, *grid).numpy())

    def _load(self, source: Source) -> Pixels | ImageError:
        try:
            return self.bundle.transform(open_image(source))
        except ImageError as error:
            return error


def _batches(sources: Iterable[Source], size: int) -> Iterator[list[Source]]:
    iterator = iter(sources)
    while batch := list(itertools.islice(iterator, size)):
        yield batch


def _best_device() -> torch.device:
    if torch.cuda.is_available():
        return torch.device("cuda")
    return torch.device("mps" if torch.backends.mps.is_available() else "cpu")
