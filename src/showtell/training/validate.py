"""Validation: free running, with the decoding that the bundle will use."""

from __future__ import annotations

from collections.abc import Iterable, Sequence

import torch
from torch import Tensor

from showtell.config import SearchConfig
from showtell.data.vocabulary import Vocabulary
from showtell.decoding import SearchOptions
from showtell.generate import find_captions
from showtell.model.decoders import Decoder
from showtell.model.packing import packed


@torch.inference_mode()
def generate(
    decoder: Decoder, features: Iterable[Tensor], vocabulary: Vocabulary, *, search: SearchConfig, device: torch.device
) -> list[str]:
    """The best caption of each image; `features` come in chunks (B,R,F)."""
    decoder = packed(decoder.eval())
    options = SearchOptions(**search.model_dump())
    captions: list[str] = []
    for chunk in features:
        found = find_captions(decoder, chunk.to(device), vocabulary, options)
        captions += [vocabulary.decode(hypotheses[0].tokens) for hypotheses in found]
    return captions


def chunks(rows: Sequence[int], size: int) -> Iterable[Sequence[int]]:
    """`rows` in pieces of `size`."""
    return (rows[i : i + size] for i in range(0, len(rows), size))
