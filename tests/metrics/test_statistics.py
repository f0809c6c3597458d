"""What captions are like, and what people score."""

from __future__ import annotations

import pytest

from showtell.errors import DataError
from showtell.metrics import describe, evaluate, leave_one_out

REFERENCES = [
    ["a red dog runs", "the dog runs on grass", "a dog on green grass"],
    ["two cats sleep", "cats sleep on a bed", "the two cats on a bed sleep"],
]


def test_captions_are_described_as_tokens() -> None:
    found = describe(["A dog runs.", "a dog runs", "a cat on a"], ["a dog runs", "the cat sits on grass"] * 20)
    assert (found.captions, found.vocabulary) == (3, 5)
    assert found.mean_length == pytest.approx(10 / 3)
    assert found.distinct == pytest.approx(2 / 3)
    assert (found.most_frequent, found.most_frequent_share) == ("a dog runs", pytest.approx(2 / 3))
    assert found.copies == pytest.approx(2 / 3)
    assert found.unfinished == pytest.approx(1 / 3)  # "a" is never last
    with pytest.raises(DataError, match="no captions"):
        describe([], ["a dog runs"])


def test_the_most_frequent_caption_is_written_as_people_do() -> None:
    assert describe(["两只狗。", "两只狗"], ["一只猫"]).most_frequent == "两只狗"


def test_a_rare_word_may_end_a_caption_and_a_slip_does_not_excuse_a_frequent_one() -> None:
    training = ["a dog on a lawn with a cat"] * 200 + ["a dog on a"]
    shares = [
        describe([caption], training).unfinished for caption in ("a dog on a", "a wombat", "a dog on a lawn", "a cat")
    ]
    assert shares == [1.0, 0.0, 1.0, 0.0]  # "lawn" is seen often and never last


def test_people_are_scored_against_the_other_people() -> None:
    found = leave_one_out(REFERENCES)
    rounds = [evaluate([r[k] for r in REFERENCES], [r[:k] + r[k + 1 :] for r in REFERENCES]).scores for k in range(3)]
    assert found == {name: pytest.approx(sum(r[name] for r in rounds) / 3) for name in rounds[0]}


def test_a_captioner_that_copies_a_reference_loses_it_once_in_three() -> None:
    copied = [captions[0] for captions in REFERENCES]
    found = leave_one_out(REFERENCES, copied)
    assert leave_one_out(REFERENCES)["bleu_4"] < found["bleu_4"] < 1.0


def test_one_reference_is_too_few() -> None:
    with pytest.raises(DataError, match="no image has two"):
        leave_one_out([["a dog"], ["a cat"]])
