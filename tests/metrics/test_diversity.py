"""Several captions an image: by hand, against brute force, and what holds for any captions."""

from __future__ import annotations

import itertools
import math
import random
from collections import Counter

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from showtell.errors import DataError
from showtell.metrics import bleu, cider_d, evaluate, leave_one_out, score_people, score_sets
from showtell.metrics import diversity as module
from showtell.metrics.diversity import div_n, mutual_bleu, self_cider, share_distinct

WORDS = ["a", "the", "dog", "cat", "runs", "sits", "on", "grass", "water", "red"]
REFERENCES = [
    ["a dog runs on the grass", "the red dog sits on grass", "a dog on water"],
    ["a cat sits on the red grass", "the cat runs", "a cat on the water"],
    ["the water runs red on grass", "a red water", "grass on the water"],
]
SETS = [
    ["a dog runs on grass", "the dog sits", "a dog runs on the water"],
    ["a cat", "a cat sits on the grass", "a cat sits on the grass"],
    ["red water on the grass", "the dog runs on water", "grass"],
]

captions = st.lists(st.sampled_from(WORDS), max_size=8).map(" ".join)
said = st.lists(st.lists(captions, min_size=3, max_size=3), min_size=3, max_size=3)


def test_distinct_captions_and_ngrams_by_hand() -> None:
    sets = [["a dog", "a dog", "a cat"], ["the dog runs", "dog", "cat"]]
    assert share_distinct(sets) == (2 / 3 + 1) / 2
    assert div_n(sets, 1) == pytest.approx((3 / 6 + 4 / 5) / 2)  # a, dog, cat; the, dog, runs, cat
    assert div_n(sets, 2) == pytest.approx((2 / 6 + 2 / 5) / 2)  # of words, not of bigrams
    assert div_n([["", ""], ["a b", "a"]], 1) == (0 + 2 / 3) / 2


def test_mutual_bleu_by_hand() -> None:
    # "a b c d e" and "a b c d f": 4 of 5 words, 3 of 4 pairs, 2 of 3 triples and 1 of 2 quadruples are the other's.
    assert mutual_bleu([["a b c d e", "a b c d f"]]) == pytest.approx((4 / 5 * 3 / 4 * 2 / 3 * 1 / 2) ** 0.25)


def test_self_cider_by_hand() -> None:
    references = [["x1 x2 x3 x4"], ["y1 y2 y3 y4"]]
    (apart, _) = self_cider([["x1 x2 x3 x4", "x5 x6 x7 x8"], ["y1", "y1"]], references)
    assert apart == pytest.approx(1)  # nothing shared: K is the identity
    # Words of weight log 2 all: with n = 1 … 4 the cosines are 3/4, 2/3, 1/2 and 0, so K = [[1, k], [k, 1]].
    (alike, same) = self_cider([["x1 x2 x3 x4", "x1 x2 x3 x5"], ["y1 y2", "y1 y2"]], references)
    k = (3 / 4 + 2 / 3 + 1 / 2) / 4
    roots = math.sqrt(1 + k), math.sqrt(1 - k)
    assert alike == pytest.approx(-math.log2(roots[0] / sum(roots)))
    assert same == pytest.approx(0)


def naive_self_cider(sets: list[list[str]], references: list[list[str]]) -> list[float]:
    def ngrams(caption: str, n: int) -> Counter[tuple[str, ...]]:
        words = caption.split()
        return Counter(tuple(words[i : i + n]) for i in range(len(words) - n + 1))

    def weight(gram: tuple[str, ...]) -> float:
        having = sum(any(gram in ngrams(r, len(gram)) for r in written) for written in references)
        return math.log(len(references)) - math.log(max(1, having))

    def cosine(one: str, other: str, n: int) -> float:
        first, second = ({g: t * weight(g) for g, t in ngrams(c, n).items()} for c in (one, other))
        norms = math.hypot(*first.values()) * math.hypot(*second.values())
        return sum(v * second.get(g, 0) for g, v in first.items()) / norms if norms else 0.0

    found = []
    for spoken in sets:
        kernel = [[sum(cosine(a, b, n) for n in (1, 2, 3, 4)) / 4 for b in spoken] for a in spoken]
        roots = np.linalg.svd(np.array(kernel), compute_uv=False) ** 0.5
        found.append(-math.log(roots.max() / roots.sum()) / math.log(len(spoken)) if roots.max() else 0.0)
    return found


@pytest.mark.parametrize("seed", range(4))
def test_self_cider_is_the_naive_one(seed: int) -> None:
    draw = random.Random(seed)
    sets = [[" ".join(draw.choices(WORDS, k=draw.randint(0, 7))) for _ in range(4)] for _ in range(3)]
    assert self_cider(sets, REFERENCES) == pytest.approx(naive_self_cider(sets, REFERENCES), abs=1e-6)


@pytest.mark.parametrize("at_once", [1, 7, 100_000])
def test_mutual_bleu_is_that_of_one_corpus(at_once: int, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(module, "_AT_ONCE", at_once)
    pairs = [(c, [o for k, o in enumerate(each) if k != i]) for each in SETS for i, c in enumerate(each)]
    assert mutual_bleu(SETS) == pytest.approx(bleu(*zip(*pairs, strict=True)).corpus[3])


def test_scores_are_those_of_each_caption_by_itself() -> None:
    found = score_sets(SETS, REFERENCES)
    reports = [evaluate([captions[k] for captions in SETS], REFERENCES) for k in range(3)]
    for name, ranked in (("cider", found.cider), ("bleu_4", found.bleu_4)):
        each = np.array([report.each[name] for report in reports])  # (captions,images)
        assert ranked.first == pytest.approx(each[0].mean())
        assert ranked.mean == pytest.approx(each.mean())
        choices = itertools.product(range(3), repeat=3)
        assert ranked.best == pytest.approx(max(each[list(c), [0, 1, 2]].mean() for c in choices))
    assert found.cider.first == pytest.approx(reports[0].scores["cider"])
    assert found.n == 3


def test_people_are_scored_against_the_others() -> None:
    people = score_people(REFERENCES, 5)
    assert people is not None and people.n == 3
    assert people.cider.mean == pytest.approx(leave_one_out(REFERENCES)["cider"])
    rest = [[r for k, r in enumerate(written) if k != 0] for written in REFERENCES]
    assert people.cider.first == pytest.approx(cider_d([written[0] for written in REFERENCES], rest).corpus)
    assert people.mbleu_4 == pytest.approx(mutual_bleu(REFERENCES))
    two = score_people(REFERENCES, 2)
    assert two is not None and two.n == 2 and two.div_1 == div_n([written[:2] for written in REFERENCES], 1)
    assert score_people([["a dog"], ["a cat"]], 5) is None
    assert score_people([*REFERENCES, ["alone"]], 3) == people


def test_raw_captions_are_compared_as_tokens() -> None:
    assert score_sets([["A dog.", "a dog"]] * 2, REFERENCES[:2]).distinct == 0.5


@settings(max_examples=20, deadline=None)
@given(st.lists(st.lists(st.sampled_from(WORDS), min_size=4, max_size=8).map(" ".join), min_size=3, max_size=3))
def test_equal_captions_do_not_differ(one_each: list[str]) -> None:
    found = score_sets([[caption] * 4 for caption in one_each], REFERENCES)
    assert found.distinct == 1 / 4
    assert found.mbleu_4 == pytest.approx(1)
    assert found.self_cider == pytest.approx(0, abs=1e-6)
    assert found.cider.first == pytest.approx(found.cider.mean) and found.cider.best == found.cider.first


@settings(max_examples=20, deadline=None)
@given(said, st.randoms(use_true_random=False))
def test_what_holds_for_any_captions(sets: list[list[str]], order: random.Random) -> None:
    found = score_sets(sets, REFERENCES)
    for ranked in (found.cider, found.bleu_4):
        assert ranked.best >= ranked.mean - 1e-12
        assert ranked.best >= ranked.first - 1e-12
    for share in (found.distinct, found.div_1, found.div_2, found.self_cider):
        assert 0 <= share <= 1 + 1e-9
    assert found.distinct >= 1 / 3
    mixed = score_sets([order.sample(captions, 3) for captions in sets], REFERENCES)
    for name in ("distinct", "div_1", "div_2", "mbleu_4", "self_cider"):
        assert getattr(mixed, name) == pytest.approx(getattr(found, name), abs=1e-6), name
    for one, other in ((found.cider, mixed.cider), (found.bleu_4, mixed.bleu_4)):
        assert (one.mean, one.best) == pytest.approx((other.mean, other.best))


def test_sets_that_cannot_be_compared_are_refused() -> None:
    for sets, words in (
        ([], "expected at least one"),
        ([["a", "b"], ["a"], ["a", "b"]], "image 1 has 1 captions"),
        ([["a", "b"], ["a", "b", "c"], ["a", "b"]], "sets of 2 to 3"),
        ([["a", "b"]], "1 candidates and references for 3"),
    ):
        with pytest.raises(DataError, match=words):
            score_sets(sets, REFERENCES)


def test_one_image_has_no_self_cider() -> None:
    assert self_cider([["a dog runs", "the cat sits"]], [["a dog"]]) == [0.0]
