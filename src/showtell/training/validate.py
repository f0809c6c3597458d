"""Validation: free running, with the decoding that the bundle will use."""

from __future__ import annotations

from collections.abc import Iterable, Sequence

import torch
from torch import Tensor

from showtell.config import SearchConfig
from showtell.data.vocabulary import Vocabulary
from showtell.decoding import SearchOptions
from showtell.model.decoders import Decoder
from showtell.search import beam_search


@torch.inference_mode()
def generate(
    decoder: Decoder, features: Iterable[Tensor], vocabulary: Vocabulary, *, search: SearchConfig, device: torch.device
) -> list[str]:
    """The best caption of each image; `features` come in chunks (B,R,F)."""
    decoder.eval()
    options = SearchOptions(**search.model_dump())
    captions: list[str] = []
    for chunk in features:
        found = beam_search(
            decoder, chunk.to(device), options=options, start_id=vocabulary.start_id, end_id=vocabulary.end_id,
            banned=(vocabulary.pad_id, vocabulary.start_id, vocabulary.unk_id),
        )  # fmt: skip
        captions += [vocabulary.decode(hypotheses[0].tokens) for hypotheses in found]
    return captions


def chunks(rows: Sequence[int], size: int) -> Iterable[Sequence[int]]:
    """`rows` in pieces of `size`."""
    return (rows[i : i + size] for i in range(0, len(rows), size))
