"""Networks for the encoder: timm's or the demo's own, with their weights, cut behind the last layer that is needed."""

from __future__ import annotations

import contextlib
import logging
import re
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Literal

import timm
import torch
from safetensors import SafetensorError
from safetensors.torch import load_file
from timm.data import resolve_model_data_config
from torch import nn
from torch.torch_version import TorchVersion

from showtell.errors import RecipeError, WeightsError, first_line, meant
from showtell.images import ImageTransform
from showtell.model.joining import Backbone
from showtell.model.small import SmallCNN
from showtell.model.tracing import cut
from showtell.paths import why_no_hub


def weight_files(names: Sequence[str], weights: Path | None) -> dict[str, Path | None]:
    """The file of each network's weights, if they come from files: a folder holds NAME.safetensors of each."""
    unique = dict.fromkeys(names)
    if weights is not None and weights.is_dir():
        return {name: weights / f"{name}.safetensors" for name in unique}
    if weights is not None and len(unique) > 1:
        files = ", ".join(f"{name}.safetensors" for name in unique)
        raise RecipeError(f"--encoder-weights {weights}: there are {len(unique)} encoders; give a folder with {files}")
    return dict.fromkeys(unique, weights)


def load_backbone(
    name: str,
    layers: dict[str, str],
    *,
    image_size: int,
    crop: str,
    pretrained: bool,
    weights: Path | None,
) -> Backbone:
    """The network `name` with its weights, cut so that it returns the outputs of `layers` under their keys.

    `RecipeError` if there is no such network or layer, `WeightsError` if the weights are missing or do not fit.
    """
    model = _create(name, pretrained=pretrained and weights is None)
    if weights is not None:
        _load(model, weights)
    transform = _transform_of(model, image_size=image_size, crop=crop)
    prefix = int(getattr(model, "num_prefix_tokens", 0))
    layout = _layout(model)
    network = _cut(model, name, layers).to(memory_format=layout)
    return Backbone(name, network, tuple(layers), transform, prefix, layout)


def _transform_of(model: nn.Module, *, image_size: int = 0, crop: str = "") -> ImageTransform:
    """The transform that comes with a timm model's weights, at another size or crop where asked for."""
    known = resolve_model_data_config(model)
    size = image_size or int(known["input_size"][-1])
    crop_mode: Literal["center", "squash"] = "squash" if (crop or known["crop_mode"]) == "squash" else "center"
    resize = size if crop_mode == "squash" else int(size / float(known["crop_pct"]))
    interpolation: Literal["bilinear", "bicubic"] = "bilinear" if known["interpolation"] == "bilinear" else "bicubic"
    r, g, b = (float(x) for x in known["mean"])
    sr, sg, sb = (float(x) for x in known["std"])
    return ImageTransform(
        size=size, resize=resize, crop_mode=crop_mode, mean=(r, g, b), std=(sr, sg, sb), interpolation=interpolation
    )


def _layout(model: nn.Module) -> torch.memory_format:
    """Channels last, in which convolutions are fast. Networks with group norms keep their layout before torch 2.14: in
    channels last, the gradient of a group norm whose input needs none ends the process there."""
    crashes = TorchVersion(torch.__version__) < "2.14" and any(isinstance(m, nn.GroupNorm) for m in model.modules())
    return torch.contiguous_format if crashes else torch.channels_last


def _create(name: str, *, pretrained: bool) -> nn.Module:
    if name == "small":
        return SmallCNN()
    if not timm.is_model(name.split(".")[0]):
        near = timm.list_models(f"*{re.split('[._]', name)[0]}*")[:5]
        raise RecipeError(
            f"encoder.name is '{name}', which timm does not know; near it: {', '.join(near) or 'nothing'}"
        )
    try:
        with _quiet("huggingface_hub"):
            return timm.create_model(name, pretrained=pretrained, num_classes=0, global_pool="")  # type: ignore[no-any-return]
    except Exception as error:  # the hub's client raises many kinds
        if not pretrained:
            raise RecipeError(f"encoder.name '{name}' cannot be built: {error}") from error
        kind = type(error).__name__
        why = why_no_hub() if kind == "LocalEntryNotFoundError" else f"the hub's client raised {kind}"
        raise WeightsError(
            f"the weights of '{name}' cannot be had: {why}; connect once, or give a file with --encoder-weights"
        ) from error


@contextlib.contextmanager
def _quiet(logger: str) -> Iterator[None]:
    """Silences a logger: without a connection the hub's client reports each of its many tries, and the final error
    says it once."""
    client = logging.getLogger(logger)
    before = client.level
    client.setLevel(logging.ERROR)
    try:
        yield
    finally:
        client.setLevel(before)


def _load(model: nn.Module, path: Path) -> None:
    """Loads a .safetensors file under timm's parameter names; a classifier in it is left out."""
    if not path.is_file():
        raise WeightsError(f"--encoder-weights {path}: no such file; expected a .safetensors file of this encoder")
    try:
        state = {name: tensor.float() for name, tensor in load_file(path).items()}
    except SafetensorError as error:
        raise WeightsError(f"--encoder-weights {path}: not a safetensors file ({error})") from None
    wanted = model.state_dict()
    wrong = [
        n
        for n in wanted
        if not n.endswith("num_batches_tracked") and (n not in state or state[n].shape != wanted[n].shape)
    ]
    if wrong:
        raise WeightsError(
            f"--encoder-weights {path}: {len(wrong)} of {len(wanted)} tensors are missing or of another shape "
            f"({', '.join(wrong[:3])} …); expected the weights of this very encoder under timm's names"
        )
    model.load_state_dict({name: state[name] for name in wanted if name in state}, strict=False)


def _cut(model: nn.Module, name: str, layers: dict[str, str]) -> nn.Module:
    """The part of `model` that computes `layers`, returned under their keys; what comes after the last is never run."""
    if list(layers.values()) == [""]:
        return model
    for layer in layers.values():
        if not layer or layer not in dict(model.named_modules()):
            names = [n for n, _ in model.named_children()]
            raise RecipeError(f"encoder.layer is '{layer}', which {name} does not have; {one_of(names, layer)}")
    try:
        return cut(model, layers)
    except Exception as error:  # what cannot be traced raises many kinds
        raise RecipeError(
            f"{name} cannot be cut at encoder.layer {', '.join(layers.values())} ({first_line(error)}); "
            "leave encoder.layer empty"
        ) from error


def one_of(names: list[str], wrong: str) -> str:
    """The end of an error's sentence about an unknown module: the name that was meant, or those there are."""
    return meant(wrong, names, f"expected one of {', '.join(names)}")
