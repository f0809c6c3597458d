"""Captions as long as wished, that begin as wished: what brute force finds, with torch and without."""

from __future__ import annotations

import itertools
import re
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from torch import Tensor

from showtell import array_search
from showtell.bundle import build_encoder, build_model, save_bundle
from showtell.captioner import Captioner
from showtell.captioning import measured
from showtell.data.vocabulary import Vocabulary
from showtell.decoding import MOST_TOKENS, Sampling, SearchOptions, Wishes
from showtell.errors import DataError
from showtell.evaluation import evaluate_captioner
from showtell.recipe import load_recipe
from showtell.search import beam_search, sample
from tests.test_search import BANNED, END, START, State, Toy, every_caption

WISHES = [
    {"min_length": 3},
    {"closing": True, "max_length": 3},
    {"beginning": (5,)},
    {"beginning": (4, 4), "min_length": 3, "closing": True},
    {"beginning": (4, 5), "no_repeat_ngram": 1},
    {"beginning": (4,), "continuing": (5,)},
    {"beginning": (4, 4), "no_repeat_ngram": 1},
    {"closing": True, "no_repeat_ngram": 2},
]


def images(seed: int) -> Tensor:
    return torch.randn(3, 2, 4, generator=torch.Generator().manual_seed(seed))


def meets(words: tuple[int, ...], options: SearchOptions) -> bool:
    begun = len(options.beginning)
    size = options.no_repeat_ngram
    grams = [words[i : i + size] for i in range(len(words) - size + 1)] if size else []
    repeats = any(gram in grams[:i] for i, gram in enumerate(grams) if i + size > begun)  # the beginning may itself
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


@pytest.mark.parametrize("penalty", [0.0, 1.0])
@pytest.mark.parametrize("beam", [1, 3])
def test_narrow_searches_find_the_same_with_torch_and_without(beam: int, penalty: float) -> None:
    ids: dict[str, Any] = {"start_id": START, "end_id": END, "banned": BANNED}
    options = SearchOptions(beam=beam, max_length=6, length_penalty=penalty)
    for seed in range(8):
        toy, features = Toy(seed), 2 * images(seed)
        found = beam_search(toy, features, options=options, **ids)
        without_torch = array_search.beam_search(*arrays(toy, features), options=options, **ids)
        assert [[h.tokens for h in row] for row in without_torch] == [[h.tokens for h in row] for row in found]


@pytest.mark.filterwarnings("error")
@pytest.mark.parametrize("wished", WISHES)
def test_draws_keep_to_it(wished: dict[str, Any]) -> None:
    toy, features = Toy(0), images(0)
    options = SearchOptions(**{"n": 200, "max_length": 4, "temperature": 2.0, **wished})
    ids: dict[str, Any] = {"start_id": START, "end_id": END, "banned": BANNED}
    generators = [np.random.default_rng(seed) for seed in range(3)]
    drawn = array_search.sample(*arrays(toy, features), options=options, generators=generators, **ids)
    for found in (sample(toy, features, options=options, **ids), drawn):
        for image, hypotheses in enumerate(found):
            every = every_caption(toy, features[image : image + 1], options)
            possible = {words for _, words in every if meets(words, options)}
            assert all(meets(h.tokens, options) for h in hypotheses)
            assert all(h.finished for h in hypotheses) or not options.closing
            assert len({h.tokens for h in hypotheses}) > 1 or len(possible) == 1


def test_the_smallest_share_draws_the_likeliest_words() -> None:
    toy, features = Toy(0), images(0)
    ids: dict[str, Any] = {"start_id": START, "end_id": END, "banned": BANNED}
    coldest = sample(toy, features, options=SearchOptions(max_length=4, temperature=1e-4), **ids)
    options = SearchOptions(max_length=4, top_p=1e-300)
    generators = [np.random.default_rng(seed) for seed in range(3)]
    drawn = array_search.sample(*arrays(toy, features), options=options, generators=generators, **ids)
    for found in (sample(toy, features, options=options, **ids), drawn):
        assert [best.tokens for (best,) in found] == [best.tokens for (best,) in coldest]


def test_draws_that_may_say_no_more_are_refused() -> None:
    toy, features = Toy(0), images(0)
    options = SearchOptions(n=2, max_length=6, min_length=4, no_repeat_ngram=1)  # of two words
    ids: dict[str, Any] = {"start_id": START, "end_id": END, "banned": BANNED}
    generators = [np.random.default_rng(seed) for seed in range(3)]
    with pytest.raises(DataError, match="without the same word twice was found"):
        sample(toy, features, options=options, **ids)
    with pytest.raises(DataError, match="without the same word twice was found"):
        array_search.sample(*arrays(toy, features), options=options, generators=generators, **ids)


@pytest.mark.parametrize("ways", [{"required": (((5,),),)}, {"forbidden": ((5, 5),)}, {"groups": 2, "diversity": 0.0}])
def test_a_beginning_goes_with_other_wishes(ways: dict[str, Any]) -> None:
    for seed in range(3):
        toy, features = Toy(seed), images(seed)
        options = SearchOptions(beam=200, max_length=4, beginning=(4, 4), closing=True, n=2, **ways)
        found = beam_search(toy, features, options=options, start_id=START, end_id=END, banned=BANNED)
        for image, hypotheses in enumerate(found):
            every = every_caption(toy, features[image : image + 1], options)
            fits = [words for _, words in every if meets(words, options)]
            if "required" in ways:
                fits = [words for words in fits if 5 in words]
            if "forbidden" in ways:
                fits = [words for words in fits if (5, 5) not in itertools.pairwise(words)]
            assert hypotheses[0].tokens == fits[0]


def test_a_beam_that_is_narrow_ends_in_time() -> None:
    options = SearchOptions(beam=2, max_length=3, closing=True)
    for seed in range(5):
        found = beam_search(Toy(seed), images(seed), options=options, start_id=START, end_id=END, banned=BANNED)
        assert all(h.finished and len(h.tokens) <= 2 for (h,) in found)


def test_captions_are_as_long_as_wished_and_begin_as_wished(tiny_bundle: Path, scenes: Path) -> None:
    captioner = Captioner.load(tiny_bundle)
    photos = sorted(scenes.rglob("*.png"))[:3]
    first, second = (captioner.engine.bundle.vocabulary.listed()[i] for i in (4, 5))
    wishes = Wishes(begins=f"{first} {second}", min_tokens=4, max_tokens=4)
    for sampling in (None, Sampling(seed=3)):
        for caption in captioner.caption(photos, wishes=wishes, sampling=sampling):
            assert [word.text for word in caption.words][:2] == [first, second]
            assert len(caption.words) == 4 and caption.finished
    both = Wishes(begins=f"{first} {second}", required=(f"{first} {second}",), max_tokens=3, views=2)
    assert all(c.text.startswith(f"{first} {second}") and c.finished for c in captioner.caption(photos, wishes=both))
    with pytest.raises(DataError, match="does not have 'xyzzy'"):
        captioner.caption(photos, wishes=Wishes(begins="xyzzy"))
    with pytest.raises(DataError, match="2 tokens, and captions end after 1"):
        captioner.caption(photos, wishes=Wishes(begins=f"{first} {second}", max_tokens=1))
    with pytest.raises(DataError, match="searched for"):
        captioner.caption(photos, wishes=Wishes(length_penalty=0.5), sampling=Sampling())


def test_what_cannot_be_met_is_refused_before_the_search(tiny_bundle: Path, scenes: Path) -> None:
    captioner = Captioner.load(tiny_bundle)
    first, second, third = captioner.engine.bundle.vocabulary.listed()[4:7]
    with pytest.raises(DataError, match=f"'{first} {second}' begins with a word that must not occur"):
        captioner.options(wishes=Wishes(begins=f"{first} {second}", excluded=(second,)))
    three = Wishes(begins=f"{first} {first}", required=(first, f"{second} {third}"), max_tokens=3)
    words = f"^'{second} {third}' after '{first} {first}' takes 4 tokens in all, and captions end after 3;"
    with pytest.raises(DataError, match=words):
        captioner.options(wishes=three)
    for begins in (f"{first} {second}", f"{second} {first}"):  # holds one of them, ends with a part of it
        held = Wishes(begins=begins, required=(f"{first} {second}", third), max_tokens=4)
        captioner.options(wishes=held)


def test_a_longest_caption_is_searched_for_with_more_beams(tiny_bundle: Path) -> None:
    captioner = Captioner.load(tiny_bundle)
    assert captioner.options(wishes=Wishes(max_tokens=5)).beam == 20
    assert captioner.options(wishes=Wishes(max_tokens=5), beam=3).beam == 3
    assert captioner.options(wishes=Wishes(max_tokens=5), n=30).beam == 30
    assert captioner.options(wishes=Wishes(min_tokens=2)).beam == captioner.defaults.beam


def test_the_protocol_names_what_was_run(tiny_bundle: Path, scenes: Path) -> None:
    begins = Captioner.load(tiny_bundle).engine.bundle.vocabulary.listed()[4]
    wishes = Wishes(begins=begins, min_tokens=2, max_tokens=5, length_penalty=0.5)
    decoding = evaluate_captioner(
        Captioner.load(tiny_bundle), scenes, split="val", wishes=wishes
    ).report.protocol.decoding
    assert decoding == (
        "beam 20, length normalisation 0.5, max length 6, 2 tokens or more, made to end, a given beginning"
    )


def test_a_beginning_of_subwords_ends_with_its_last_word(tmp_path: Path, scenes: Path) -> None:
    torch.manual_seed(0)
    recipe = load_recipe("scenes", ["search.max_length=6"])
    vocabulary = Vocabulary.train(["a dog", "a doghouse", "a house", "houses", "a red dog"], kind="bpe", size=26)
    model = build_model(recipe, build_encoder(recipe), len(vocabulary))
    with torch.no_grad():  # it likes to go on with "house"
        model.decoder.output.bias[vocabulary.phrase("doghouse")[1]] += 9
    save_bundle(tmp_path / "b", model=model, vocabulary=vocabulary, recipe=recipe, training={})
    (caption,) = Captioner.load(tmp_path / "b").caption(
        sorted(scenes.rglob("*.png"))[:1], wishes=Wishes(begins="a dog")
    )
    assert re.match(r"a dog(\W|$)", caption.text), caption.text


def test_a_wish_replaces_the_bundles_own() -> None:
    own = SearchOptions(max_length=10, length_penalty=1.0, no_repeat_ngram=2)
    assert measured(own, Wishes()) == own
    assert measured(own, Wishes(length_penalty=0.0, no_repeat_ngram=0)) == replace(
        own, length_penalty=0.0, no_repeat_ngram=0
    )
    assert measured(own, Wishes(max_tokens=4)) == replace(own, max_length=5, closing=True)
    assert measured(own, Wishes(min_tokens=9)).min_length == 9
    with pytest.raises(DataError, match="10 words or more are asked for, and they end after 9"):
        measured(own, Wishes(min_tokens=10))


@pytest.mark.parametrize(
    ("values", "sentence"),
    [
        ({"max_tokens": 0}, f"longest caption of 0 words: expected 1 to {MOST_TOKENS}"),
        ({"min_tokens": 5, "max_tokens": 4}, "5 words at least: expected 0 to 4"),
        ({"min_tokens": -1}, "-1 words at least"),
        ({"length_penalty": -0.5}, "length normalisation is -0.5"),
        ({"length_penalty": 1000.0}, "length normalisation is 1000.0, expected 0 to 10"),
        ({"diversity": float("inf")}, "diversity is inf, expected 0 to 10"),
        ({"length_penalty": float("nan")}, "length normalisation is nan"),
        ({"no_repeat_ngram": -1}, "no -1 words twice"),
    ],
)
def test_lengths_are_checked(values: dict[str, Any], sentence: str) -> None:
    with pytest.raises(DataError, match=sentence):
        Wishes(**values)
