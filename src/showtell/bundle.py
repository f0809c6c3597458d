"""The bundle is the model: a folder with model.safetensors, config.json, tokenizer.json and README.md. No pickles."""

from __future__ import annotations

import json
from collections.abc import Mapping
from dataclasses import dataclass
from hashlib import sha256
from pathlib import Path
from typing import Any

import timm
import torch
from safetensors import SafetensorError, safe_open
from safetensors.torch import load_file, save
from torch import Tensor

import showtell
from showtell.card import model_card
from showtell.config import MOST_UPRIGHT_VIEWS, Recipe, SearchConfig
from showtell.data.vocabulary import Vocabulary
from showtell.errors import BundleError, RecipeError, captioner_path, first_line, torn
from showtell.images import ImageTransform
from showtell.model.captioner import CaptionerModel
from showtell.model.decoders import Decoder, build_decoder
from showtell.model.encoder import Encoder
from showtell.paths import BUNDLE_FILES, EXPORT_FILES, saved_together, write_whole
from showtell.recipe import parse_recipe

FORMAT_VERSION = 1


@dataclass(frozen=True)
class Bundle:
    """A captioner as it was saved, in evaluation mode."""

    path: Path
    encoder: Encoder
    decoder: Decoder
    vocabulary: Vocabulary
    transform: ImageTransform
    search: dict[str, Any]  # decoding defaults
    config: dict[str, Any]  # config.json
    grid: tuple[int, int] | None
    turned: bool  # trained on turned pictures, so that it knows views from above in any direction


def build_model(recipe: Recipe, encoder: Encoder, vocabulary_size: int) -> CaptionerModel:
    """The model that a recipe describes, its decoder freshly initialised."""
    options = recipe.decoder.model_dump()
    decoder = build_decoder(
        options.pop("name"), feature_size=encoder.feature_size, vocabulary_size=vocabulary_size, **options
    )
    return CaptionerModel(encoder, decoder)


def build_encoder(recipe: Recipe, *, weights: Path | None = None, pretrained: bool | None = None) -> Encoder:
    """The encoder that a recipe describes; weights from a file, from the hub, or none (`pretrained=False`)."""
    options = recipe.encoder.model_dump()
    wanted = options.pop("pretrained")
    return Encoder(**options, weights=weights, pretrained=wanted if pretrained is None else pretrained)


def save_bundle(
    folder: Path,
    *,
    model: CaptionerModel,
    vocabulary: Vocabulary,
    recipe: Recipe,
    training: Mapping[str, Any],
) -> None:
    """Writes a bundle and its card; each file appears whole or not at all, config.json last.

    A bundle that was there may end half written over, with new weights and an old config.json: both name the saving that
    they are of, and `load_bundle` compares.
    """
    folder.mkdir(parents=True, exist_ok=True)
    tensors = {name: tensor.detach().cpu().contiguous() for name, tensor in unique_tensors(model).items()}
    config = {
        "format_version": FORMAT_VERSION,
        "recipe": recipe.model_dump(mode="json"),
        "transform": model.encoder.transform.to_dict(),
        "vocabulary_size": len(vocabulary),
        "training": dict(training),
    }
    saved = sha256(json.dumps(config, sort_keys=True).encode()).hexdigest()[:16]
    write_whole(folder / "model.safetensors", save(tensors, metadata={"format": "pt", "saved": saved}))
    vocabulary.save(folder / "tokenizer.json")
    write_whole(folder / "README.md", model_card(recipe, training))
    _write_json(folder / "config.json", config | {"saved": saved})


def made_with(device: torch.device, processes: int) -> dict[str, Any]:
    """What a captioner was trained with, for its `training`: versions, kind of device, number of processes."""
    return {
        "showtell": showtell.__version__, "torch": str(torch.__version__), "timm": timm.__version__,
        "device": device.type, "processes": processes,
    }  # fmt: skip


def read_recipe(folder: Path) -> Recipe:
    """The recipe that a bundle was trained by. Raises `BundleError` as `load_bundle` does."""
    return _recipe_of(folder, _read_config(folder))


def load_bundle(path: Path | str, device: torch.device | str = "cpu") -> Bundle:
    """Reads a bundle without executing code. `BundleError` if it is missing, incomplete, newer or broken."""
    folder = captioner_path(path)
    config = _read_config(folder)
    recipe = _recipe_of(folder, config)
    vocabulary = Vocabulary.load(folder / "tokenizer.json")
    if len(vocabulary) != config["vocabulary_size"]:
        raise BundleError(
            f"{folder}: tokenizer.json has {len(vocabulary)} tokens, the model {config['vocabulary_size']}; "
            "the files are not of the same bundle"
        )
    size = recipe.encoder.image_size
    if size and size != config["transform"].get("size"):  # before the encoder is tried at that size
        raise _wrong_transform(folder)
    encoder = build_encoder(recipe, pretrained=False)
    _check_sizes(folder, recipe, encoder, len(vocabulary))
    if not saved_together(folder):
        raise torn(folder)
    model = build_model(recipe, encoder, len(vocabulary))
    load_weights(folder, model)
    model.eval().requires_grad_(False).to(device)
    if config["transform"] != model.encoder.transform.to_dict():
        raise _wrong_transform(folder)
    return Bundle(
        path=folder,
        encoder=model.encoder,
        decoder=model.decoder,
        vocabulary=vocabulary,
        transform=model.encoder.transform,
        search=_decoding_of(recipe),
        config=config,
        grid=model.encoder.grid,
        turned=recipe.turns(),
    )


def _decoding_of(recipe: Recipe) -> dict[str, Any]:
    """The recipe's decoding, with no more views than the captioner has: earlier versions let others ask for turned ones."""
    views = recipe.search.views if recipe.turns() else min(recipe.search.views, MOST_UPRIGHT_VIEWS)
    return recipe.search.model_copy(update={"views": views}).model_dump()


def set_decoding(folder: Path, search: SearchConfig, *, chosen: Mapping[str, Any]) -> None:
    """Changes a bundle's decoding defaults.

    `chosen` says how they were found and how they score; it goes into config.json and onto the card.
    """
    config = _read_config(folder)
    config["recipe"] = {**config["recipe"], "search": search.model_dump(mode="json")}
    config["decoding"] = dict(chosen)
    recipe = parse_recipe(config["recipe"], where=str(folder / "config.json"))
    card = model_card(recipe, config.get("training") or {}, decoding=chosen)
    write_whole(folder / "README.md", card)
    _write_json(folder / "config.json", config)


def load_weights(folder: Path, model: CaptionerModel) -> None:
    """Loads a bundle's weights into `model`; `BundleError` where they do not fit."""
    path, wanted = folder / "model.safetensors", unique_tensors(model)
    _check_shapes(path, wanted)
    found = load_file(path)
    with torch.no_grad():
        for name, tensor in wanted.items():
            tensor.copy_(found[name])


def _check_shapes(path: Path, wanted: Mapping[str, Tensor]) -> None:
    """Raises `BundleError` unless a file of weights has the tensors `wanted`. Only its header is read."""
    try:
        with safe_open(path, framework="pt") as file:
            found = {name: tuple(file.get_slice(name).get_shape()) for name in file.keys()}  # noqa: SIM118 (no mapping)
    except (SafetensorError, OSError) as error:
        raise BundleError(f"{path} cannot be read ({error}); copy the bundle again") from None
    # Bundles of earlier versions also hold the layers after the encoder's last one.
    names = {name for name in found if name in wanted or not name.startswith("encoder.network.")}
    wrong = sorted(names ^ wanted.keys()) + [n for n in wanted if n in found and found[n] != wanted[n].shape]
    if wrong:
        raise BundleError(
            f"{path}: {len(wrong)} tensors do not fit the model that config.json describes, first {wrong[0]}"
        )


def _check_sizes(folder: Path, recipe: Recipe, encoder: Encoder, vocabulary_size: int) -> None:
    """Raises `BundleError` unless the weights have the sizes that the recipe says, before a decoder of that size takes
    any memory: config.json may be damaged, or somebody else's."""
    try:
        with torch.device("meta"):  # shapes without numbers
            outline = build_model(recipe, encoder, vocabulary_size)
    except (RuntimeError, OverflowError, TypeError) as error:  # more than a tensor can count
        raise BundleError(
            f"{folder / 'config.json'} describes a decoder of impossible size ({first_line(error)}); copy the bundle again"
        ) from None
    _check_shapes(folder / "model.safetensors", unique_tensors(outline))


def unique_tensors(model: CaptionerModel) -> dict[str, Tensor]:
    """Parameters and buffers by name; a tensor that two modules share is listed once."""
    seen: set[int] = set()
    unique = {}
    for name, tensor in model.state_dict(keep_vars=True).items():
        if id(tensor) not in seen:
            seen.add(id(tensor))
            unique[name] = tensor
    return unique


def _wrong_transform(folder: Path) -> BundleError:
    return BundleError(f"{folder}: its transform is not the one its encoder builds; train it again with this version")


def _recipe_of(folder: Path, config: Mapping[str, Any]) -> Recipe:
    try:
        return parse_recipe(config["recipe"], where=str(folder / "config.json"))
    except RecipeError as error:
        raise BundleError(
            f"{error}; this is showtell {showtell.__version__}: install a newer one, or copy the bundle again"
        ) from None


def _read_config(folder: Path) -> dict[str, Any]:
    missing = [name for name in BUNDLE_FILES if not (folder / name).is_file()]
    if missing:
        nested = folder / "bundle"
        hint = f"; did you mean {nested}?" if (nested / "config.json").is_file() else ""
        if (folder / EXPORT_FILES[0]).is_file():
            raise BundleError(f"{folder} is an exported captioner; expected the bundle that it was made from")
        raise BundleError(
            f"{folder} is not a bundle: {', '.join(missing)} {'is' if len(missing) == 1 else 'are'} missing; expected a run's folder 'bundle'{hint}"
        )
    try:
        config = json.loads((folder / "config.json").read_text(encoding="utf-8"))
        version = int(config["format_version"])
        config["recipe"], config["transform"].get("size"), config["vocabulary_size"]
    except (ValueError, KeyError, TypeError, AttributeError, UnicodeDecodeError):
        raise BundleError(f"{folder / 'config.json'} is broken; copy the bundle again") from None
    if version > FORMAT_VERSION:
        raise BundleError(
            f"{folder} has format version {version}, this showtell reads up to {FORMAT_VERSION}; install a newer showtell"
        )
    return dict(config)


def _write_json(path: Path, value: Mapping[str, Any]) -> None:
    write_whole(path, json.dumps(value, indent=2, ensure_ascii=False) + "\n")
