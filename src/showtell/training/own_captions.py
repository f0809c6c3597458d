"""Captions drawn from the model that is being trained, and as something to train it on.

B images · K captions of an image · T steps
"""

from __future__ import annotations

import functools
from typing import cast

from torch import Tensor, cat, full_like

from showtell.config import PhaseConfig
from showtell.data.vocabulary import Vocabulary
from showtell.decoding import SearchOptions
from showtell.generate import unspoken
from showtell.model.captioner import CaptionerModel
from showtell.search import draw
from showtell.training.graphs import Recorded
from showtell.writing import PAD


class OwnCaptions:
    """Draws `phase.samples` captions for each image from the softmax that `phase.temperature` sharpens."""

    def __init__(self, vocabulary: Vocabulary, *, phase: PhaseConfig, max_length: int) -> None:
        self.vocabulary = vocabulary
        self.unspoken = unspoken(vocabulary)  # never drawn
        self.options = SearchOptions(n=phase.samples, max_length=max_length, temperature=phase.temperature)

    def draw(self, model: CaptionerModel | Recorded, features: Tensor) -> Tensor:
        """features (B,R,F) -> tokens (B,K,T), everything after an `<end>` being `<end>`.

        `model` may be wrapped for several processes, and draws as it is: without dropout in `eval()`.
        """
        v, captioner = self.vocabulary, plain(model)

        def drawn(features: Tensor, *, together: bool = False) -> Tensor:
            return draw(
                captioner.decoder, features, options=self.options, start_id=v.start_id, end_id=v.end_id,
                banned=self.unspoken, together=together,
            ).tokens  # fmt: skip

        if not isinstance(model, Recorded):
            return drawn(features)
        tokens = model.replay(functools.partial(drawn, together=True), features, otherwise=drawn)
        longest = int((tokens != v.end_id).sum(-1).max()) + 1  # with the `<end>`
        return tokens[..., :longest]

    def teach(self, drawn: Tensor) -> tuple[Tensor, Tensor]:
        """Drawn captions -> input words and targets (B,K,T), for use with autograd."""
        return teach(drawn.clone(), self.vocabulary.start_id, self.vocabulary.end_id)  # an inference tensor may not be


def plain(model: CaptionerModel | Recorded) -> CaptionerModel:
    """The model itself, which may be wrapped for several processes or recordings."""
    return cast(CaptionerModel, getattr(model, "module", model))


def teach(drawn: Tensor, start: int, end: int) -> tuple[Tensor, Tensor]:
    """Drawn captions (B,K,T), filled up with `<end>` -> input words and targets (B,K,T), padded after `<end>`."""
    after = (drawn == end).cumsum(-1) - (drawn == end).long() > 0  # an `<end>` came before
    targets = drawn.masked_fill(after, PAD)
    fed = cat((full_like(drawn[..., :1], start), targets[..., :-1]), -1)
    return fed.masked_fill(fed == end, PAD), targets
