"""Why each word of a caption is said: how much less likely it is where a part of the image is covered."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass, field

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from showtell.captioner import Captioner
from showtell.data.vocabulary import Vocabulary
from showtell.decoding import MOST_TOKENS
from showtell.errors import DataError
from showtell.images import Source, open_image
from showtell.inference import BundleEngine, bundle_engine
from showtell.writing import SPECIAL

_CELLS = 8  # along each side of a map
_WIDTH = 2  # cells along each side of what is covered at a time: things in photos are larger than one
_BATCH = 16


@dataclass(frozen=True, slots=True)
class Evidence:
    """A token of a caption and its log-probability in nats, given the image and the tokens before it.

    `unseen` is its log-probability where the whole image is covered: what the words before it alone suggest. `cells`
    (h,w) says how many nats the token loses where that part of the image is covered; negative where it gains.
    """

    text: str
    log_prob: float
    unseen: float
    cells: NDArray[np.float32] = field(repr=False)


@dataclass(frozen=True, slots=True)
class Explanation:
    """A caption of an image, token by token; `end` is the log-probability of its end."""

    text: str
    words: tuple[Evidence, ...]
    end: float

    @property
    def log_prob(self) -> float:
        """The caption's log-probability in nats, its end included."""
        return sum(word.log_prob for word in self.words) + self.end


@torch.inference_mode()
def explain(captioner: Captioner, image: Source, caption: str | None = None) -> Explanation:
    """Explains a caption of `image`: the captioner's own, or any other in its words. Works for any encoder and decoder.

    A square of a quarter of the side is moved over the image by an eighth, in what the encoder sees of it and beyond its
    edges, and covers it with the image's mean colour; a cell's value is the mean over the four squares that cover it
    (occlusion: Zeiler & Fergus, "Visualizing and Understanding Convolutional Networks", 2014, section 4.2). Each square
    is an encoding, 83 in all. The first bundle explains, by the first view of the image; of its own caption the text, as
    the vocabulary splits it.

    Raises `ImageError`; `BundleError` for an exported captioner, which has no probabilities of words that it does not say;
    `DataError` for a caption with unknown words, with markers, with none or too many words.
    """
    engine = bundle_engine(captioner.engine)
    picture = open_image(image, enough=engine.transform.enough)
    vocabulary = engine.bundle.vocabulary
    tokens = vocabulary.encode(captioner.caption(picture)[0].text) if caption is None else _tokens(vocabulary, caption)
    pixels = torch.from_numpy(engine.transform(picture))
    places, covered = zip(*_covered(pixels), strict=True)
    log_probs = torch.cat(
        [_log_probs(engine, part, tokens) for part in torch.split(torch.stack(covered), _BATCH)]
    )  # (N,T): as it is, all covered, then each square
    loses = log_probs[0] - log_probs[2:]
    words = (
        Evidence(word, float(log_probs[0, t]), float(log_probs[1, t]), _map(places[2:], loses[:, t]))
        for t, word in enumerate(vocabulary.tokens(tokens[1:]))
    )
    return Explanation(vocabulary.decode(tokens), tuple(words), float(log_probs[0, -1]))


def _tokens(vocabulary: Vocabulary, text: str) -> list[int]:
    """The ids of a caption, `<start>` and `<end>` included; `DataError` for one that cannot be said."""
    if unknown := vocabulary.unknown_words(text):
        raise DataError(
            f"the captioner does not know {', '.join(map(repr, unknown))}; expected a caption in its own words"
        )
    tokens = vocabulary.encode(text)
    if marker := next((SPECIAL[i] for i in tokens[1:-1] if i < len(SPECIAL)), ""):
        raise DataError(f"the caption has the marker {marker}; expected words alone")
    if not 2 < len(tokens) <= MOST_TOKENS + 2:
        raise DataError(f"the caption has {len(tokens) - 2} words; expected 1 to {MOST_TOKENS}")
    return tokens


def _covered(pixels: Tensor) -> Iterator[tuple[tuple[slice, slice], Tensor]]:
    """The image (3,S,S) as it is, all covered, and with each square covered: the cells that are, and the pixels."""
    mean, side = pixels.mean((1, 2), keepdim=True), pixels.shape[-1]
    everything = slice(0, _CELLS)
    yield (slice(0, 0), slice(0, 0)), pixels
    yield (everything, everything), mean.expand_as(pixels)
    firsts = range(1 - _WIDTH, _CELLS)  # beyond the edges too, so that all cells are covered equally often
    spans = [slice(max(0, first), min(_CELLS, first + _WIDTH)) for first in firsts]
    for rows in spans:
        for columns in spans:
            covered = pixels.clone()
            covered[:, _pixels(rows, side), _pixels(columns, side)] = mean
            yield (rows, columns), covered


def _pixels(cells: slice, side: int) -> slice:
    return slice(round(cells.start * side / _CELLS), round(cells.stop * side / _CELLS))


def _log_probs(engine: BundleEngine, images: Tensor, tokens: list[int]) -> Tensor:
    """images (N,3,S,S) -> the log-probability (N,T) of each token after the first, given those before it."""
    features = engine.features(images)
    ids = torch.tensor(tokens, device=features.device).expand(len(images), 1, -1)  # (N,1,T+1)
    logits = engine.bundle.decoder(features, ids[..., :-1]).logits.float()  # (N,1,T,V)
    return logits.log_softmax(-1).gather(-1, ids[..., 1:, None])[:, 0, :, 0].cpu()


def _map(squares: tuple[tuple[slice, slice], ...], values: Tensor) -> NDArray[np.float32]:
    """The mean, for each cell, of the values (N,) of the squares that cover it."""
    total, count = np.zeros((_CELLS, _CELLS), np.float32), np.zeros((_CELLS, _CELLS), np.float32)
    for square, value in zip(squares, values.tolist(), strict=True):
        total[square] += value
        count[square] += 1
    mean: NDArray[np.float32] = total / count
    return mean
