"""What of the encoder is computed once in a phase, where that is kept, and whose it is."""

from __future__ import annotations

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
from showtell.training.samples import Encode, Samples

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
        """Makes `samples` read what phase `number` does not train from caches, or the images where that is nothing; encodes what is
        missing. `tidy`: features of a CNN before this one are removed."""
        phase, encoder = self.recipe.train.phases[number], self.encoder
        ahead = 0 if self.device.type == "cpu" else 2
        if not phase.encoder_from:
            caches = self._open(phase, encoder, encoder.fingerprint(), tidy=tidy)
            half_way, finish = self._half_way(number)
            samples.from_cache(caches, encode=self.encode, ahead=ahead, half_way=half_way, finish=finish)
        elif phase.cached_views > 1:
            stem = encoder.part_before(phase.encoder_from)
            caches = self._open(phase, stem, stem.fingerprint, tidy=tidy)
            samples.from_cache(caches, encode=self._encode_below, ahead=ahead, stem=stem)
        else:
            samples.from_images()

    def _encode_below(self, images: Tensor) -> Tensor:
        return self.encoder.encode_below(images.to(self.device))

    def _half_way(self, number: int) -> tuple[Caches, Encode]:
        """What the last phase that trained the CNN had cached below the trained layers, if that is in the user's cache; and what
        makes features of it."""
        before = next((p for p in reversed(self.recipe.train.phases[:number]) if p.encoder_from), None)
        if before is None or before.cached_views == 1:
            return {}, self.encode
        stem = self.encoder.part_before(before.encoder_from)
        self.encoder.requires_grad_(False)
        if stem.fingerprint not in self._stems:
            return {}, self.encode
        caches = self._open(before, stem, stem.fingerprint, tidy=False)
        return caches, lambda rows: self.encode(stem.unpack(rows))

    def _open(self, phase: PhaseConfig, source: Encoder | Stem, fingerprint: str, *, tidy: bool) -> Caches:
        """A cache for each way in which the phase sees its images: the further ones lie in the first one's folder."""
        caches, wanted, folder = {}, self.recipe.data.cache, self.own / fingerprint[:16]
        stems_go_there = not (wanted and is_cache(Path(wanted)))  # a folder that is one encoder's cache holds no stem's
        if fingerprint == self.began_with or (fingerprint in self._stems and stems_go_there):
            folder = cache_folder(wanted, fingerprint)
        elif tidy and self.own.is_dir():
            for other in self.own.iterdir():
                if other != folder:
                    shutil.rmtree(other, ignore_errors=True)
        for number in range(phase.cached_views):
            view = AugmentedView(self.encoder.transform, number, phase.augment)
            caches[view] = FeatureCache(
                folder / view.name if number else folder, fingerprint=view.fingerprint(fingerprint), regions=source.regions,
                feature_size=source.feature_size,
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
        except RecipeError as error:
            raise RecipeError(f"train.phases.{number}.{error}") from None
    return frozenset(found)
