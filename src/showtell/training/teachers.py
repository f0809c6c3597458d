"""Teachers: the captioners whose words a distillation phase imitates.

B images · K captions of an image · T steps · R regions · F feature size · V vocabulary · N words
"""

from __future__ import annotations

import hashlib
from collections.abc import Iterable, Sequence
from pathlib import Path

import torch
from torch import Tensor

from showtell.bundle import Bundle, load_bundle, read_recipe
from showtell.config import Recipe
from showtell.data.vocabulary import Vocabulary
from showtell.errors import RecipeError
from showtell.hub import need_folder, resolve
from showtell.model.captioner import CaptionerModel
from showtell.recipe import phase_key
from showtell.search import mean_log_probs
from showtell.training.starting import VOCABULARY, data_as_in


def taught_by(
    recipe: Recipe, teachers: Sequence[str | Path] = (), *, changed: Iterable[str] = (), before: Recipe | None = None
) -> Recipe:
    """`recipe` with these teachers, bundles' folders or `user/name` on the hub; by default its own `train.teachers`.

    A recipe that starts from no captioner also takes the first teacher's kind of vocabulary, and its split unless the
    recipe sets one; where a run is resumed, those of `before`, the recipe that it began with. Raises `RecipeError` where
    a distillation phase has no teacher, `teachers` are given to a recipe without such a phase, or `changed`, the keys
    that were set, ask for another vocabulary; `BundleError` if there is no such captioner, `DownloadError` if the hub
    cannot be reached.
    """
    wanted = list(map(str, teachers)) or list(recipe.train.teachers)
    distils = [phase.objective == "distillation" for phase in recipe.train.phases]
    if any(distils[: len(recipe.phases())]) and not wanted:
        raise RecipeError(
            f'{phase_key(distils.index(True))}: objective is "distillation", and nobody teaches; name captioners to imitate in the recipe as '
            'train.teachers=["BUNDLE"], or for  showtell train  with --teacher BUNDLE'
        )
    if teachers and not any(distils):
        raise RecipeError(
            f'teacher {wanted[0]}: no phase of the recipe learns from one; set objective = "distillation" in a phase, or name no teacher'
        )
    if not wanted or not any(distils):
        return recipe
    keep_vocabulary(changed, wanted[0])
    names = []
    for name in wanted:
        folder = need_folder(resolve(name))
        names.append(name if folder != Path(name) else str(folder.resolve()))
    if not recipe.train.start:
        recipe = data_as_in(recipe, before or read_recipe(need_folder(resolve(names[0]))))
    return recipe.model_copy(update={"train": recipe.train.model_copy(update={"teachers": tuple(names)})})


def keep_vocabulary(changed: Iterable[str], teacher: str) -> None:
    """`RecipeError` if one of the keys `changed` asks for another kind of vocabulary than the teacher's."""
    for name in changed:
        section, _, key = name.strip().partition(".")
        if section == "data" and key in VOCABULARY:
            raise RecipeError(
                f"'{name.strip()}': a captioner that learns from {teacher} has the same words; leave it out"
            )


class Teachers:
    """Captioners that say together what the next word is: by the mean of their probabilities."""

    def __init__(self, bundles: Sequence[Bundle], *, names: Sequence[str], device: torch.device) -> None:
        """`names` are those that errors use. `RecipeError` if the bundles have different words.

        Decoders move to `device`; encoders stay on the CPU, as they are only used while caches are filled.
        """
        self._names, self._decoders = tuple(names), [bundle.decoder for bundle in bundles]
        self.vocabulary = bundles[0].vocabulary
        self.dataset: str | None = bundles[0].config["training"].get("dataset")
        self.encoders: dict[str, Bundle] = {}  # by fingerprint, each once: whose encoder it is
        self._sees: list[int] = []  # the place among `encoders` of each teacher's own
        each = []
        for name, bundle in zip(names, bundles, strict=True):
            self.check(bundle.vocabulary, of=name)
            CaptionerModel(bundle.encoder, bundle.decoder).to(device)
            fingerprint = bundle.encoder.fingerprint()  # which depends on the device's precision
            bundle.encoder.cpu()
            self.encoders.setdefault(fingerprint, bundle)
            self._sees.append(list(self.encoders).index(fingerprint))
            digest = hashlib.sha256(fingerprint.encode())
            for _, tensor in sorted(bundle.decoder.state_dict().items()):
                digest.update(tensor.cpu().contiguous().numpy().tobytes())
            each.append(digest.hexdigest())
            # Nobody trains them, but torch multiplies inputs that are not contiguous by frozen weights one image at a time.
            for parameter in bundle.decoder.parameters():
                parameter.requires_grad_(True)
        self.fingerprint = hashlib.sha256(" ".join(sorted(each)).encode()).hexdigest()  # in any order

    @classmethod
    def load(cls, names: Sequence[str], device: torch.device) -> Teachers:
        """Loads bundles, from folders or the hub. Raises as `load_bundle` and `resolve` do."""
        return cls([load_bundle(resolve(name)) for name in names], names=names, device=device)

    def check(self, vocabulary: Vocabulary, *, of: str | Path) -> None:
        """`RecipeError` unless `vocabulary`, that of the captioner `of`, has the teachers' words with the same ids."""
        if how := vocabulary.differs_from(self.vocabulary):
            raise RecipeError(
                f"{of} has other words than the teacher {self._names[0]} ({how}); "
                "a captioner and its teachers need the same, from the same captions and vocabulary settings"
            )

    @torch.no_grad()
    def log_probs(self, features: Sequence[Tensor], fed: Tensor, words: Tensor) -> Tensor:
        """Features (B,R,F) from each of `encoders`, input words (B,K,T), and which of those count (B,K,T) ->
        log-probabilities of the words after them (N,V), in nats."""
        of_each = [
            decoder(features[place], fed).logits[words].float().log_softmax(-1)
            for decoder, place in zip(self._decoders, self._sees, strict=True)
        ]
        return mean_log_probs(of_each)
