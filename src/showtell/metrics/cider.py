"""CIDEr-D as coco-caption computes it (there called CIDEr), with document frequencies from the references themselves.

Vedantam et al., "CIDEr: Consensus-based Image Description Evaluation", 2015, section 5 (CIDEr-D). As in coco-caption,
the length term compares numbers of bigrams, and term frequencies are not divided by the caption's length.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from showtell.metrics.ngrams import Corpus, Ints, Ngrams

_SIGMA_SQUARED = 6.0**2

Floats = NDArray[np.float64]


@dataclass(frozen=True, slots=True)
class Cider:
    """CIDEr-D, 0 … 10: the mean, and each image's. On a corpus of one image every score is 0."""

    corpus: float
    each: list[float]


def cider_d(candidates: Sequence[str], references: Sequence[Sequence[str]]) -> Cider:
    """CIDEr-D of tokenised candidates against tokenised references. `DataError` for an empty corpus."""
    return cider_counted(Corpus.of(candidates, references))


def cider_counted(corpus: Corpus) -> Cider:
    """`cider_d` of captions already counted."""
    images, owner = corpus.images, corpus.image[corpus.images :]
    lengths = corpus.counted.lengths
    penalty = length_penalty(lengths[owner], lengths[images:])  # (references,)
    cosines = [_cosines(table, corpus.image, images) for table in corpus.counted.ngrams]
    similarity = np.mean(cosines, axis=0) * penalty
    each = 10.0 * np.bincount(owner, similarity, minlength=images) / np.bincount(owner, minlength=images)
    return Cider(float(each.mean()), each.tolist())


def length_penalty(spoken: Ints, written: Ints) -> Floats:
    """A Gaussian of the difference between two captions' numbers of bigrams, given their numbers of words."""
    apart = (np.maximum(0, spoken - 1) - np.maximum(0, written - 1)).astype(np.float64)
    penalty: Floats = np.exp(-(apart**2) / (2 * _SIGMA_SQUARED))
    return penalty


def _cosines(table: Ngrams, image: Ints, images: int) -> Floats:
    """(references,): for one n, the clipped tf·idf cosine of each reference and its image's candidate."""
    spoken = table.caption < images
    keys = table.ngram * images + image[table.caption]
    written = keys[~spoken]
    weights, norms = weigh(table, image, candidates=images, images=images)
    references = len(image) - images
    candidate = keys[spoken]  # sorted, each once
    if not len(candidate):
        return np.zeros(references)
    place = np.minimum(np.searchsorted(candidate, written), len(candidate) - 1)
    shared = candidate[place] == written
    weight = weights[~spoken][shared]
    products = np.minimum(weights[spoken][place[shared]], weight) * weight
    total = np.bincount(table.caption[~spoken][shared] - images, products, minlength=references)
    both = norms[image[images:]] * norms[images:]
    return np.where(both > 0, total / np.where(both > 0, both, 1.0), total)


def weigh(table: Ngrams, image: Ints, *, candidates: int, images: int) -> tuple[Floats, Floats]:
    """(entries,), (captions,): for one n, tf·idf of a table's entries, and the norm of each caption's.

    The first `candidates` captions are candidates, the others references, in the order of their images; `image` says
    whose each is. An n-gram's document frequency is the number of images whose references have it, at least one.
    """
    assert (np.diff(image[candidates:]) >= 0).all(), "references out of their images' order"
    written = table.caption >= candidates
    keys = table.ngram[written] * images + image[table.caption[written]]
    first = np.diff(keys, prepend=-1) != 0  # sorted, as references are in the images' order: equal keys are adjacent
    documents = np.bincount(table.ngram[written][first], minlength=max(1, table.size))
    idf = math.log(images) - np.log(np.maximum(1, documents))
    weights = table.times * idf[table.ngram]
    return weights, np.sqrt(np.bincount(table.caption, weights**2, minlength=len(image)))
