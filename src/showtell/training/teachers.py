"""Teachers: the captioners whose words a distillation phase imitates.

B images · K captions of an image · T steps · R regions · F feature size · V vocabulary · N words
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from pathlib import Path

import torch
from torch import Tensor

from showtell.bundle import Bundle, load_bundle
from showtell.config import Recipe
from showtell.data.vocabulary import Vocabulary
from showtell.errors import RecipeError
from showtell.hub import need_folder, resolve
from showtell.model.encoder import Encoder
from showtell.recipe import phase_key


def taught_by(recipe: Recipe, teachers: Sequence[str | Path]) -> Recipe:
    """`recipe` with these teachers: bundles' folders or `user/name` on the hub; those of the recipe if there are none.

    Raises `RecipeError` where a distillation phase has no teacher or teachers have no such phase, `BundleError` if there
    is no such captioner, and `DownloadError` if the hub cannot be reached.
    """
    wanted = [str(name) for name in teachers] or list(recipe.train.teachers)
    learns = [phase.objective == "distillation" for phase in recipe.train.phases]
    if any(learns[: len(recipe.phases())]) and not wanted:
        raise RecipeError(
            f'{phase_key(learns.index(True))}: objective is "distillation", and nobody teaches; name captioners to imitate with --teacher BUNDLE, '
            "or as train.teachers"
        )
    if wanted and not any(learns):
        raise RecipeError(
            f'--teacher {wanted[0]}: no phase of the recipe learns from a teacher; set objective = "distillation" in one, or leave --teacher '
            "out"
        )
    names = []
    for name in wanted:
        folder = need_folder(resolve(name))
        names.append(name if folder != Path(name) else str(folder.resolve()))
    return recipe.model_copy(update={"train": recipe.train.model_copy(update={"teachers": tuple(names)})})


class Teachers:
    """Several captioners that say together what the next word is: the mean of their probabilities."""

    def __init__(self, bundles: Sequence[Bundle]) -> None:
        """`RecipeError` if they have different words."""
        self._bundles = tuple(bundles)
        self.vocabulary = self._bundles[0].vocabulary
        for other in self._bundles[1:]:
            self.check(other.vocabulary, of=other.path)
        self._fingerprints = [bundle.encoder.fingerprint() for bundle in self._bundles]
        self._sources: list[int] = []  # of each teacher: 0 for the student's features, n for the n-th of `encoders`

    @classmethod
    def load(cls, names: Sequence[str], device: torch.device) -> Teachers:
        """Loads bundles, from folders or the hub. Raises as `load_bundle` and `resolve` do."""
        return cls([load_bundle(resolve(name), device) for name in names])

    def check(self, vocabulary: Vocabulary, *, of: str | Path) -> None:
        """`RecipeError` unless `vocabulary`, that of the captioner `of`, has the teachers' words with the same ids."""
        wanted, found = self.vocabulary.listed(), vocabulary.listed()
        if wanted == found:
            return
        how = f"{len(found)} and {len(wanted)}" if len(found) != len(wanted) else "as many, but not the same"
        raise RecipeError(
            f"{of} has other words than the teacher {self._bundles[0].path} ({how}); "
            "a captioner and its teachers need the same, from the same captions and vocabulary settings"
        )

    def encoders(self, students: str) -> dict[str, Encoder]:
        """Their encoders by fingerprint, each once, without those that are the student's, whose fingerprint is given.
        From now on `log_probs` expects features in this order, the student's first."""
        pairs = zip(self._fingerprints, self._bundles, strict=True)
        found = {fingerprint: bundle.encoder for fingerprint, bundle in pairs if fingerprint != students}
        order = [students, *found]
        self._sources = [order.index(fingerprint) for fingerprint in self._fingerprints]
        return found

    @torch.no_grad()
    def log_probs(self, features: Sequence[Tensor], fed: Tensor, words: Tensor) -> Tensor:
        """Each encoder's features (B,R,F), input words (B,K,T), and which of them count (B,K,T) -> log-probabilities of
        the words after those (N,V), in nats."""
        of_each = (
            bundle.decoder(features[source], fed).logits[words].float().log_softmax(-1)
            for bundle, source in zip(self._bundles, self._sources, strict=True)
        )
        total = next(of_each)
        for more in of_each:
            total = torch.logaddexp(total, more)
        return total - math.log(len(self._bundles))
