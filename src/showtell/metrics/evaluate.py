"""All metrics of a corpus at once, with the protocol that makes them comparable."""

from __future__ import annotations

import math
from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import asdict, dataclass, field, fields
from typing import Any

import numpy as np
from numpy.typing import NDArray

from showtell import __version__
from showtell.errors import DataError
from showtell.metrics.bleu import bleu_counted, score_tallies
from showtell.metrics.cider import cider_counted
from showtell.metrics.java import METRICS, Skipped, score_meteor
from showtell.metrics.ngrams import MAX_N, Corpus, check_corpus
from showtell.metrics.rouge import rouge_counted
from showtell.metrics.tokenize import tokenize
from showtell.writing import is_spaceless

NAMES = {
    "bleu_1": "BLEU-1", "bleu_2": "BLEU-2", "bleu_3": "BLEU-3", "bleu_4": "BLEU-4", "rouge_l": "ROUGE-L", "cider": "CIDEr",
    "meteor": "METEOR", "spice": "SPICE", "clip_s": "CLIP-S", "ref_clip_s": "RefCLIP-S",
}  # fmt: skip
OF_IMAGES = ("clip_s", "ref_clip_s")  # scores that need the images; `showtell.clip` computes them


@dataclass(frozen=True, slots=True)
class Protocol:
    """What a score was measured on, and how; without it, a score means nothing."""

    dataset: str
    split: str
    images: int
    references_per_image: str
    tokenizer: str
    decoding: str
    version: str
    clip: str = ""  # the model behind CLIP-S and RefCLIP-S

    @classmethod
    def of(
        cls,
        references: Iterable[Sequence[str]],
        *,
        dataset: str = "captions",
        split: str = "of no named split",
        decoding: str = "decoding not told",
        version: str = __version__,
    ) -> Protocol:
        """The protocol for PTB tokens and these references; in scripts without spaces, each character is a token.

        `DataError` where there are none."""
        listed = list(references)
        if not listed:
            raise DataError("no references to score captions against; expected those of one image or more")
        counts = [len(captions) for captions in listed]
        low, high = min(counts), max(counts)
        per_image = str(low) if low == high else f"{low}–{high}"
        spaceless = any(is_spaceless(caption) for captions in listed for caption in captions)
        tokenizer = "PTB and character" if spaceless else "PTB"
        return cls(dataset, split, len(counts), per_image, tokenizer, decoding, version)

    def __str__(self) -> str:
        return (
            f"{self.dataset} {self.split}, {self.images} images, {self.references_per_image} references each, "
            f"{self.tokenizer} tokens, {self.decoding}, {f'CLIP-S by {self.clip}, ' if self.clip else ''}showtell {self.version}"
        )

    @classmethod
    def from_dict(cls, values: Mapping[str, Any]) -> Protocol:
        """The protocol that `to_dict` wrote; what else is in `values` is left out. `KeyError` where something is missing."""
        return cls(**{item.name: values[item.name] for item in fields(cls) if item.name != "clip" or "clip" in values})

    def to_dict(self) -> dict[str, Any]:
        """For JSON; without `clip` where no such score was computed."""
        return {name: value for name, value in asdict(self).items() if value or name != "clip"}


@dataclass(frozen=True)
class Additive:
    """Scores `names` that are a function of sums over images; `sums` (images,n) has one row per image.

    `score` maps the sums (…,n) of any number of rows, and that number, to their scores (…,names).
    """

    names: tuple[str, ...]
    sums: NDArray[np.float64]
    score: Callable[[NDArray[np.float64], int], NDArray[np.float64]]


@dataclass(frozen=True)
class Report:
    """Scores of a corpus (fractions; CIDEr 0 … 10, CLIP-S 0 … 2.5) and of each image, and their protocol.

    `parts` compute the same scores, in the same order, for any images, as resampling requires.
    """

    scores: dict[str, float]
    each: dict[str, list[float]]
    parts: tuple[Additive, ...]
    protocol: Protocol
    notes: list[str] = field(default_factory=list)

    @property
    def images(self) -> int:
        """The number of images scored."""
        return len(self.parts[0].sums)

    def to_dict(self) -> dict[str, Any]:
        """`scores`, `protocol` and `notes` for JSON."""
        return {"scores": dict(self.scores), "protocol": self.protocol.to_dict(), "notes": list(self.notes)}

    def lines(self) -> list[str]:
        """For people, ×100 as papers print them."""
        scores = [f"{NAMES[name]:9s} {value * 100:6.2f}" for name, value in self.scores.items()]
        return [*scores, str(self.protocol), *self.notes]


def evaluate(
    candidates: Sequence[str],
    references: Sequence[Sequence[str]],
    *,
    protocol: Protocol | None = None,
    more: Sequence[str] = (),
    further: Mapping[str, Sequence[float]] | None = None,
) -> Report:
    """BLEU-1…4, ROUGE-L and CIDEr-D of raw captions, tokenised as coco-caption does.

    `candidates` has one caption per image, `references` several. `protocol` describes them; without it, the report says
    what the references alone tell. `more` names slower metrics of `metrics.java.METRICS`; if one cannot be computed, a
    note says why. `further` are scores of each image that were computed elsewhere, by name; the corpus's are their means.
    `DataError` for an empty or uneven corpus.
    """
    check_corpus(candidates, references)
    spoken = [" ".join(tokenize(c)) for c in candidates]
    written = [[" ".join(tokenize(r)) for r in captions] for captions in references]
    corpus = Corpus.of(spoken, written)
    bleus, rouge, cider = bleu_counted(corpus), rouge_counted(corpus), cider_counted(corpus)
    bleu_names = tuple(f"bleu_{n + 1}" for n in range(MAX_N))
    scores = {**dict(zip(bleu_names, bleus.corpus, strict=True)), "rouge_l": rouge.corpus, "cider": cider.corpus}
    each = {name: [values[n] for values in bleus.each] for n, name in enumerate(bleu_names)}
    each |= {"rouge_l": rouge.each, "cider": cider.each}
    parts = [
        Additive(bleu_names, bleus.tallies, lambda sums, _: score_tallies(sums)),
        _mean("rouge_l", rouge.each),
        _mean("cider", cider.each),
    ]
    notes = ["CIDEr of a single image is always 0: it needs the other images' captions"] if len(candidates) == 1 else []
    for name in more:
        found = METRICS[name](spoken, written)
        if isinstance(found, Skipped):
            notes.append(found.reason)
            continue
        scores[name], each[name] = found.corpus, found.each
        parts.append(_mean(name, found.each) if found.tallies is None else _meteor(found.tallies))
    for name, values in (further or {}).items():
        scores[name], each[name] = math.fsum(values) / len(values), list(values)
        parts.append(_mean(name, values))
    return Report(scores, each, tuple(parts), protocol or Protocol.of(references), notes)


def _mean(name: str, each: Sequence[float]) -> Additive:
    return Additive((name,), np.array(each, dtype=np.float64)[:, None], lambda sums, images: sums / images)


def _meteor(tallies: NDArray[np.float64]) -> Additive:
    return Additive(("meteor",), tallies, lambda sums, _: score_meteor(sums)[..., None])
