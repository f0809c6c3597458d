"""Which options of captioning go together, in the spelling of whoever asks."""

from __future__ import annotations

import re
from typing import Any

import numpy as np
import pytest

from showtell.commands.several import spelt
from showtell.decoding import Sampling, Wishes, sampling_asked
from showtell.errors import DataError


def test_options_as_given_say_how_captions_are_sampled() -> None:
    assert sampling_asked(Wishes(required=("dog",), consensus=5, length_penalty=0.0), n=3, beam=3) is None
    assert sampling_asked(Wishes(diverse=True, diversity=0.0), n=2) is None
    assert sampling_asked(Wishes(), n=3, sample=True) == Sampling()
    assert sampling_asked(Wishes(), n=1, sample=True, seed=0, top_p=0.5) == Sampling(top_p=0.5, seed=0)
    kept = Wishes(begins="a", min_tokens=3, max_tokens=5, no_repeat_ngram=2, views=4, consensus=0)
    assert sampling_asked(kept, n=1, sample=True) == Sampling(), "lengths, beginnings, repetition and views are met"


@pytest.mark.parametrize(
    ("wishes", "given", "said"),
    [
        (Wishes(), {"n": 3, "beam": 2}, "--n is 3 and --beam 2, expected a beam of at least n"),
        (Wishes(diverse=True), {"n": 1}, "--diverse captions are several and --n is 1, expected 2 or more"),
        (Wishes(diversity=0.0), {"n": 2}, "--diversity goes with --diverse, which is missing"),
        (Wishes(), {"n": 1, "seed": 0}, "--seed goes with --sample, which is missing"),
        (Wishes(), {"n": 1, "seed": 0, "top_p": 0.5}, "--top-p, --seed go with --sample, which is missing"),
        (Wishes(), {"n": 1, "sample": True, "beam": 1}, "--beam searches, and --sample draws"),
        (Wishes(length_penalty=0.0), {"n": 1, "sample": True}, "--length-penalty searches, and --sample draws"),
        (Wishes(consensus=5), {"n": 1, "sample": True}, "--consensus searches, and --sample draws"),
        (
            Wishes(required=("a",), excluded=("b",)),
            {"n": 1, "sample": True},
            "--with, --without search, and --sample draws; leave out one or the other",
        ),
    ],
)
def test_options_that_do_not_go_together(wishes: Wishes, given: dict[str, Any], said: str) -> None:
    with pytest.raises(DataError, match=re.escape(said)):
        sampling_asked(wishes, **given, spelt=spelt)
    with pytest.raises(DataError, match=re.escape(said.replace("--", "").replace("-", "_"))):
        sampling_asked(wishes, **given)


@pytest.mark.parametrize(
    ("kind", "given", "said"),
    [
        (Wishes, {"required": "ball"}, "required is 'ball'; expected a list of texts, such as ['dog', 'red|green']"),
        (Wishes, {"excluded": ("a", 1)}, "excluded is ('a', 1); expected a list of texts"),
        (Wishes, {"required": None}, "required is None; expected a list of texts"),
        (
            Wishes,
            {"required": np.array(["a", "b"])},
            "required is array(['a', 'b'], dtype='<U1'); expected a list of texts",
        ),
        (Wishes, {"excluded": {"a": 1}}, "excluded is {'a': 1}; expected a list of texts"),
        (Wishes, {"views": True}, "views is True; expected a whole number"),
        (Wishes, {"length_penalty": True}, "length_penalty is True; expected a number"),
        (Sampling, {"seed": True}, "seed is True; expected a whole number"),
        (Wishes, {"begins": ("a", "man")}, "begins is ('a', 'man'); expected text"),
        (Wishes, {"consensus": 2.5}, "consensus is 2.5; expected a whole number"),
        (Wishes, {"min_tokens": None}, "min_tokens is None; expected a whole number"),
        (Wishes, {"max_tokens": "9"}, "max_tokens is '9'; expected a whole number"),
        (Wishes, {"length_penalty": "high"}, "length_penalty is 'high'; expected a number"),
        (Sampling, {"temperature": "hot"}, "temperature is 'hot'; expected a number"),
        (Sampling, {"seed": 1.5}, "seed is 1.5; expected a whole number"),
    ],
)
def test_values_of_another_type_are_refused(kind: type, given: dict[str, Any], said: str) -> None:
    with pytest.raises(DataError, match=re.escape(said)):
        kind(**given)


def test_lists_and_numpys_integers_are_taken() -> None:
    assert Wishes(["dog"], ["cat"], views=np.int64(2)).views == 2  # type: ignore[arg-type]
    assert Sampling(seed=np.int64(3)).seed == 3  # type: ignore[arg-type]


def test_an_image_is_drawn_with_the_seed_of_its_place() -> None:
    """Numbers that people may have kept captions of."""
    assert [Sampling(seed=seed).seed_of(place) for seed, place in ((0, 0), (0, 1), (3, 0))] == [
        1471817666,
        3246093991,
        2228558388,
    ]
