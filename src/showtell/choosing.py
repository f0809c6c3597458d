"""Finds the decoding that scores best on validation data: views, length normalisation, then beam, then consensus."""

from __future__ import annotations

import tempfile
from collections.abc import Callable, Iterable, Iterator, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray
from PIL.Image import Image
from torch import Tensor

from showtell.bundle import set_decoding
from showtell.config import SearchConfig
from showtell.data.annotations import CaptionedImage
from showtell.data.contents import Failure
from showtell.data.encoding import encode_into
from showtell.data.features import FeatureCache, holds_features_of
from showtell.data.vocabulary import Vocabulary
from showtell.decoding import BATCH_SIZE, SearchOptions
from showtell.errors import DataError
from showtell.evaluation import images_of, make_protocol
from showtell.generate import best_captions
from showtell.images import View, decoding_threads
from showtell.inference import BundleEngine
from showtell.metrics import Protocol, evaluate
from showtell.paths import cache_folder
from showtell.progress import Progress, silent
from showtell.search import StepDecoder

VIEWS = (1, 2, 4, 8)
PENALTIES = (0.0, 0.5, 0.7, 1.0, 1.3)
BEAMS = (3, 5, 8)
CONSENSUS = (0, 10)

Look = Callable[[int], tuple[StepDecoder, Iterable[Any]]]


@dataclass(frozen=True, slots=True)
class Tried:
    """One decoding and its scores on the validation data."""

    search: SearchConfig
    scores: dict[str, float]

    def __str__(self) -> str:
        return f"{self.search.describe():52s} BLEU-4 {100 * self.scores['bleu_4']:5.1f}  CIDEr {100 * self.scores['cider']:6.1f}"


@dataclass(frozen=True, slots=True)
class Choice:
    """The decoding with the best CIDEr (the first of equals), and all that were tried, the given one first."""

    search: SearchConfig
    tried: tuple[Tried, ...]

    @property
    def best(self) -> Tried:
        """The chosen decoding and its scores."""
        return next(tried for tried in self.tried if tried.search == self.search)


def choose_decoding(
    look: Look,
    references: Sequence[Sequence[str]],
    vocabulary: Vocabulary,
    *,
    protocol: Protocol,
    search: SearchConfig,
    views: Sequence[int] = (),
    penalties: Sequence[float] = PENALTIES,
    beams: Sequence[int] = BEAMS,
    consensus: Sequence[int] = CONSENSUS,
    report: Callable[[Tried], None] = lambda tried: None,
) -> Choice:
    """Starts from `search` and changes one value at a time, keeping what raises CIDEr; by default at most eleven tries.

    `look(views)` gives the decoder for so many views of an image, and the images' features as that takes them, in
    chunks, anew on each call; `references` are in the same order. `protocol` describes the data; its decoding is
    replaced for each try.
    """
    tried: dict[SearchConfig, Tried] = {}

    def cider(config: SearchConfig) -> float:
        if config not in tried:
            decoder, features = look(config.views)
            tried[config] = Tried(config, _scores(decoder, features, references, vocabulary, protocol, config))
            report(tried[config])
        return tried[config].scores["cider"]

    best = search
    kinds: dict[str, Sequence[float]] = {
        "views": views, "length_penalty": penalties, "beam": beams, "consensus": consensus
    }  # fmt: skip
    for key, values in kinds.items():
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


def choose_bundle_decoding(
    bundle: Path,
    data: Path,
    *,
    split: str = "val",
    search: SearchConfig | None = None,
    most_views: int | None = None,
    place: str = "",
    device: str | None = None,
    batch_size: int = BATCH_SIZE,
    workers: int = 0,
    report: Callable[[Tried], None] = lambda tried: None,
    progress: Progress = silent,
    note: Callable[[str], None] = lambda text: None,
) -> tuple[Choice, Protocol]:
    """The decoding that scores best for a bundle on a split, and its protocol; `report` hears of each decoding tried.

    The search starts from `search`, by default the bundle's own; its number of views stays unless `most_views` is
    given, up to which 1, 2, 4 and 8 are tried. Features come from the encoder's cache, in the user's place or in
    `place`, and missing ones are added; those of further views are not kept, nor any where there is no cache. Raises
    what loading and evaluating the bundle do, and `DataError` for more views than the captioner has. `device` is that of
    `Captioner.load`; `batch_size` (of images encoded together) and `workers` (0: one per core) are those of
    `evaluate_captioner`.
    """
    engine = BundleEngine.load(bundle, device)
    search = search or SearchConfig(**engine.bundle.search)
    engine.looking(most_views or search.views)  # an error before the work
    annotations, images = images_of(engine.recipe, data, split, note)
    with tempfile.TemporaryDirectory() as temporary:
        seen = _Seen(
            engine, images, place=place, temporary=Path(temporary), batch_size=batch_size,
            workers=workers or decoding_threads(), progress=progress, note=note,
        )  # fmt: skip
        if not seen.images:
            raise DataError(f"none of the {len(images)} images of the {split} split can be decoded")
        references = [list(image.captions) for image in seen.images]
        protocol = make_protocol(annotations, split, references, decoding="")
        choice = choose_decoding(
            seen.look, references, engine.bundle.vocabulary, protocol=protocol, search=search,
            views=() if most_views is None else [views for views in VIEWS if views < most_views] + [most_views],
            report=report,
        )  # fmt: skip
    return choice, replace(protocol, decoding=choice.search.describe())


@dataclass(frozen=True, slots=True)
class _Opened:
    """A view of pictures that are opened as for captioning, all views from the same pixels."""

    view: View
    enough: int

    def __call__(self, image: Image) -> NDArray[np.float32]:
        return self.view(image)


class _Seen:
    """The features of a split's images, of each view from when it is first looked at."""

    def __init__(
        self,
        engine: BundleEngine,
        images: Sequence[CaptionedImage],
        *,
        place: str,
        temporary: Path,
        batch_size: int,
        workers: int,
        progress: Progress,
        note: Callable[[str], None],
    ) -> None:
        self._engine, self._temporary, self._progress = engine, temporary, progress
        self._fingerprint = engine.bundle.encoder.fingerprint()
        self._batch_size, self._workers = batch_size, workers
        self._caches: dict[View, FeatureCache] = {}
        self.images = tuple(images)
        folder = cache_folder(place, self._fingerprint)
        _, (plain,) = engine.looking(1)
        for failure in self._fill(plain, folder if holds_features_of(folder, self._fingerprint) else None):
            note(f"left out: {failure.reason}")
        self.images = tuple(image for image in images if self._caches[plain].row(image.path) is not None)

    def look(self, views: int) -> tuple[StepDecoder, Iterable[Any]]:
        """See `choose_decoding`."""
        decoder, wanted = self._engine.looking(views)
        for view in wanted:
            if view not in self._caches:
                self._fill(view)
        chunks = [self._chunks(self._caches[view]) for view in wanted]
        return decoder, (zip(*chunks, strict=True) if len(chunks) > 1 else chunks[0])

    def _chunks(self, cache: FeatureCache) -> Iterator[Tensor]:
        rows = [row for image in self.images if (row := cache.row(image.path)) is not None]
        return (chunk.to(self._engine.device) for chunk in cache.chunks(rows))

    def _fill(self, view: View, folder: Path | None = None) -> list[Failure]:
        encoder = self._engine.bundle.encoder
        number = len(self._caches) + 1
        self._caches[view] = cache = FeatureCache(
            folder or self._temporary / str(number), fingerprint=self._fingerprint,
            regions=encoder.regions, feature_size=encoder.feature_size,
        )  # fmt: skip
        what = "encoding images" + f", view {number}" * (number > 1)
        return encode_into(
            cache, [image.path for image in self.images], encode=self._engine.features, transform=_Opened(view, self._engine.enough), batch=self._batch_size, workers=self._workers,
            progress=lambda done, total: self._progress(what, done, total),
        )  # fmt: skip


def keep_best_decoding(bundle: Path, data: Path, *, split: str = "val", **heard: Any) -> tuple[Choice, Protocol]:
    """Runs `choose_bundle_decoding`, passing it `heard`, and makes its choice the bundle's own defaults."""
    choice, protocol = choose_bundle_decoding(bundle, data, split=split, **heard)
    tried = [{"decoding": tried.search.describe(), "scores": tried.scores} for tried in choice.tried]
    set_decoding(
        bundle, choice.search, chosen={"protocol": protocol.to_dict(), "scores": choice.best.scores, "tried": tried}
    )
    return choice, protocol
