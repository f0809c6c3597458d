"""Training that starts from a captioner: from its CNN, decoder and words, plus those that the new captions add."""

from __future__ import annotations

from collections.abc import Iterable, Iterator
from pathlib import Path

import torch
from torch import Tensor

from showtell.bundle import read_recipe
from showtell.config import OF_TRAINING, Recipe
from showtell.data.vocabulary import Vocabulary
from showtell.errors import DataError, RecipeError
from showtell.hub import need_folder, resolve
from showtell.model.decoders import Decoder
from showtell.training.samples import Samples
from showtell.writing import SPECIAL

VOCABULARY = ("vocabulary", "vocabulary_size")
_SPLIT = ("val", "test", "split_seed")  # the captioner's own, so that the same data are split the same way
_OTHER_LANGUAGE = 0.5  # share of unknown words


def begin_with(
    recipe: Recipe, source: str | Path, *, changed: Iterable[str] = (), encoder_weights: Path | None = None
) -> Recipe:
    """`recipe` for training that starts from the captioner `source`, a bundle or the hub's `user/name`.

    Encoder, decoder and kind of vocabulary are the captioner's, and so are dropout and the split unless the recipe sets
    them; all else is the recipe's.

    Raises `BundleError` if there is no such captioner, `DownloadError` if the hub cannot be reached, and `RecipeError`
    if `changed`, the keys that were set, or `encoder_weights` ask for another encoder or decoder.
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
            or (section == "data" and key in VOCABULARY)
        ):
            raise RecipeError(
                f"'{name.strip()}': a training that begins with {source} keeps its encoder, decoder and kind of vocabulary; leave it out"
            )
    dropout = {key: getattr(recipe.decoder, key) for key in OF_TRAINING if key in recipe.decoder.model_fields_set}
    recipe = data_as_in(recipe, theirs)
    start = str(source) if folder != Path(source) else str(folder.resolve())
    return recipe.model_copy(
        update={
            "encoder": theirs.encoder,
            "decoder": theirs.decoder.model_copy(update=dropout),
            "train": recipe.train.model_copy(update={"start": start}),
        }
    )


def data_as_in(recipe: Recipe, theirs: Recipe) -> Recipe:
    """`recipe` with the kind of vocabulary of `theirs`, and its split unless `recipe` sets one."""
    split = [key for key in _SPLIT if key not in recipe.data.model_fields_set]
    data = {key: getattr(theirs.data, key) for key in (*VOCABULARY, *split)}
    return recipe.model_copy(update={"data": recipe.data.model_copy(update=data)})


def compare_words(samples: Samples, known: Vocabulary, *, dataset: str | None, teaches: bool = False) -> Iterator[str]:
    """Notes on training on `samples` with the words `known` of another captioner, which starts the training or `teaches`.

    `dataset` is the name of the data that it was trained on. `DataError` if the captions are in another language.
    """
    words = samples.vocabulary
    yield f"{len(known)} words are taken over, {len(words) - len(known)} are new to it"
    unknown = words.unknown_rate(samples.captions)
    if unknown > _OTHER_LANGUAGE and teaches:
        raise DataError(
            f"of the words in the captions the teacher knows {100 * (1 - unknown):.0f} %; name teachers of this language"
        )
    if unknown > _OTHER_LANGUAGE:
        raise DataError(
            f"of the words in the captions the captioner to begin with knows {100 * (1 - unknown):.0f} %, even with those that were added; "
            "begin without one, or with one of this language, or lower data.min_count"
        )
    if dataset == samples.name:
        yield (
            f"it was trained on data of the same name, {samples.name}: scores on images that it was taught flatter; they are to be in train "
            "again, as they are where the data have splits of their own"
        )


@torch.no_grad()
def take_over(decoder: Decoder, known: Decoder) -> None:
    """Copies the weights of `known` to `decoder`, whose first words are the same; new words start as the mean of those.

    Hewitt, "Initializing New Word Embeddings for Pretrained Language Models", 2021: a word that starts elsewhere may be
    likelier than all learned words.
    """
    theirs: dict[str, Tensor] = known.state_dict()
    for name, tensor in decoder.state_dict().items():
        old = theirs[name].to(tensor.device)
        if tensor.shape == old.shape:
            tensor.copy_(old)
        else:  # one row per word
            tensor[: len(old)] = old
            tensor[len(old) :] = old[len(SPECIAL) :].mean(0)
