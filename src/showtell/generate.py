"""From features to captions as token ids, for validation, evaluation and captioning.

Markers and the unknown word are never said.
"""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from dataclasses import replace
from typing import Any

import torch

from showtell.data.vocabulary import Vocabulary
from showtell.decoding import SearchOptions, none_found
from showtell.metrics.consensus import expected_utility
from showtell.search import Hypothesis, StepDecoder, beam_search, sample


def find_captions(
    decoder: StepDecoder, features: Any, vocabulary: Vocabulary, options: SearchOptions, *, attention: bool = False
) -> list[list[Hypothesis]]:
    """The `options.n` best captions of each image of `features` (B,R,F), best first.

    With `options.consensus`, that many candidates of a beam at least as wide are ranked by their expected CIDEr-D
    against each other, which becomes their `score`, 0 … 10. Captions that several diverse groups found count once.
    `DataError` where no caption meets the options.
    """
    count = options.beam if options.groups > 1 else max(options.n, options.consensus)
    found = beam_search(
        decoder, features, options=replace(options, n=count, beam=max(options.beam, count)),
        start_id=vocabulary.start_id, end_id=vocabulary.end_id, banned=unspoken(vocabulary), attention=attention,
    )  # fmt: skip
    if not all(found):
        raise none_found(options)
    if options.groups > 1:
        found = [_distinct(hypotheses) for hypotheses in found]
    if options.consensus > 1:
        found = [by_consensus(hypotheses, vocabulary.end_id) for hypotheses in found]
    return [hypotheses[: options.n] for hypotheses in found]


def best_captions(
    decoder: StepDecoder, chunks: Iterable[Any], vocabulary: Vocabulary, options: SearchOptions
) -> list[str]:
    """The best caption of each image as text; `chunks` are features (B,R,F) on the decoder's device."""
    found = (best for chunk in chunks for best, *_ in find_captions(decoder, chunk, vocabulary, options))
    return [vocabulary.decode(best.tokens) for best in found]


def draw_captions(
    decoder: StepDecoder,
    features: Any,
    vocabulary: Vocabulary,
    options: SearchOptions,
    *,
    generators: Sequence[torch.Generator] | None = None,
) -> list[list[Hypothesis]]:
    """`options.n` captions drawn for each image, likeliest first."""
    return sample(
        decoder, features, options=options, start_id=vocabulary.start_id, end_id=vocabulary.end_id,
        banned=unspoken(vocabulary), generators=generators,
    )  # fmt: skip


def by_consensus(hypotheses: Sequence[Hypothesis], end_id: int) -> list[Hypothesis]:
    """The same hypotheses, ranked and scored by how much the others agree with them."""
    said = [(*h.tokens, end_id) if h.finished else h.tokens for h in hypotheses]
    worth = expected_utility(said, [h.log_prob for h in hypotheses])
    return [replace(hypotheses[i], score=float(worth[i])) for i in (-worth).argsort(kind="stable")]


def unspoken(vocabulary: Vocabulary) -> tuple[int, ...]:
    """The ids that never appear in a caption."""
    return (vocabulary.pad_id, vocabulary.start_id, vocabulary.unk_id)


def _distinct(hypotheses: Sequence[Hypothesis]) -> list[Hypothesis]:
    """The hypotheses without those that repeat an earlier one's words."""
    first: dict[tuple[int, ...], Hypothesis] = {}
    for hypothesis in hypotheses:
        first.setdefault(hypothesis.tokens, hypothesis)
    return list(first.values())
