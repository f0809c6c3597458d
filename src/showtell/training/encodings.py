"""Encoder outputs computed once per phase: the caches that hold them, shared between runs or a run's own."""

from __future__ import annotations

import functools
import shutil
from pathlib import Path

import torch
from torch import Tensor

from showtell.bundle import Bundle
from showtell.config import PhaseConfig, Recipe
from showtell.data.augment import AugmentedView
from showtell.data.features import FeatureCache
from showtell.errors import RecipeError
from showtell.model.encoder import Encoder
from showtell.model.splitting import Stem
from showtell.paths import cache_folder, is_cache
from showtell.recipe import parse_recipe, phase_key
from showtell.training.samples import Caches, HalfWay, Samples
from showtell.training.teachers import Teachers


class Encodings:
    """The caches of a run. Outputs of the initial encoder are of use to other runs and lie in the user's cache; those
    of weights that this run has trained lie in its own folder. Teachers' encoders are of use to other runs too."""

    def __init__(
        self, recipe: Recipe, encoder: Encoder, *, own: Path, device: torch.device, teachers: Teachers | None = None
    ) -> None:
        """`encoder`: the run's initial one. `RecipeError` if a phase trains or caches a part that it does not have."""
        self.recipe, self.encoder, self.own, self.device = recipe, encoder, own, device
        self._teachers = teachers
        self._stems = _stem_fingerprints(encoder, recipe)
        self.began_with = encoder.fingerprint()

    @property
    def shared(self) -> list[Path]:
        """The folders in the user's cache where outputs of the initial encoder, or of its stems, may lie."""
        prints = (self.began_with, *self._stems)
        return [cache_folder(self.recipe.data.cache, fingerprint) for fingerprint in prints]

    def encode(self, images: Tensor) -> Tensor:
        """images (B,3,S,S) -> features (B,R,F)"""
        return self._encode(self.encoder, images)

    def _encode(self, encoder: Encoder, images: Tensor) -> Tensor:
        return encoder.encode(images.to(self.device))

    def fill(self, samples: Samples, number: int, *, tidy: bool) -> None:
        """Gives `samples` the caches of phase `number`: of features, or of outputs below the layers that it trains; of
        teachers' features too where it learns from those. Encodes what is missing there. `tidy`: deletes what the run's
        own folder holds for earlier weights."""
        phase, encoder = self.recipe.train.phases[number], self.encoder
        ahead = 0 if self.device.type == "cpu" else 2
        if phase.encoder_from:
            stem = encoder.part_before(phase.encoder_from)
            if tidy:
                self._tidy(stem.fingerprint)
            caches = self._open(phase, stem, stem.fingerprint)
            samples.from_cache(caches, encode=self._encode_below, ahead=ahead, stem=stem)
            return
        now = encoder.fingerprint()
        half_way = (
            None if now == self.began_with else self._half_way(number)
        )  # other runs share that cache: encode from the images
        others = self._teachers.encoders if self._teachers and phase.objective == "distillation" else {}
        if tidy:
            self._tidy(now, *others)
        # Views of several sizes crop alike only if they decode alike; the largest needs the most.
        enough = max(transform.enough for transform in (encoder.transform, *(b.transform for b in others.values())))
        caches = self._open(phase, encoder, now, decoded_for=enough)
        of_teachers = []
        for fingerprint, bundle in others.items():
            theirs = bundle.encoder.to(self.device)
            opened = caches
            if fingerprint != now:
                opened = self._open(phase, theirs, fingerprint, decoded_for=enough, of=_describe(bundle))
            of_teachers.append((opened, functools.partial(self._encode, theirs)))
        samples.from_cache(caches, encode=self.encode, ahead=ahead, half_way=half_way, of_teachers=of_teachers)
        for bundle in others.values():
            bundle.encoder.cpu()  # not needed any more

    def _encode_below(self, images: Tensor) -> Tensor:
        return self.encoder.encode_below(images.to(self.device))

    def _half_way(self, number: int) -> HalfWay | None:
        """The caches of the latest earlier phase that trained layers above a cached stem which is still the initial
        encoder's, and so in the user's cache; None if there is none."""
        for phase in reversed(self.recipe.train.phases[:number]):
            if not phase.encoder_from or phase.cached_views == 1:
                continue
            stem = self.encoder.part_before(phase.encoder_from)
            self.encoder.requires_grad_(False)
            if self._is_shared(stem.fingerprint):
                caches = self._open(phase, stem, stem.fingerprint)
                return HalfWay(caches, functools.partial(self._finish, stem))
        return None

    def _finish(self, stem: Stem, rows: Tensor) -> Tensor:
        return self.encode(stem.unpack(rows))

    def _is_shared(self, fingerprint: str) -> bool:
        """Whether the cache with this fingerprint lies in the user's cache. A `data.cache` that is itself a cache holds
        no stem's and no teacher's."""
        one = self.recipe.data.cache and is_cache(Path(self.recipe.data.cache))
        others = {*self._stems, *(self._teachers.encoders if self._teachers else ())}
        return fingerprint == self.began_with or (fingerprint in others and not one)

    def _tidy(self, *needed: str) -> None:
        """Deletes the run's own caches but those with the fingerprints `needed`, if the first is one of its own."""
        if self._is_shared(needed[0]) or not self.own.is_dir():
            return
        kept = {self.own / fingerprint[:16] for fingerprint in needed}
        for other in self.own.iterdir():
            if other not in kept:
                shutil.rmtree(other, ignore_errors=True)

    def _open(
        self, phase: PhaseConfig, source: Encoder | Stem, fingerprint: str, *, decoded_for: int = 0, of: str = ""
    ) -> Caches:
        """One cache for each view of the phase; those after the first lie in the first one's folder."""
        caches: dict[AugmentedView, FeatureCache] = {}
        folder = self.own / fingerprint[:16]
        if self._is_shared(fingerprint):
            folder = cache_folder(self.recipe.data.cache, fingerprint)
        of = of or self.recipe.encoder.describe()
        if isinstance(source, Stem):
            of += f", what comes out below {phase.encoder_from}"
        transform = source.transform if isinstance(source, Encoder) else self.encoder.transform
        for number in range(phase.cached_views):
            view = AugmentedView(transform, number, phase.augment, decoded_for or transform.enough)
            caches[view] = FeatureCache(
                folder / view.name if number else folder, fingerprint=view.fingerprint(fingerprint), regions=source.regions,
                feature_size=source.feature_size, of=of,
            )  # fmt: skip
        return caches


def _describe(bundle: Bundle) -> str:
    return parse_recipe(bundle.config["recipe"], where=str(bundle.path)).encoder.describe()


def _stem_fingerprints(encoder: Encoder, recipe: Recipe) -> frozenset[str]:
    """The fingerprints of the initial encoder's stems that phases cache. `RecipeError` for a wrong `encoder_from`,
    before anything is trained rather than when its phase begins."""
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
    encoder.checkpoint_gradients(False)
    return frozenset(found)
