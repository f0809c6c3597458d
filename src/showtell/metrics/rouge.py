"""ROUGE-L as coco-caption computes it: from the best precision and the best recall over the references, β = 1.2.

Lin, "ROUGE: A Package for Automatic Evaluation of Summaries", 2004, section 3.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np

from showtell.metrics.ngrams import Corpus, Ints

_BETA_SQUARED = 1.2**2
_CHUNK = 512  # pairs of captions compared at a time: flat memory


@dataclass(frozen=True, slots=True)
class Rouge:
    """ROUGE-L as fractions: the mean, and each image's."""

    corpus: float
    each: list[float]


def rouge_l(candidates: Sequence[str], references: Sequence[Sequence[str]]) -> Rouge:
    """ROUGE-L of tokenised candidates against tokenised references. `DataError` for an empty corpus."""
    return rouge_counted(Corpus.of(candidates, references))


def rouge_counted(corpus: Corpus) -> Rouge:
    """`rouge_l` of captions already counted."""
    images, owner = corpus.images, corpus.image[corpus.images :]
    lengths = np.maximum(1, corpus.counted.lengths)  # to coco-caption, an empty caption is one empty word
    common = _common(corpus)
    precision, recall = np.zeros(images), np.zeros(images)
    np.maximum.at(precision, owner, common / lengths[owner])
    np.maximum.at(recall, owner, common / lengths[images:])
    found = precision > 0
    below = np.where(found, recall + _BETA_SQUARED * precision, 1.0)
    each = np.where(found, (1 + _BETA_SQUARED) * precision * recall / below, 0.0)
    return Rouge(float(each.mean()), each.tolist())


def _common(corpus: Corpus) -> Ints:
    """(references,): the length of the longest common subsequence of each reference and its image's candidate."""
    images = corpus.images
    rows = _padded(corpus.counted.words, corpus.counted.lengths, corpus.counted.starts)
    owner = corpus.image[images:]
    found = np.zeros(len(owner), dtype=np.int64)
    lengths = np.maximum(1, corpus.counted.lengths)
    order = np.lexsort((lengths[images:], lengths[owner]))  # similar lengths together: little padding
    for start in range(0, len(owner), _CHUNK):
        pair = order[start : start + _CHUNK]
        spoken, written = owner[pair], images + pair
        width, height = int(lengths[spoken].max()), int(lengths[written].max())
        found[pair] = _subsequences(rows[spoken, :width], rows[written, :height])
    return found


def _padded(words: Ints, lengths: Ints, starts: Ints) -> Ints:
    """(C,T) words, -1 after a caption's end; an empty caption is one word, -2."""
    column = np.arange(int(lengths.max(initial=1)))
    index = np.minimum(starts[:, None] + column, max(0, len(words) - 1))
    values = words[index] if len(words) else np.zeros(index.shape, dtype=np.int64)
    padded = np.where(column < lengths[:, None], values, -1)
    padded[lengths == 0, :1] = -2
    return padded


def _subsequences(first: Ints, second: Ints) -> Ints:
    """(P,): the lengths of the longest common subsequences of rows of (P,S) and (P,T); -1 matches nothing.

    One row of the table at a time: best(i,t) is the largest of best(i-1,t), best(i-1,t-1)+1 at a match, best(i,t-1).
    """
    best = np.zeros((len(first), second.shape[1] + 1), dtype=np.int16)
    for word in first.T:
        matches = (word[:, None] == second) & (word[:, None] != -1)
        np.maximum(best[:, 1:], (best[:, :-1] + 1) * matches, out=best[:, 1:])
        np.maximum.accumulate(best, axis=1, out=best)
    return best[:, -1].astype(np.int64)
