"""All metrics of a corpus at once, with the protocol that makes them comparable."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import asdict, dataclass, field
from typing import Any

import numpy as np
from numpy.typing import NDArray

from showtell.metrics.bleu import bleu_counted
from showtell.metrics.cider import cider_counted
from showtell.metrics.ngrams import Corpus, check_corpus
from showtell.metrics.rouge import rouge_counted
from showtell.metrics.tokenize import tokenize

NAMES = {
    "bleu_1": "BLEU-1", "bleu_2": "BLEU-2", "bleu_3": "BLEU-3", "bleu_4": "BLEU-4", "rouge_l": "ROUGE-L", "cider": "CIDEr",
}  # fmt: skip


@dataclass(frozen=True, slots=True)
class Protocol:
    """What a score was measured on, and how: without it, a score means nothing."""

    dataset: str
    split: str
    images: int
    references_per_image: str
    tokenizer: str
    decoding: str
    version: str

    def __str__(self) -> str:
        return (
            f"{self.dataset} {self.split}, {self.images} images, {self.references_per_image} references each, "
            f"{self.tokenizer} tokens, {self.decoding}, showtell {self.version}"
        )


@dataclass(frozen=True)
class Report:
    """Scores of a corpus (fractions; CIDEr 0 … 10), of each image, and their protocol.

    `tallies` (images,10) are what BLEU adds up over images (see `Bleu`); they are what resampling needs.
    """

    scores: dict[str, float]
    each: dict[str, list[float]]
    tallies: NDArray[np.float64]
    protocol: Protocol
    notes: list[str] = field(default_factory=list)

    def to_dict(self) -> dict[str, Any]:
        """`scores` and `protocol` for JSON."""
        return {"scores": dict(self.scores), "protocol": asdict(self.protocol), "notes": list(self.notes)}

    def lines(self) -> list[str]:
        """For people, ×100 as papers print them."""
        scores = [f"{NAMES[name]:8s} {value * 100:6.2f}" for name, value in self.scores.items()]
        return [*scores, str(self.protocol), *self.notes]


def evaluate(candidates: Sequence[str], references: Sequence[Sequence[str]], *, protocol: Protocol) -> Report:
    """BLEU-1…4, ROUGE-L and CIDEr-D of raw captions, tokenised as coco-caption does.

    `candidates` has one caption an image, `references` several. `DataError` for an empty or uneven corpus.
    """
    check_corpus(candidates, references)
    spoken = [" ".join(tokenize(c)) for c in candidates]
    written = [[" ".join(tokenize(r)) for r in captions] for captions in references]
    corpus = Corpus.of(spoken, written)
    bleus, rouge, cider = bleu_counted(corpus), rouge_counted(corpus), cider_counted(corpus)
    scores = {f"bleu_{n + 1}": value for n, value in enumerate(bleus.corpus)}
    each = {f"bleu_{n + 1}": [values[n] for values in bleus.each] for n in range(4)}
    notes = ["CIDEr of a single image is always 0: it needs the other images' captions"] if len(candidates) == 1 else []
    return Report(
        scores={**scores, "rouge_l": rouge.corpus, "cider": cider.corpus},
        each={**each, "rouge_l": rouge.each, "cider": cider.each},
        tallies=bleus.tallies,
        protocol=protocol,
        notes=notes,
    )
