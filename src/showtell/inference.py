"""The engine that computes captions with bundles, in torch."""

from __future__ import annotations

from collections.abc import Collection, Sequence
from dataclasses import replace
from pathlib import Path
from typing import get_args

import numpy as np
import torch
from PIL.Image import Image
from torch import Tensor

from showtell.bundle import Bundle, load_bundle
from showtell.captioning import Caption, Engine, Pixels, Precision, caption_of, measured
from showtell.config import MOST_UPRIGHT_VIEWS
from showtell.data.mirror import mirror_ids
from showtell.decoding import MOST_VIEWS, Phrase, Sampling, SearchOptions, Wishes
from showtell.devices import choose_device
from showtell.errors import BundleError, DataError
from showtell.generate import draw_captions, find_captions
from showtell.hub import resolve
from showtell.images import View, views_of
from showtell.model.encoder import Encoder
from showtell.model.packing import packed
from showtell.search import EnsembleDecoder, Hypothesis, Member, StepDecoder


class BundleEngine:
    """Computes captions with a bundle, or with several whose probabilities are averaged at each step."""

    def __init__(self, bundle: Bundle, *others: Bundle, device: torch.device, precision: Precision = "auto") -> None:
        """Words, decoding defaults and attention are `bundle`'s. `BundleError` where another has other words."""
        self.bundle, self.bundles, self.device, self.precision = bundle, (bundle, *others), device, precision
        self.transform, self.grid = bundle.transform, bundle.grid
        self.defaults, self.recipe = SearchOptions(**bundle.search), bundle.config["recipe"]
        for other in others:
            _check_words(bundle, other)
        self._decoders = [packed(one.decoder) for one in self.bundles]
        self._encoders = _shared_encoders(self.bundles)
        self._mirrored_words = torch.tensor(mirror_ids(bundle.vocabulary.listed()), device=device)

    @classmethod
    def load(
        cls,
        path: str | Path,
        device: str | torch.device | None = None,
        *,
        precision: Precision = "auto",
        ensemble: Sequence[str | Path] = (),
    ) -> BundleEngine:
        """The engine of a bundle's folder, on `device` (by default an accelerator where there is one).

        `path` may be `user/name` or `user/name@revision` on the hub; see `showtell.hub.resolve`. The bundles of
        `ensemble` join it. The encoder computes in bfloat16 on processors that multiply it natively; with
        `precision="float32"` it never does, and captions are the same on any processor. Raises `BundleError` for a
        folder that is not a bundle, is incomplete or is of a newer version, and for bundles whose words differ;
        `DownloadError` where the hub cannot be reached; `DataError` for an unknown precision or an unavailable device.
        """
        if precision not in get_args(Precision):
            raise DataError(f"precision is '{precision}'; expected one of {', '.join(get_args(Precision))}")
        chosen = choose_device(device)
        torch.set_flush_denormal(True)
        bundles = (load_bundle(resolve(name), chosen) for name in (path, *ensemble))
        return cls(*bundles, device=chosen, precision=precision)

    @property
    def members(self) -> int:
        """How many bundles it has."""
        return len(self.bundles)

    @property
    def decoder(self) -> StepDecoder:
        """The first bundle's decoder, as searches use it."""
        decoder: StepDecoder = self._decoders[0]
        return decoder

    def features(self, pixels: Tensor) -> Tensor:
        """Transformed images (B,3,S,S) -> features (B,R,F): the encoder alone."""
        return self._encode(self.bundle.encoder, pixels)

    def looking(self, views: int) -> tuple[StepDecoder, tuple[View, ...]]:
        """The first bundle's decoder for so many views of an image, and these: it takes the features (B,R,F) of one view,
        or a tuple of those of each. `DataError` for more views than the captioner has."""
        self._check_views(views)
        looks = self._views(replace(self.defaults, views=views))[0]
        members = [self._member(self.bundle, self.decoder, view) for view in looks]
        return (EnsembleDecoder(members) if views > 1 else self.decoder), looks

    def _encode(self, encoder: Encoder, pixels: Tensor) -> Tensor:
        return encoder.encode(pixels.to(self.device), exact=self.precision == "float32")

    def wished(self, options: SearchOptions, wishes: Wishes) -> SearchOptions:
        """`options` changed by the wishes; `DataError` for those that no caption meets."""
        options = measured(options, wishes)
        phrase = self.bundle.vocabulary.phrase
        required = tuple(tuple(phrase(word) for word in words.split("|")) for words in wishes.required)
        forbidden = tuple(phrase(word) for words in wishes.excluded for word in words.split("|"))
        beginning = phrase(wishes.begins) if wishes.begins else ()
        continuing = self.bundle.vocabulary.continuing if required or forbidden or beginning else ()
        most = options.max_length - options.closing  # one that ends has room for the `<end>`; others may be cut off
        _check_phrases(required, forbidden, beginning, continuing, wishes, most)
        self._check_views(wishes.views or 1)
        groups = options.n if wishes.diverse else 1
        return replace(
            options,
            beam=groups * max(2, -(-options.beam // groups)) if wishes.diverse else options.beam,
            groups=groups,
            diversity=options.diversity if wishes.diversity is None else wishes.diversity,
            required=required,
            forbidden=forbidden,
            continuing=continuing,
            beginning=beginning,
            consensus=0 if wishes.diverse else options.consensus if wishes.consensus is None else wishes.consensus,
            views=wishes.views or options.views,
        )

    def _views(self, options: SearchOptions) -> list[tuple[View, ...]]:
        """Each bundle's views of an image: as many as the options ask for, or all that it has."""
        return [
            views_of(bundle.transform, min(options.views, _most_views(bundle)), turned=bundle.turned)
            for bundle in self.bundles
        ]

    def _check_views(self, wished: int) -> None:
        for bundle in self.bundles:
            if wished > (most := _most_views(bundle)):
                raise DataError(
                    f"{wished} views: {bundle.path} looks at an image in at most {most} ways; up to {MOST_VIEWS}, turned ones, are for "
                    'captioners that were trained with augment = "aerial"'
                )

    @property
    def enough(self) -> int:
        """The most that any member needs."""
        return max(bundle.transform.enough for bundle in self.bundles)

    def see(self, image: Image, options: SearchOptions) -> dict[View, Pixels]:
        """The image transformed once for each view that some bundle takes."""
        wanted = dict.fromkeys(view for views in self._views(options) for view in views)
        upright = {transform: transform(image) for transform in dict.fromkeys(view.transform for view in wanted)}
        return {view: view.turn(upright[view.transform]) for view in wanted}

    def search(
        self,
        seen: Sequence[dict[View, Pixels]],
        places: Sequence[int],
        options: SearchOptions,
        sampling: Sampling | None,
    ) -> list[list[Caption]]:
        """The n captions of each image that `see` has prepared with the same options; see `Engine`."""
        decoder, features = self._looking(seen, options)
        vocabulary = self.bundle.vocabulary
        if sampling is None:
            found = find_captions(decoder, features, vocabulary, options, attention=True)
        else:
            options = replace(options, temperature=sampling.temperature, top_p=sampling.top_p)
            generators = [torch.Generator().manual_seed(sampling.seed_of(place)) for place in places]
            found = draw_captions(decoder, features, vocabulary, options, generators=generators)
        return [[self._caption(hypothesis) for hypothesis in hypotheses] for hypotheses in found]

    def _looking(
        self, seen: Sequence[dict[View, Pixels]], options: SearchOptions
    ) -> tuple[StepDecoder, Tensor | tuple[Tensor, ...]]:
        """One decoder and its features, or an ensemble of one member per bundle and view, and a tuple of theirs."""
        encoded: dict[tuple[int, View], Tensor] = {}
        members, features = [], []
        parts = zip(self.bundles, self._decoders, self._encoders, self._views(options), strict=True)
        for bundle, decoder, encoder, views in parts:
            for view in views:
                key = (id(encoder), view)
                if key not in encoded:
                    pixels = torch.from_numpy(np.stack([each[view] for each in seen]))  # (B,3,S,S)
                    encoded[key] = self._encode(encoder, pixels)
                members.append(self._member(bundle, decoder, view))
                features.append(encoded[key])
        if len(members) == 1:
            return members[0].decoder, features[0]
        return EnsembleDecoder(members), tuple(features)

    def _member(self, bundle: Bundle, decoder: StepDecoder, view: View) -> Member:
        aligned = view.transform == self.transform and bundle.grid == self.grid
        if not view.mirrored and not view.quarters:
            return Member(decoder, aligned=aligned)
        regions = None
        if bundle.grid is not None:
            regions = torch.arange(bundle.encoder.regions, device=self.device)
            cells = bundle.grid[0] * bundle.grid[1]  # a mean region after the grid stays where it is
            seen = regions[:cells].view(bundle.grid)
            regions[:cells] = torch.rot90(seen.flip(1) if view.mirrored else seen, -view.quarters).flatten()
        words = self._mirrored_words if view.swaps_sides else None
        return Member(decoder, words=words, regions=regions, aligned=aligned)

    def _caption(self, found: Hypothesis) -> Caption:
        vocabulary = self.bundle.vocabulary
        attention = None if found.attention is None else found.attention.float().numpy()
        return caption_of(found, vocabulary.decode(found.tokens), vocabulary.tokens(found.tokens), attention, self.grid)


def bundle_engine(engine: Engine) -> BundleEngine:
    """The engine, where bundles compute: it also gives features and any word's probability. `BundleError` for another,
    which an exported captioner has."""
    if not isinstance(engine, BundleEngine):
        raise BundleError("an exported captioner only captions; ask the bundle that it came from")
    return engine


def _most_views(bundle: Bundle) -> int:
    return MOST_VIEWS if bundle.turned else MOST_UPRIGHT_VIEWS


def _shared_encoders(bundles: Sequence[Bundle]) -> list[Encoder]:
    """Each bundle's encoder; equal encoders are one object, so that an image is encoded once for all of them."""
    if len(bundles) == 1:
        return [bundles[0].encoder]
    known: dict[str, Encoder] = {}
    return [known.setdefault(bundle.encoder.fingerprint(), bundle.encoder) for bundle in bundles]


def _check_words(bundle: Bundle, other: Bundle) -> None:
    if how := other.vocabulary.differs_from(bundle.vocabulary):
        raise BundleError(
            f"{other.path} has other words than {bundle.path} ({how}); "
            "an ensemble needs bundles trained on the same captions with the same vocabulary settings"
        )


def _check_phrases(
    required: Sequence[Sequence[Phrase]],
    forbidden: Sequence[Phrase],
    beginning: Phrase,
    continuing: Collection[int],
    wishes: Wishes,
    most: int,
) -> None:
    """Raises `DataError` for wishes that no caption of up to `most` tokens can meet, one by one: that they cannot all be
    met in one caption, as phrases may overlap, only the search knows."""
    if any(_holds(beginning, bad, continuing) for bad in forbidden):
        raise DataError(f"'{wishes.begins}' begins with a word that must not occur; leave out one of the two")
    if len(beginning) > most:
        raise DataError(
            f"'{wishes.begins}' has {len(beginning)} tokens, and captions end after {most}; begin with fewer"
        )
    for words, any_of in zip(wishes.required, required, strict=True):
        possible = [phrase for phrase in any_of if not any(_holds(phrase, bad, continuing) for bad in forbidden)]
        if not possible:
            raise DataError(f"'{words}' must occur and must not; leave out one of the two")
        needed = len(beginning) + min(_left(phrase, beginning, continuing) for phrase in possible)
        if needed > most:
            after = f" after '{wishes.begins}'" if beginning else ""
            raise DataError(
                f"'{words}'{after} takes {needed} tokens in all, and captions end after {most}; ask for fewer"
            )


def _left(phrase: Phrase, beginning: Phrase, continuing: Collection[int]) -> int:
    """How many tokens of a phrase the beginning lacks: it may hold the phrase, or end with the first part of it."""
    if _holds(beginning, phrase, continuing):
        return 0
    return len(phrase) - max((k for k in range(1, len(phrase)) if beginning[-k:] == phrase[:k]), default=0)


def _holds(phrase: Phrase, part: Phrase, continuing: Collection[int]) -> bool:
    ends = ((i + len(part)) for i in range(len(phrase)) if phrase[i : i + len(part)] == part)
    return any(end == len(phrase) or phrase[end] not in continuing for end in ends)
