"""Captions of photos, from Python: `Captioner.load(folder).caption(images)`."""

from __future__ import annotations

import random
from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path
from typing import Literal

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from showtell.bundle import Bundle, load_bundle
from showtell.captioning import BaseCaptioner, Caption, Pixels, Word
from showtell.decoding import Sampling, SearchOptions
from showtell.search import Hypothesis, beam_search, sample

Precision = Literal["auto", "float32"]


class Captioner(BaseCaptioner):
    """A bundle, ready to caption."""

    def __init__(self, bundle: Bundle, *, device: torch.device, precision: Precision = "auto") -> None:
        self.bundle, self.device, self.precision = bundle, device, precision
        self.transform, self.grid = bundle.transform, bundle.grid
        self.defaults, self.recipe = SearchOptions(**bundle.search), bundle.config["recipe"]

    @classmethod
    def load(
        cls, path: str | Path, device: str | torch.device | None = None, *, precision: Precision = "auto"
    ) -> Captioner:
        """The captioner in a bundle's folder, on `device` (by default an accelerator where there is one).

        Its encoder computes in bfloat16 where the processor multiplies it natively; with `precision` "float32" it never
        does, and captions are the same on any processor. Raises `BundleError` for what is no bundle, is incomplete, or of a newer version.
        """
        chosen = torch.device(device) if device is not None else _best_device()
        torch.set_flush_denormal(True)
        return cls(load_bundle(path, chosen), device=chosen, precision=precision)

    def features(self, pixels: Tensor) -> Tensor:
        """Transformed images (B,3,S,S) -> features (B,R,F): the encoder alone."""
        return self.bundle.encoder.encode(pixels.to(self.device), exact=self.precision == "float32")

    def _search(
        self, pixels: Pixels, places: Sequence[int], options: SearchOptions, sampling: Sampling | None
    ) -> list[list[Caption]]:
        hypotheses = self._hypotheses(self.features(torch.from_numpy(pixels)), places, options, sampling)
        return [[self._caption(hypothesis) for hypothesis in found] for found in hypotheses]

    def _hypotheses(
        self, features: Tensor, places: Sequence[int], options: SearchOptions, sampling: Sampling | None
    ) -> list[list[Hypothesis]]:
        vocabulary = self.bundle.vocabulary
        banned = (vocabulary.pad_id, vocabulary.start_id, vocabulary.unk_id)
        decoder, start, end = self.bundle.decoder, vocabulary.start_id, vocabulary.end_id
        if sampling is None:
            return beam_search(
                decoder, features, options=options, start_id=start, end_id=end, banned=banned, attention=True
            )
        options = replace(options, temperature=sampling.temperature, top_p=sampling.top_p)
        seeds = [random.Random(f"{sampling.seed}/{place}").getrandbits(32) for place in places]  # torch reads 32 bits
        generators = [torch.Generator().manual_seed(seed) for seed in seeds]
        with torch.inference_mode():
            return sample(
                decoder, features, options=options, start_id=start, end_id=end, banned=banned, generators=generators
            )

    def _caption(self, found: Hypothesis) -> Caption:
        texts = self.bundle.vocabulary.tokens(found.tokens)
        maps = self._maps(found)
        words = tuple(Word(*parts) for parts in zip(texts, found.token_log_probs, maps, strict=False))
        return Caption(self.bundle.vocabulary.decode(found.tokens), found.log_prob, found.score, words)

    def _maps(self, found: Hypothesis) -> list[NDArray[np.float32] | None]:
        grid = self.bundle.grid
        if found.attention is None or grid is None:
            return [None] * len(found.tokens)
        return list(found.attention.float().view(-1, *grid).numpy())


def _best_device() -> torch.device:
    if torch.cuda.is_available():
        return torch.device("cuda")
    return torch.device("mps" if torch.backends.mps.is_available() else "cpu")
