"""Captions of photos, from Python: `Captioner.load(folder).caption(images)`."""

from __future__ import annotations

import itertools
from collections.abc import Iterable, Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass, replace
from pathlib import Path

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from showtell.bundle import Bundle, load_bundle
from showtell.errors import ImageError
from showtell.images import Source, open_image
from showtell.search import Hypothesis, SearchOptions, beam_search

Pixels = NDArray[np.float32]


@dataclass(frozen=True, slots=True)
class Word:
    """A token of a caption, its log-probability in nats, and where the decoder looked for it (h,w), summing to one."""

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
        self, images: Sequence[Source] | Source, *, beam: int | None = None, n: int = 1, batch_size: int = 32
    ) -> list[Caption]:
        """The best caption of each image, in order, with n - 1 alternatives each.

        Images are paths, bytes, open files or PIL images; one alone may be given without a list. `beam` is the
        bundle's unless given, and at least n. Raises `ImageError` for the first that cannot be read.
        """
        sources: Sequence[Source] = images if isinstance(images, list | tuple) else [images]  # type: ignore[list-item]
        captions = []
        for result in self.caption_each(sources, beam=beam, n=n, batch_size=batch_size):
            if isinstance(result, ImageError):
                raise result
            captions.append(result)
        return captions

    def caption_each(
        self, sources: Iterable[Source], *, beam: int | None = None, n: int = 1, batch_size: int = 32
    ) -> Iterator[Caption | ImageError]:
        """One result a source, in order, as they come: its caption, or why it cannot be read.

        Images are decoded in threads, one batch ahead of the model; never more than two batches are in memory.
        """
        options = replace(self._defaults, n=n, beam=max(n, beam or self._defaults.beam))
        with ThreadPoolExecutor(2) as pool:
            waiting = None
            for batch in itertools.chain(_batches(sources, batch_size), [None]):
                loading = None if batch is None else [pool.submit(self._load, source) for source in batch]
                if waiting is not None:
                    yield from self._caption_batch([future.result() for future in waiting], options)
                waiting = loading

    def features(self, pixels: Tensor) -> Tensor:
        """Transformed images (B,3,S,S) -> features (B,R,F): the encoder alone."""
        return self.bundle.encoder.encode(pixels.to(self.device))

    def _caption_batch(
        self, loaded: list[Pixels | ImageError], options: SearchOptions
    ) -> Iterator[Caption | ImageError]:
        good = [item for item in loaded if not isinstance(item, ImageError)]
        captions = iter(self._search(torch.from_numpy(np.stack(good)), options) if good else ())
        yield from (item if isinstance(item, ImageError) else next(captions) for item in loaded)

    def _search(self, pixels: Tensor, options: SearchOptions) -> list[Caption]:
        vocabulary = self.bundle.vocabulary
        found = beam_search(
            self.bundle.decoder, self.features(pixels), options=options,
            start_id=vocabulary.start_id, end_id=vocabulary.end_id,
            banned=(vocabulary.pad_id, vocabulary.start_id, vocabulary.unk_id), attention=True,
        )  # fmt: skip
        ranked = [[self._caption(hypothesis) for hypothesis in hypotheses] for hypotheses in found]
        return [replace(best, alternatives=tuple(others)) for best, *others in ranked]

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
