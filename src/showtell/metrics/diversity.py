"""Several captions of each image: how good the best and the mean of them are, and how much they differ.

Here a set is the captions of one image, in their order. Sources, and every deviation from them:

* Best and mean. Vijayakumar et al., "Diverse Beam Search", 2018, and Deshpande et al., "Fast, Diverse and Accurate Image
  Captioning Guided by Part-of-Speech", 2019, call the best an oracle: for each metric by itself, an image's best score
  among its captions, averaged over images. CIDEr-D and BLEU-4 are those of each image, so BLEU-4 here is a mean over
  images (all but 0 for a caption that shares no four words in a row with a reference), and not the corpus's BLEU-4.
* Div-n. Li et al., "A Diversity-Promoting Objective Function for Neural Conversation Models", 2016; as Shetty et al.,
  "Speaking the Same Language", 2017, have it: distinct n-grams of a set divided by its words, averaged over images.
* mBLEU-4. Shetty et al., 2017: BLEU-4 of each caption against the others of its set. They average n corpus scores, one
  for the captions of each place; here all captions are one corpus, so that their order in a set does not matter. Where
  no caption has four words, it is all but 0, even of equal ones.
* Self-CIDEr. Wang and Chan, "Describing like Humans: on Diversity in Image Captioning", 2019. K holds the CIDEr of each
  two captions of a set, λ are its eigenvalues, and the square roots of λ are the singular values of the captions as
  vectors: diversity = −log_n(max √λ / Σ √λ), 0 for n equal captions, 1 for n that share nothing that tells images apart.
  CIDEr is the plain one, a mean of cosines: CIDEr-D's clipping and length term would make K no kernel. Document
  frequencies are the references'.
"""

from __future__ import annotations

import itertools
import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from showtell.errors import DataError
from showtell.metrics.bleu import bleu_counted, score_tallies
from showtell.metrics.cider import cider_counted, weigh
from showtell.metrics.ngrams import MAX_N, Corpus, Ints, Ngrams, check_corpus, count
from showtell.metrics.tokenize import tokenize

Floats = NDArray[np.float64]
Sets = Sequence[Sequence[str]]  # the captions of each image

_AT_ONCE = 100_000  # references that `mutual_bleu` counts together
_ROUNDING = 1e-12  # of the largest eigenvalue: what lies below is 0


@dataclass(frozen=True, slots=True)
class Ranked:
    """A score of each image, averaged: of its first caption, the mean of its captions, and the best of them."""

    first: float
    mean: float
    best: float


@dataclass(frozen=True, slots=True)
class SetScores:
    """What sets of `n` captions an image are worth, and how much they differ; see the module."""

    n: int
    cider: Ranked
    bleu_4: Ranked
    distinct: float  # share of the n that say something of their own
    div_1: float
    div_2: float
    mbleu_4: float
    self_cider: float


def score_sets(sets: Sets, references: Sequence[Sequence[str]]) -> SetScores:
    """Scores the raw captions of each image, as many of each and two or more, against its raw references.

    `DataError` for sets that are empty, of one caption, or uneven.
    """
    spoken, written = _tokenized(sets), _tokenized(references)
    return _summed(spoken, written, _scores(_columns(spoken), [written] * _size(spoken)))


def score_people(references: Sequence[Sequence[str]], n: int) -> SetScores | None:
    """The same of people: the first `n` references of each image are its set, and each is scored against all of the
    image's others, as in `leave_one_out`.

    Images with one reference are left out; of the others, as many take a turn as the image with the fewest has. None
    where no image has two.
    """
    kept = [captions for captions in _tokenized(references) if len(captions) > 1]
    if not kept:
        return None
    turns = min(n, min(map(len, kept)))
    rest = [[[*captions[:k], *captions[k + 1 :]] for captions in kept] for k in range(turns)]
    spoken = [captions[:turns] for captions in kept]
    return _summed(spoken, kept, _scores(_columns(spoken), rest))


def share_distinct(sets: Sets) -> float:
    """The mean share of different captions in a set of tokenised ones."""
    return math.fsum(len(set(captions)) / len(captions) for captions in sets) / len(sets)


def div_n(sets: Sets, n: int) -> float:
    """Div-n of tokenised captions, n from 1 to 4: see the module. Sets without a word count as 0."""
    counted, image = count(list(itertools.chain.from_iterable(sets))), _owners(sets)
    table = counted.ngrams[n - 1]
    found = np.unique(image[table.caption] * max(1, table.size) + table.ngram) // max(1, table.size)
    words = np.bincount(image, counted.lengths, minlength=len(sets))
    return float(np.mean(np.bincount(found, minlength=len(sets)) / np.maximum(1, words)))


def mutual_bleu(sets: Sets) -> float:
    """mBLEU-4 of tokenised captions, two or more of each image: see the module; 0 … 1, less is more diverse."""
    check_sets(sets)
    pairs = [(captions[k], [*captions[:k], *captions[k + 1 :]]) for captions in sets for k in range(len(captions))]
    size = max(1, _AT_ONCE // max(map(len, sets)))
    tallies = sum(
        bleu_counted(Corpus.of(*zip(*pairs[i : i + size], strict=True))).tallies.sum(0)
        for i in range(0, len(pairs), size)
    )
    return float(score_tallies(np.asarray(tallies))[MAX_N - 1])


def self_cider(sets: Sets, references: Sequence[Sequence[str]]) -> list[float]:
    """Each image's self-CIDEr, 0 … 1, of two or more tokenised captions: see the module. On a corpus of one image every
    score is 0, as CIDEr's."""
    check_sets(sets)
    check_corpus(sets, references)  # type: ignore[arg-type]
    captions = list(itertools.chain.from_iterable(sets))
    image = np.concatenate((_owners(sets), _owners(references)))
    counted = count([*captions, *itertools.chain.from_iterable(references)])
    kernels = [np.zeros((len(each), len(each))) for each in sets]
    for table in counted.ngrams:
        _add_cosines(kernels, table, image, candidates=len(captions))
    return [_spread(kernel) for kernel in kernels]


def check_sets(sets: Sets) -> None:
    """Raises `DataError` unless each image has two captions or more."""
    if not sets:
        raise DataError("no captions to compare with each other; expected at least one image's")
    short = next((i for i, captions in enumerate(sets) if len(captions) < 2), None)
    if short is not None:
        raise DataError(
            f"image {short} has {len(sets[short])} captions to compare with each other; expected two or more"
        )


def _add_cosines(kernels: Sequence[Floats], table: Ngrams, image: Ints, *, candidates: int) -> None:
    """Adds each two captions' tf·idf cosine, for one n, to their image's kernel: a mean over n in the end."""
    weights, norms = weigh(table, image, candidates=candidates, images=len(kernels))
    spoken = table.caption < candidates
    caption, ngram = table.caption[spoken], table.ngram[spoken]
    units = weights[spoken] / np.where(norms > 0, norms, 1.0)[caption]
    first = np.searchsorted(image[:candidates], np.arange(len(kernels)))  # of each image's captions
    order = np.argsort(image[caption], kind="stable")  # entries of an image, sorted by n-gram
    ends = np.searchsorted(image[caption][order], np.arange(len(kernels)), side="right")
    for i, entries in enumerate(np.split(order, ends[:-1])):
        columns = np.cumsum(np.diff(ngram[entries], prepend=-1) != 0) - 1
        vectors = np.zeros((len(kernels[i]), int(columns[-1]) + 1 if len(columns) else 0))
        vectors[caption[entries] - first[i], columns] = units[entries]
        kernels[i] += vectors @ vectors.T / MAX_N


def _spread(kernel: Floats) -> float:
    """−log_n of the largest singular value's share of their sum; 0 where all are 0."""
    values = np.linalg.eigvalsh(kernel)  # rising
    roots = np.sqrt(np.where(values > _ROUNDING * values[-1], values, 0.0).clip(min=0))
    if not roots[-1] > 0:
        return 0.0
    return max(0.0, -math.log(roots[-1] / roots.sum()) / math.log(len(kernel)))


def _scores(columns: Sequence[Sequence[str]], references: Sequence[Sequence[Sequence[str]]]) -> Mapping[str, Floats]:
    """CIDEr-D and BLEU-4, (images,n), of the captions of each place against the references that they have there."""
    corpora = [Corpus.of(spoken, written) for spoken, written in zip(columns, references, strict=True)]
    return {
        "cider": np.column_stack([cider_counted(corpus).each for corpus in corpora]),
        "bleu_4": np.column_stack([[each[-1] for each in bleu_counted(corpus).each] for corpus in corpora]),
    }


def _summed(spoken: Sets, written: Sets, each: Mapping[str, Floats]) -> SetScores:
    own = self_cider(spoken, written)
    return SetScores(
        n=_size(spoken), cider=_ranked(each["cider"]), bleu_4=_ranked(each["bleu_4"]), distinct=share_distinct(spoken),
        div_1=div_n(spoken, 1), div_2=div_n(spoken, 2), mbleu_4=mutual_bleu(spoken), self_cider=math.fsum(own) / len(own),
    )  # fmt: skip


def _ranked(scores: Floats) -> Ranked:
    """Of (images,n)."""
    return Ranked(float(scores[:, 0].mean()), float(scores.mean()), float(scores.max(1).mean()))


def _columns(sets: Sets) -> list[list[str]]:
    """The captions of each place in their sets, which are of one size; `DataError` for others."""
    check_sets(sets)
    if len({len(captions) for captions in sets}) > 1:
        raise DataError(
            f"sets of {min(map(len, sets))} to {max(map(len, sets))} captions; expected as many of each image"
        )
    return [list(place) for place in zip(*sets, strict=True)]


def _size(sets: Sets) -> int:
    return len(sets[0]) if sets else 0


def _owners(sets: Sets) -> Ints:
    """(captions,) the image of each."""
    return np.repeat(np.arange(len(sets)), [len(captions) for captions in sets])


def _tokenized(sets: Sets) -> list[list[str]]:
    return [[" ".join(tokenize(caption)) for caption in captions] for captions in sets]
