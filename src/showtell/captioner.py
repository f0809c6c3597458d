"""Captions of photos, from Python: `Captioner.load(folder or hub name).caption(images)`.

No torch here, until a bundle is loaded.
"""

from __future__ import annotations

import itertools
import json
from collections.abc import Iterable, Iterator, Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import replace
from pathlib import Path
from typing import TYPE_CHECKING, Any

from PIL.Image import Image

from showtell.captioning import Caption, Engine, Precision
from showtell.decoding import BATCH_SIZE, Sampling, SearchOptions, Wishes, need_whole
from showtell.errors import BundleError, DataError, ImageError
from showtell.hub import resolve
from showtell.images import ImageTransform, Source, open_image

if TYPE_CHECKING:
    import torch

_FOR_SHORT = 20  # beams: narrow ones have dropped the sentences that end in time (experiments/LOG.md)


class Captioner:
    """Images in, captions out, in batches; its `engine` encodes and searches."""

    def __init__(self, engine: Engine) -> None:
        self.engine = engine

    @classmethod
    def load(
        cls,
        path: str | Path,
        device: str | torch.device | None = None,
        *,
        ensemble: Sequence[str | Path] = (),
        precision: Precision = "auto",
        threads: int = 0,
        providers: Sequence[str] = (),
    ) -> Captioner:
        """The captioner in a bundle or in an exported folder, which needs no torch.

        `path` may be `user/name` or `user/name@revision` on the hub; see `showtell.hub.resolve`. For bundles: `device` is
        torch's, by default an accelerator where there is one; the bundles of `ensemble` join it; `precision` is that of
        `showtell.inference.BundleEngine.load`. For exported folders: `threads` and `providers` are those of
        `showtell.runtime.OnnxEngine.load`.

        Raises `BundleError` for a folder that is neither, is incomplete or is of a newer version, and for an ensemble whose
        words differ or of which one is exported; `DownloadError` where the hub cannot be reached; `MissingExtraError`
        without ONNX Runtime; `DataError` for an unavailable device or provider, an unknown precision, and for what the
        other kind of folder takes.
        """
        folder, *others = (resolve(name) for name in (path, *ensemble))
        exported = [each for each in (folder, *others) if is_exported(each)]
        if exported and others:
            raise BundleError(f"{exported[0]} is an exported captioner; an ensemble needs the bundles themselves")
        if exported:
            from showtell.runtime import OnnxEngine

            _refuse_torch(folder, device, precision)
            return cls(OnnxEngine.load(folder, threads=threads, providers=providers))
        if threads or providers:
            raise DataError(f"{folder} is no exported captioner; expected threads and providers for one alone")
        from showtell.inference import BundleEngine

        return cls(BundleEngine.load(folder, device, precision=precision, ensemble=others))

    @property
    def transform(self) -> ImageTransform:
        """What turns an image into the encoder's input."""
        return self.engine.transform

    @property
    def grid(self) -> tuple[int, int] | None:
        """The encoder's regions; None when it is pooled."""
        return self.engine.grid

    @property
    def defaults(self) -> SearchOptions:
        """The bundle's own decoding."""
        return self.engine.defaults

    @property
    def recipe(self) -> Mapping[str, Any]:
        """That of its training."""
        return self.engine.recipe

    @property
    def members(self) -> int:
        """How many bundles say each word together: more than one in an ensemble."""
        return self.engine.members

    @property
    def enough(self) -> int:
        """The pixels that a photo's shorter side needs for `see`, as `open_image` takes them."""
        return self.engine.enough

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
        likeliest first. `wishes` are words that must or must not occur, and other ways to search. Raises `ImageError` for
        the first image that cannot be read, `DataError` for a wish that cannot be met.
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
        return options if wishes is None else self.engine.wished(options, wishes)

    def see(self, image: Image, options: SearchOptions) -> Any:
        """Prepares one decoded image for `caption_seen`; may run in any thread."""
        return self.engine.see(image, options)

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
        found = self.engine.search(seen, range(len(seen)) if places is None else places, options, sampling)
        return [replace(best, alternatives=tuple(others)) for best, *others in found]

    def _caption_batch(
        self, loaded: list[Any], first: int, options: SearchOptions, sampling: Sampling | None
    ) -> Iterator[Caption | ImageError]:
        good = {place: item for place, item in enumerate(loaded, first) if not isinstance(item, ImageError)}
        captions: Iterator[Caption] = iter(())
        if good:
            captions = iter(self.caption_seen(list(good.values()), options, sampling=sampling, places=list(good)))
        yield from (item if isinstance(item, ImageError) else next(captions) for item in loaded)

    def _load(self, source: Source, options: SearchOptions) -> Any:
        try:
            return self.see(open_image(source, enough=self.enough), options)
        except ImageError as error:
            return error


def is_exported(folder: Path) -> bool:
    """Whether `showtell export` wrote the folder."""
    try:
        config = json.loads((folder / "config.json").read_text(encoding="utf-8"))
    except (OSError, ValueError):
        return False
    return isinstance(config, dict) and "onnx" in config


def _refuse_torch(folder: Path, device: str | torch.device | None, precision: Precision) -> None:
    """Raises `DataError` for what torch alone takes, where it does not run."""
    if device is not None and str(device) != "cpu":
        raise DataError(
            f"{folder} is an exported captioner, which runs on the cpu; expected no device, found '{device}'"
        )
    if precision != "auto":
        raise DataError(
            f"{folder} is an exported captioner, whose precision is that of its export; expected none, found '{precision}'"
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
