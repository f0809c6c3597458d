"""What of the encoder is computed once in a phase, where that is kept, and whose it is."""

from __future__ import annotations

import functools
import shutil
from pathlib import Path

import torch
from torch import Tensor

from showtell.config import PhaseConfig, Recipe
from showtell.data.augment import AugmentedView
from showtell.data.features import FeatureCache
from showtell.errors import RecipeError
from showtell.model.encoder import Encoder
from showtell.model.splitting import Stem
from showtell.paths import cache_folder, is_cache
from showtell.recipe import phase_key
from showtell.training.samples import HalfWay, Samples

Caches = dict[AugmentedView, FeatureCache]


class Encodings:
    """The caches of a run. What the encoder as it came gives is of use to other runs and lies in the user's cache; what weights give
    that this run made lies in its own folder."""

    def __init__(self, recipe: Recipe, encoder: Encoder, *, own: Path, device: torch.device) -> None:
        """`encoder` as it came, with which the run begins. `RecipeError` where a phase trains or caches a part that it does not have."""
        self.recipe, self.encoder, self.own, self.device = recipe, encoder, own, device
        self._stems = _stem_fingerprints(encoder, recipe)
        self.began_with = encoder.fingerprint()

    def encode(self, images: Tensor) -> Tensor:
        """images (B,3,S,S) -> features (B,R,F)"""
        return self.encoder.encode(images.to(self.device))

    def fill(self, samples: Samples, number: int, *, tidy: bool) -> None:
        """Lets `samples` read caches of what phase `number` leaves as it is: of features, or of what comes out below the layers that it
        trains. Encodes what is missing there. `tidy`: what the run's own folder holds of weights before these is removed."""
        phase, encoder = self.recipe.train.phases[number], self.encoder
        ahead = 0 if self.device.type == "cpu" else 2
        if phase.encoder_from:
            stem = encoder.part_before(phase.encoder_from)
            caches = self._open(phase, stem, stem.fingerprint, tidy=tidy)
            samples.from_cache(caches, encode=self._encode_below, ahead=ahead, stem=stem)
            return
        now = encoder.fingerprint()
        half_way = (
            None if now == self.began_with else self._half_way(number)
        )  # others share its cache: no detours there
        caches = self._open(phase, encoder, now, tidy=tidy)
        samples.from_cache(caches, encode=self.encode, ahead=ahead, half_way=half_way)

    def _encode_below(self, images: Tensor) -> Tensor:
        return self.encoder.encode_below(images.to(self.device))

    def _half_way(self, number: int) -> HalfWay | None:
        """What an earlier phase cached below layers that it trained, and that no phase has changed since: of the nearest of those
        that lie in the user's cache."""
        for phase in reversed(self.recipe.train.phases[:number]):
            if not phase.encoder_from or phase.cached_views == 1:
                continue
            stem = self.encoder.part_before(phase.encoder_from)
            self.encoder.requires_grad_(False)
            if self._is_shared(stem.fingerprint):
                caches = self._open(phase, stem, stem.fingerprint, tidy=False)
                return HalfWay(caches, functools.partial(self._finish, stem))
        return None

    def _finish(self, stem: Stem, rows: Tensor) -> Tensor:
        return self.encode(stem.unpack(rows))

    def _is_shared(self, fingerprint: str) -> bool:
        """Whether that lies in the user's cache. A `data.cache` that is one encoder's cache, and no place for several, holds no
        stem's."""
        one = self.recipe.data.cache and is_cache(Path(self.recipe.data.cache))
        return fingerprint == self.began_with or (fingerprint in self._stems and not one)

    def _open(self, phase: PhaseConfig, source: Encoder | Stem, fingerprint: str, *, tidy: bool) -> Caches:
        """A cache for each way in which the phase sees its images: the further ones lie in the first one's folder."""
        caches, folder = {}, self.own / fingerprint[:16]
        if self._is_shared(fingerprint):
            folder = cache_folder(self.recipe.data.cache, fingerprint)
        elif tidy and self.own.is_dir():
            for other in self.own.iterdir():
                if other != folder:
                    shutil.rmtree(other, ignore_errors=True)
        of = self.recipe.encoder.describe()
        if source is not self.encoder:
            of += f", what comes out below {phase.encoder_from}"
        for number in range(phase.cached_views):
            view = AugmentedView(self.encoder.transform, number, phase.augment)
            caches[view] = FeatureCache(
                folder / view.name if number else folder, fingerprint=view.fingerprint(fingerprint), regions=source.regions,
                feature_size=source.feature_size, of=of,
            )  # fmt: skip
        return caches


def _stem_fingerprints(encoder: Encoder, recipe: Recipe) -> frozenset[str]:
    """Of the parts of the encoder, as it came, that phases cache. `RecipeError` for a wrong `encoder_from`, before anything is
    trained and not when its turn comes."""
    found = set()
    for number, phase in enumerate(recipe.phases()):
        try:
            if phase.encoder_from and phase.cached_views > 1:
                found.add(encoder.part_before(phase.encoder_from).fingerprint)
            elif phase.encoder_from:
                encoder.unfreeze_from(phase.encoder_from)
            encoder.checkpoint_gradients(bool(phase.encoder_from) and recipe.train.gradient_checkpointing)
        except RecipeError as error:
            raise RecipeError(f"{phase_key(number)}: {error}") from None
    return frozenset(found)
