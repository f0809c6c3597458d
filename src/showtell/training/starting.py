"""A training that begins with a captioner: with its CNN, its decoder and its words, and those that the new captions add."""

from __future__ import annotations

from collections.abc import Iterable
from pathlib import Path

import torch
from torch import Tensor

from showtell.bundle import read_recipe
from showtell.config import OF_TRAINING, Recipe
from showtell.data.vocabulary import SPECIAL
from showtell.errors import RecipeError
from showtell.hub import need_folder, resolve
from showtell.model.decoders import Decoder

_VOCABULARY = ("vocabulary", "vocabulary_size")
_SPLIT = ("val", "test", "split_seed")  # a captioner's own, so that the same data are split in the same way


def begin_with(
    recipe: Recipe, source: str | Path, *, changed: Iterable[str] = (), encoder_weights: Path | None = None
) -> Recipe:
    """`recipe` for a training that begins with the captioner `source`, a bundle or the hub's `user/name`: the encoder, the decoder and
    the kind of vocabulary are that one's, and so are dropout and the split where the recipe does not set them. All else is the recipe's.

    Raises `BundleError` where there is no such captioner, `DownloadError` where the hub cannot be reached, `RecipeError` where
    `changed`, keys that somebody set, or `encoder_weights` ask for another encoder or decoder.
    """
    folder = need_folder(resolve(source))
    theirs = read_recipe(folder)
    if encoder_weights is not None:
        raise RecipeError(
            f"--encoder-weights {encoder_weights}: {source} brings its own encoder; leave one of the two out"
        )
    for name in changed:
        section, _, key = name.strip().partition(".")
        if (
            section == "encoder"
            or (section == "decoder" and key not in OF_TRAINING)
            or (section == "data" and key in _VOCABULARY)
        ):
            raise RecipeError(
                f"'{name.strip()}': a training that begins with {source} keeps its encoder, decoder and kind of vocabulary; leave it out"
            )
    dropout = {key: getattr(recipe.decoder, key) for key in OF_TRAINING if key in recipe.decoder.model_fields_set}
    split = [key for key in _SPLIT if key not in recipe.data.model_fields_set]
    data = {key: getattr(theirs.data, key) for key in (*_VOCABULARY, *split)}
    start = str(source) if folder != Path(source) else str(folder.resolve())
    return recipe.model_copy(
        update={
            "encoder": theirs.encoder,
            "decoder": theirs.decoder.model_copy(update=dropout),
            "data": recipe.data.model_copy(update=data),
            "train": recipe.train.model_copy(update={"start": start}),
        }
    )


@torch.no_grad()
def take_over(decoder: Decoder, known: Decoder) -> None:
    """Gives `decoder` the weights of `known`, which has the first of its words; the others begin as the mean of those.

    Hewitt, "Initializing New Word Embeddings for Pretrained Language Models", 2021: a word that begins elsewhere may be likelier
    than all that were learned.
    """
    theirs: dict[str, Tensor] = known.state_dict()
    for name, tensor in decoder.state_dict().items():
        old = theirs[name].to(tensor.device)
        if tensor.shape == old.shape:
            tensor.copy_(old)
        else:  # a row a word
            tensor[: len(old)] = old
            tensor[len(old) :] = old[len(SPECIAL) :].mean(0)
