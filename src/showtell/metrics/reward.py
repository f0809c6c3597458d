"""CIDEr-D and BLEU-4 of sampled captions as training rewards: on token ids, against references counted once.

Rennie et al., "Self-critical Sequence Training for Image Captioning", 2017. No torch here:

    reward = Reward.from_references(references, end=END)  # references[i]: image i's captions as token ids; train split
    reward.cider_d(tokens, images)                        # (N,) 0 … 10; tokens (N,T) ids, images (N,) each one's image
    reward.bleu_4(tokens, images)                         # (N,) 0 … 1, of each caption alone

`<end>` counts as a word, so that a caption cut short is worth less than a complete one.
"""

from __future__ import annotations

import itertools
import math
from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
from numpy.typing import ArrayLike, NDArray

from showtell.errors import DataError
from showtell.metrics.bleu import closest_lengths, score_tallies
from showtell.metrics.cider import length_penalty
from showtell.metrics.ngrams import MAX_N, Counted, Ints, Ngrams, count_ids

Floats = NDArray[np.float64]
Captions = NDArray[np.integer] | Sequence[Sequence[int]]  # (N,T) padded after `<end>`, or sequences of ids


@dataclass(frozen=True, slots=True)
class _Known:
    """All references' n-grams of one length, indexed by image: entries of one image and n-gram are adjacent."""

    keys: Ints  # (size,) `Ngrams.keys`
    idf: Floats  # (size,)
    pairs: Ints  # (P,) ascending: image · size + n-gram
    bounds: Ints  # (P+1,) where each pair's entries begin
    reference: Ints  # (entries,)
    times: Ints  # (entries,) how often the reference has it
    norms: Floats  # (references,)


@dataclass(frozen=True, slots=True)
class _Found:
    """N-grams of one length that candidates share with their images' references: one entry per n-gram and reference."""

    candidate: Ints  # (S,)
    reference: Ints  # (S,)
    entry: Ints  # (S,) in the candidates' table
    written: Ints  # (S,) how often the reference has it


@dataclass(frozen=True, slots=True)
class Reward:
    """Statistics of a split's references, and the scores of captions against them.

    The scores are those of `metrics.cider_d` and `metrics.bleu` over the whole split with one candidate per image:
    document frequencies are the split's, whichever images a batch has. They are computed on the model's own tokens; a
    word that it does not know is `<unk>` in the references too.
    """

    end: int | None
    radix: int
    lengths: Ints  # (references,)
    first: Ints  # (images+1,) where each image's references begin
    known: tuple[_Known, ...]  # n = 1, 2, 3, 4

    @classmethod
    def from_references(cls, references: Sequence[Sequence[Sequence[int]]], *, end: int | None = None) -> Reward:
        """Counts each image's references, given as token ids without a start token.

        With `end`, sequences count up to and including their first `end`; a reference without one gets one appended.
        `DataError` where there is no image, or an image has no reference.
        """
        if not references:
            raise DataError("no references to reward captions by; expected those of the train split")
        counts = np.array([len(captions) for captions in references], dtype=np.int64)
        if not counts.all():
            raise DataError(f"image {int(np.argmin(counts))} has no reference caption; expected at least one")
        captions = [
            [*ids, end] if end is not None and end not in ids else ids
            for ids in itertools.chain.from_iterable(references)
        ]
        counted = count_ids(*_flatten(captions, end))
        image = np.repeat(np.arange(len(counts)), counts)
        first = np.concatenate(([0], np.cumsum(counts)))
        known = tuple(_know(table, image, len(counts)) for table in counted.ngrams)
        return cls(end, counted.radix, counted.lengths, first, known)

    def cider_d(self, candidates: Captions, images: ArrayLike) -> Floats:
        """(N,): CIDEr-D, 0 … 10, of each candidate against the references of its image; `images` (N,) are indices."""
        of, counted = self._count(candidates, images)
        candidate, reference = self._against(of)  # (pairs,) every candidate with each of its references
        place = np.concatenate(
            ([0], np.cumsum(np.bincount(candidate, minlength=len(of))))
        )  # of a candidate's first pair
        cosines = np.zeros(len(candidate))
        for table, known, ids in zip(counted.ngrams, self.known, self._identify(counted), strict=True):
            idf = np.where(ids >= 0, known.idf[np.maximum(ids, 0)], math.log(len(self.first) - 1))
            weights = table.times * idf[table.ngram]
            norms = np.sqrt(np.bincount(table.caption, weights**2, minlength=len(of)))
            found = _find(table, ids, known, of)
            written = found.written * idf[table.ngram[found.entry]]
            products = np.minimum(weights[found.entry], written) * written
            pair = place[found.candidate] + found.reference - self.first[of[found.candidate]]
            total = np.bincount(pair, products, minlength=len(candidate))
            both = norms[candidate] * known.norms[reference]
            cosines += np.where(both > 0, total / np.where(both > 0, both, 1.0), total)
        similarity = cosines / MAX_N * length_penalty(counted.lengths[candidate], self.lengths[reference])
        return 10.0 * np.bincount(candidate, similarity, minlength=len(of)) / np.diff(place)

    def bleu_4(self, candidates: Captions, images: ArrayLike) -> Floats:
        """(N,): BLEU-4 of each candidate alone, as `metrics.bleu(…).each`: coarse, near 0 without a shared 4-gram."""
        of, counted = self._count(candidates, images)
        tallies = np.zeros((len(of), 2 * MAX_N + 2))
        for n, ids in enumerate(self._identify(counted)):
            table = counted.ngrams[n]
            found = _find(table, ids, self.known[n], of)
            most = np.zeros(len(table.times), dtype=np.int64)
            np.maximum.at(most, found.entry, found.written)
            tallies[:, n] = np.bincount(table.caption, np.minimum(most, table.times), minlength=len(of))
            tallies[:, MAX_N + n] = np.maximum(0, counted.lengths - n)
        tallies[:, -2] = counted.lengths
        candidate, reference = self._against(of)
        tallies[:, -1] = closest_lengths(counted.lengths, self.lengths[reference], candidate)
        return score_tallies(tallies)[:, MAX_N - 1]

    def _count(self, candidates: Captions, images: ArrayLike) -> tuple[Ints, Counted]:
        of = np.asarray(images, dtype=np.int64)
        assert of.shape == (len(candidates),)
        assert not len(of) or 0 <= of.min() <= of.max() < len(self.first) - 1
        return of, count_ids(*_flatten(candidates, self.end))

    def _identify(self, counted: Counted) -> list[Ints]:
        """For each n, the references' id of each distinct n-gram of the candidates; -1 where no reference has it."""
        found, before = [], np.zeros(1, dtype=np.int64)
        for table, known in zip(counted.ngrams, self.known, strict=True):
            word, prefix = table.keys % counted.radix, before[table.keys // counted.radix]
            ids = _places(known.keys, prefix * self.radix + word)
            before = np.where((prefix >= 0) & (word < self.radix), ids, -1)
            found.append(before)
        return found

    def _against(self, of: Ints) -> tuple[Ints, Ints]:
        """(pairs,), (pairs,): each candidate with each reference of its image, in order."""
        many = self.first[of + 1] - self.first[of]
        return np.repeat(np.arange(len(of)), many), _ranges(self.first[of], many)


def _know(table: Ngrams, image: Ints, images: int) -> _Known:
    size = max(1, table.size)
    keys = image[table.caption] * size + table.ngram
    order = np.argsort(keys, kind="stable")
    pairs, bounds = np.unique(keys[order], return_index=True)
    idf = math.log(images) - np.log(np.maximum(1, np.bincount(pairs % size, minlength=size)))
    norms = np.sqrt(np.bincount(table.caption, (table.times * idf[table.ngram]) ** 2, minlength=len(image)))
    ends = np.concatenate((bounds, [len(keys)]))
    return _Known(table.keys, idf, pairs, ends, table.caption[order], table.times[order], norms)


def _find(table: Ngrams, ids: Ints, known: _Known, of: Ints) -> _Found:
    """Matches the candidates' n-grams with those in the references of their images."""
    ids = ids[table.ngram]
    place = _places(known.pairs, of[table.caption] * max(1, len(known.keys)) + ids)
    entry = np.flatnonzero((ids >= 0) & (place >= 0))
    start = known.bounds[place[entry]]
    many = known.bounds[place[entry] + 1] - start
    entry, place = np.repeat(entry, many), _ranges(start, many)
    return _Found(table.caption[entry], known.reference[place], entry, known.times[place])


def _places(rising: Ints, wanted: Ints) -> Ints:
    """The place in `rising` of each of `wanted`; -1 where it is missing."""
    if not len(rising):
        return np.full(len(wanted), -1)
    place = np.minimum(np.searchsorted(rising, wanted), len(rising) - 1)
    return np.where(rising[place] == wanted, place, -1)


def _ranges(start: Ints, many: Ints) -> Ints:
    """start[0], start[0] + 1, … (`many[0]` of them), start[1], …"""
    return np.arange(int(many.sum())) + np.repeat(start - np.cumsum(many) + many, many)


def _flatten(captions: Captions, end: int | None) -> tuple[Ints, Ints]:
    """The concatenated ids of all captions, each up to and including its first `end`; and their lengths."""
    if not isinstance(captions, np.ndarray):
        sizes = np.array([len(ids) for ids in captions], dtype=np.int64)
        flat = np.fromiter(itertools.chain.from_iterable(captions), dtype=np.int64, count=int(sizes.sum()))
        inside = np.arange(int(sizes.max(initial=0))) < sizes[:, None]
        rows = np.full(inside.shape, -1, dtype=np.int64)
        rows[inside] = flat
    else:
        rows, inside = captions.astype(np.int64), np.ones(captions.shape, dtype=bool)
    if end is not None:
        ended = np.cumsum(rows == end, axis=1)
        inside &= (ended == 0) | ((ended == 1) & (rows == end))
    return rows[inside], inside.sum(1)
