"""Follows one image through every stage of captioning: its value after each, and the file and line of the code."""

from __future__ import annotations

import inspect
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import torch
from torch import Tensor

import showtell
from showtell.bundle import load_bundle
from showtell.decoding import SearchOptions
from showtell.devices import choose_device
from showtell.generate import find_captions
from showtell.images import open_image
from showtell.search import StepDecoder, beam_search

_ROOT = Path(showtell.__file__).parent.parent


@dataclass(frozen=True)
class Stage:
    """A stage: its name, its output, and where its code is."""

    name: str
    value: str
    place: str  # file:line, relative to the sources

    def line(self) -> str:
        """One line for people."""
        return f"{self.name:28s} {self.value}\n{'':28s}   {self.place}"


@torch.inference_mode()
def trace_image(bundle: Path, image: Path, *, device: str | None = None) -> Iterator[Stage]:
    """Takes one image through the evaluation path, stage by stage, with the bundle's own decoding, in its first view.

    `device` is as in `choose_device`. Raises `BundleError`, `ImageError`, and `DataError` for a device that is not there.
    """
    place = choose_device(device)
    loaded = load_bundle(bundle, place)
    encoder, vocabulary = loaded.encoder, loaded.vocabulary
    decoder: StepDecoder = loaded.decoder
    picture = open_image(image, enough=loaded.transform.enough)
    yield Stage("images.open_image", f"{picture.mode} {picture.width}×{picture.height}", _place(open_image))
    pixels = loaded.transform(picture)
    views = int(loaded.search.get("views", 1))
    value = _shape("(3,S,S)", pixels) + f"; the first of {views} views, of which captions are found together" * (
        views > 1
    )
    yield Stage("ImageTransform", value, _place(type(loaded.transform).__call__))
    images = torch.from_numpy(pixels)[None].to(place)
    features = encoder.encode(images)
    yield Stage("encoder.encode", _shape("(B,R,F)", features), _place(encoder.encode))
    memory = decoder.prepare(features)
    yield Stage("decoder.prepare", _tensors(memory), _place(decoder.prepare))
    options = SearchOptions(**loaded.search)
    state = decoder.init_state(memory, options.beam)
    yield Stage("decoder.init_state", _tensors(state), _place(decoder.init_state))
    tokens = torch.full((1, options.beam), vocabulary.start_id, device=place)
    step = decoder.step(tokens, state, memory)
    best = ", ".join(vocabulary.tokens(_spoken(step.logits[0, 0], vocabulary.unk_id)))
    value = f"{_shape('logits (B,K,V)', step.logits)}; likeliest first words: {best}"
    yield Stage("decoder.step", value, _place(decoder.step))
    found = find_captions(decoder, features, vocabulary, options)[0][0]
    value = f"tokens {list(found.tokens)}, log-probability {found.log_prob:.3f}, score {found.score:.3f}"
    yield Stage("generate.find_captions", value, f"{_place(find_captions)}, {_place(beam_search)}")
    yield Stage("vocabulary.decode", f'"{vocabulary.decode(found.tokens)}"', _place(vocabulary.decode))


def _spoken(logits: Tensor, unk_id: int, count: int = 5) -> list[int]:
    """The ids of the likeliest words, markers left out."""
    return [unk_id + 1 + int(i) for i in logits[unk_id + 1 :].topk(min(count, len(logits) - unk_id - 1)).indices]


def _tensors(value: Any) -> str:
    """The fields of a Memory or a State with their shapes."""
    return f"{type(value).__name__}: " + ", ".join(
        f"{name} {_size(tensor)}" for name, tensor in value._asdict().items()
    )


def _shape(legend: str, array: Tensor | np.ndarray[Any, Any]) -> str:
    low, high = float(array.min()), float(array.max())
    return f"{legend} = {_size(array)}, {low:.2f} … {high:.2f}"


def _size(array: Tensor | np.ndarray[Any, Any]) -> str:
    return "×".join(map(str, array.shape))


def _place(function: Callable[..., Any]) -> str:
    function = inspect.unwrap(getattr(function, "__func__", function))
    file = Path(inspect.getsourcefile(function) or "")
    return f"{file.relative_to(_ROOT) if file.is_relative_to(_ROOT) else file}:{inspect.getsourcelines(function)[1]}"
