"""Finds the decoding that scores best on validation data: length normalisation, then beam, then consensus."""

from __future__ import annotations

import tempfile
from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

from showtell.bundle import set_decoding
from showtell.config import SearchConfig
from showtell.data.features import FeatureCache, encode_into, holds_features_of
from showtell.data.vocabulary import Vocabulary
from showtell.decoding import SearchOptions
from showtell.errors import DataError
from showtell.evaluation import Progress, images_of, make_protocol
from showtell.generate import best_captions
from showtell.images import decoding_threads
from showtell.inference import Captioner
from showtell.metrics import Protocol, evaluate
from showtell.paths import cache_folder
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
    """The decoding with the best CIDEr (the first of equals), and all that were tried, the given one first."""

    search: SearchConfig
    tried: tuple[Tried, ...]

    @property
    def best(self) -> Tried:
        """The chosen decoding and its scores."""
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
    """Starts from `search` and changes one value at a time, keeping what raises CIDEr; by default at most eleven tries.

    `features()` yields the images' features in chunks (B,R,F), anew on each call; `references` are in the same order.
    `protocol` describes the data; its decoding is replaced for each try.
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


def choose_bundle_decoding(
    bundle: Path,
    data: Path,
    *,
    split: str = "val",
    search: SearchConfig | None = None,
    place: str = "",
    report: Callable[[Tried], None] = lambda tried: None,
    progress: Progress = lambda what, done, total: None,
    note: Callable[[str], None] = lambda text: None,
) -> tuple[Choice, Protocol]:
    """The decoding that scores best for a bundle on a split, and its protocol; `report` hears of each decoding tried.

    The search starts from `search`, by default the bundle's own. Features come from the encoder's cache, in the user's
    place or in `place`, and missing ones are added; without a cache none is left behind. Raises what `evaluate_bundle`
    does.
    """
    captioner = Captioner.load(bundle)
    encoder = captioner.bundle.encoder
    annotations, images = images_of(captioner, data, split, note)
    fingerprint = encoder.fingerprint()
    folder = cache_folder(place, fingerprint)
    with tempfile.TemporaryDirectory() as temporary:  # where no training left a cache, none is left here
        cache = FeatureCache(
            folder if holds_features_of(folder, fingerprint) else Path(temporary), fingerprint=fingerprint,
            regions=encoder.regions, feature_size=encoder.feature_size,
        )  # fmt: skip
        failures = encode_into(
            cache, [image.path for image in images], encode=captioner.features, transform=captioner.transform, workers=decoding_threads(),
            progress=lambda done, total: progress("encoding images", done, total),
        )  # fmt: skip
        for failure in failures:
            note(f"left out: {failure.reason}")
        rows = [(row, image) for image in images if (row := cache.row(image.path)) is not None]
        if not rows:
            raise DataError(f"none of the {len(images)} images of the {split} split can be decoded")
        references = [list(image.captions) for _, image in rows]
        protocol = make_protocol(annotations, split, references, decoding="")
        choice = choose_decoding(
            captioner.decoder,
            lambda: (chunk.to(captioner.device) for chunk in cache.chunks([row for row, _ in rows])),
            references, captioner.bundle.vocabulary,
            protocol=protocol, search=search or SearchConfig(**captioner.bundle.search), report=report,
        )  # fmt: skip
    return choice, replace(protocol, decoding=choice.search.one_view().describe())


def keep_best_decoding(bundle: Path, data: Path, *, split: str = "val", **heard: Any) -> tuple[Choice, Protocol]:
    """Runs `choose_bundle_decoding`, passing it `heard`, and makes its choice the bundle's own defaults."""
    choice, protocol = choose_bundle_decoding(bundle, data, split=split, **heard)
    tried = [{"decoding": tried.search.one_view().describe(), "scores": tried.scores} for tried in choice.tried]
    set_decoding(
        bundle, choice.search, chosen={"protocol": protocol.to_dict(), "scores": choice.best.scores, "tried": tried}
    )
    return choice, protocol
