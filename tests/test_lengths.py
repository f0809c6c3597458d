"""Captions as long as wished, that begin as wished: what brute force finds, with torch and without."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from torch import Tensor

from showtell import array_search
from showtell.captioning import measured
from showtell.decoding import MOST_TOKENS, Sampling, SearchOptions, Wishes
from showtell.errors import DataError
from showtell.inference import Captioner
from showtell.search import beam_search, sample
from tests.test_search import BANNED, END, START, State, Toy, every_caption

WISHES = [
    {"min_length": 3},
    {"closing": True, "max_length": 3},
    {"beginning": (5,)},
    {"beginning": (4, 4), "min_length": 3, "closing": True},
    {"beginning": (4, 5), "no_repeat_ngram": 1},
    {"beginning": (4,), "continuing": (5,)},
]


def images(seed: int) -> Tensor:
    return torch.randn(3, 2, 4, generator=torch.Generator().manual_seed(seed))


def meets(words: tuple[int, ...], options: SearchOptions) -> bool:
    begun = len(options.beginning)
    repeats = options.no_repeat_ngram == 1 and len(set(words)) < len(words)
    goes_on = begun and words[begun : begun + 1] and words[begun] in options.continuing
    return words[:begun] == options.beginning and len(words) >= options.min_length and not repeats and not goes_on


def arrays(toy: Toy, features: Tensor) -> tuple[Any, Any, Any]:
    """The toy as `array_search` takes it: its step, Memory and first State."""

    def step(tokens: Any, state: Any, memory: Any) -> Any:
        said = toy.step(torch.from_numpy(tokens), State(torch.from_numpy(state[0])), toy_memory(memory))
        return (
            said.logits.log_softmax(-1).numpy(),
            [said.state.hidden.numpy()],
            np.zeros((*tokens.shape, 0), np.float32),
        )

    def toy_memory(memory: Any) -> Any:
        return type(toy.prepare(features))(torch.from_numpy(memory[0]))

    memory = toy.prepare(features)
    return step, [memory.image.numpy()], [toy.init_state(memory, 1).hidden.numpy()]


@pytest.mark.parametrize("wished", WISHES)
@pytest.mark.parametrize("seed", range(3))
def test_searches_find_what_brute_force_does(seed: int, wished: dict[str, Any]) -> None:
    toy, features = Toy(seed), images(seed)
    options = SearchOptions(**{"beam": 200, "max_length": 4, "n": 3, **wished})
    ids: dict[str, Any] = {"start_id": START, "end_id": END, "banned": BANNED}
    found = beam_search(toy, features, options=options, **ids)
    without_torch = array_search.beam_search(*arrays(toy, features), options=options, **ids)
    for image, (hypotheses, others) in enumerate(zip(found, without_torch, strict=True)):
        every = every_caption(toy, features[image : image + 1], options)
        best = [(score, words) for score, words in every if meets(words, options)][:3]
        assert best
        assert [h.tokens for h in hypotheses if h.finished] == [words for _, words in best]
        assert [h.score for h in hypotheses if h.finished] == pytest.approx([score for score, _ in best], abs=1e-5)
        assert [h.tokens for h in others] == [h.tokens for h in hypotheses]


@pytest.mark.parametrize("wished", WISHES[:4])
def test_draws_keep_to_it(wished: dict[str, Any]) -> None:
    toy, features = Toy(0), images(0)
    options = SearchOptions(**{"n": 200, "max_length": 4, "temperature": 2.0, **wished})
    ids: dict[str, Any] = {"start_id": START, "end_id": END, "banned": BANNED}
    generators = [np.random.default_rng(seed) for seed in range(3)]
    drawn = array_search.sample(*arrays(toy, features), options=options, generators=generators, **ids)
    for found in (sample(toy, features, options=options, **ids), drawn):
        for hypotheses in found:
            assert all(meets(h.tokens, options) for h in hypotheses)
            assert all(h.finished for h in hypotheses) or not options.closing
            assert len({h.tokens for h in hypotheses}) > 1


def test_a_beam_that_is_narrow_ends_in_time() -> None:
    options = SearchOptions(beam=2, max_length=3, closing=True)
    for seed in range(5):
        found = beam_search(Toy(seed), images(seed), options=options, start_id=START, end_id=END, banned=BANNED)
        assert all(h.finished and len(h.tokens) <= 2 for (h,) in found)


def test_captions_are_as_long_as_wished_and_begin_as_wished(tiny_bundle: Path, scenes: Path) -> None:
    captioner = Captioner.load(tiny_bundle)
    photos = sorted(scenes.rglob("*.png"))[:3]
    first, second = (captioner.bundle.vocabulary.listed()[i] for i in (4, 5))
    wishes = Wishes(begins=f"{first} {second}", min_length=4, max_length=4)
    for sampling in (None, Sampling(seed=3)):
        for caption in captioner.caption(photos, wishes=wishes, sampling=sampling):
            assert [word.text for word in caption.words][:2] == [first, second]
            assert len(caption.words) == 4 and caption.finished
    both = Wishes(begins=f"{first} {second}", required=(f"{first} {second}",), max_length=3, views=2)
    assert all(c.text.startswith(f"{first} {second}") and c.finished for c in captioner.caption(photos, wishes=both))
    with pytest.raises(DataError, match="does not have 'xyzzy'"):
        captioner.caption(photos, wishes=Wishes(begins="xyzzy"))
    with pytest.raises(DataError, match="2 tokens, and captions end after 1"):
        captioner.caption(photos, wishes=Wishes(begins=f"{first} {second}", max_length=1))
    with pytest.raises(DataError, match="searched for"):
        captioner.caption(photos, wishes=Wishes(length_penalty=0.5), sampling=Sampling())


def test_a_wish_replaces_the_bundles_own() -> None:
    own = SearchOptions(max_length=10, length_penalty=1.0, no_repeat_ngram=2)
    assert measured(own, Wishes()) == own
    assert measured(own, Wishes(length_penalty=0.0, no_repeat_ngram=0)) == replace(
        own, length_penalty=0.0, no_repeat_ngram=0
    )
    assert measured(own, Wishes(max_length=4)) == replace(own, max_length=5, closing=True)
    assert measured(own, Wishes(min_length=9)).min_length == 9
    with pytest.raises(DataError, match="10 words or more are asked for, and they end after 9"):
        measured(own, Wishes(min_length=10))


@pytest.mark.parametrize(
    ("values", "sentence"),
    [
        ({"max_length": 0}, f"longest caption of 0 words: expected 1 to {MOST_TOKENS}"),
        ({"min_length": 5, "max_length": 4}, "5 words at least: expected 0 to 4"),
        ({"min_length": -1}, "-1 words at least"),
        ({"length_penalty": -0.5}, "length normalisation is -0.5"),
        ({"length_penalty": float("nan")}, "length normalisation is nan"),
        ({"no_repeat_ngram": -1}, "no -1 words twice"),
    ],
)
def test_lengths_are_checked(values: dict[str, Any], sentence: str) -> None:
    with pytest.raises(DataError, match=sentence):
        Wishes(**values)
