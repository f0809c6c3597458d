"""Rewards on token ids are the metrics on strings, whichever images a batch has and however often."""

from __future__ import annotations

import subprocess
import sys

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from showtell.errors import DataError
from showtell.metrics import bleu, cider_d
from showtell.metrics.reward import Reward

END = 0
CLOSE = {"rel": 0, "abs": 1e-12}


def text(ids: list[int]) -> str:
    return " ".join(f"w{i}" for i in ids)


captions = st.lists(st.integers(1, 6), max_size=8).map(lambda ids: [*ids, END])
corpora = st.integers(1, 6).flatmap(
    lambda images: st.tuples(
        st.lists(st.lists(captions, min_size=1, max_size=4), min_size=images, max_size=images),
        st.lists(st.lists(st.integers(1, 9), max_size=9), min_size=images, max_size=images),
    )
)


@pytest.mark.slow
@settings(max_examples=200, deadline=None)
@given(corpora)
def test_the_metrics_on_strings_say_the_same(corpus: tuple[list[list[list[int]]], list[list[int]]]) -> None:
    references, candidates = corpus
    reward = Reward.from_references(references)
    images = list(range(len(references)))
    spoken, written = [text(c) for c in candidates], [[text(r) for r in rows] for rows in references]
    assert reward.cider_d(candidates, images).tolist() == pytest.approx(cider_d(spoken, written).each, **CLOSE)
    assert reward.bleu_4(candidates, images).tolist() == pytest.approx(
        [row[3] for row in bleu(spoken, written).each], **CLOSE
    )


def test_a_batch_has_any_images_any_number_of_times() -> None:
    draw = np.random.default_rng(0)
    references = [[draw.integers(1, 20, size=draw.integers(3, 12)).tolist() for _ in range(5)] for _ in range(40)]
    reward = Reward.from_references(references, end=END)
    images = draw.integers(0, 40, size=64)
    candidates = [
        references[i][k] if k < 4 else [*references[i][0][:4], 99]
        for i, k in zip(images, draw.integers(0, 5, 64), strict=True)
    ]
    written = [[text([*r, END]) for r in rows] for rows in references]
    for score, metric in (
        (reward.cider_d, lambda c: cider_d(c, written).each),
        (reward.bleu_4, lambda c: [r[3] for r in bleu(c, written).each]),
    ):
        found = score(candidates, images)
        for image, candidate, value in zip(images, candidates, found, strict=True):
            others = [rows[0] for rows in written]
            others[image] = text(candidate)
            assert value == pytest.approx(metric(others)[image], **CLOSE)


def test_padded_rows_count_up_to_their_end() -> None:
    references = [[[1, 2, 3], [1, 2, 4, END]], [[5, 6], [5, 7]]]
    reward = Reward.from_references(references, end=END)
    rows = np.array([[1, 2, 3, END, 9], [5, 6, END, END, 5], [5, 6, 7, 7, 7]], dtype=np.int32)
    images = np.array([0, 1, 1])
    ragged = [[1, 2, 3, END], [5, 6, END], [5, 6, 7, 7, 7]]
    assert reward.cider_d(rows, images).tolist() == reward.cider_d(ragged, images).tolist()
    assert reward.bleu_4(rows, images).tolist() == reward.bleu_4(ragged, images).tolist()
    whole = Reward.from_references([[[1, 2, 3, END], [1, 2, 4, END]], [[5, 6, END], [5, 7, END]]])
    assert reward.cider_d(rows, images).tolist() == whole.cider_d(ragged, images).tolist()


def test_the_end_is_worth_something() -> None:
    reward = Reward.from_references([[[1, 2, 3, 4]], [[5, 6, 7]]], end=END)
    whole, cut = reward.cider_d([[1, 2, 3, 4, END], [1, 2, 3, 4]], [0, 0])
    assert whole == pytest.approx(10.0)
    assert cut < whole


def test_no_candidate_is_no_score() -> None:
    reward = Reward.from_references([[[1]], [[2]]], end=END)
    assert reward.cider_d([], []).shape == (0,)
    assert reward.cider_d([[], [END]], [0, 1]).shape == (2,)


def test_references_are_needed() -> None:
    with pytest.raises(DataError, match="image 1 has no reference"):
        Reward.from_references([[[1]], []])
    with pytest.raises(DataError, match="no references"):
        Reward.from_references([])


def test_torch_stays_out() -> None:
    program = "import sys, showtell.metrics.reward; sys.exit('torch' in sys.modules)"
    subprocess.run([sys.executable, "-c", program], check=True)
