"""Diverse groups, words that must or must not occur, ensembles: each is what its definition says."""

from __future__ import annotations

import itertools
import math
import random
from typing import Any

import pytest
import torch
from torch import Tensor

from showtell.decoding import Phrase, SearchOptions
from showtell.search import EnsembleDecoder, Hypothesis, Member, beam_search, draw, sample
from showtell.search.automaton import Automaton
from tests.test_search import BANNED, END, START, UNK, Toy, every_caption, pictures, real

WORDS = (4, 5)  # what a Toy can say


def find(decoder: Any, features: Any, **options: Any) -> list[list[Hypothesis]]:
    chosen = SearchOptions(**{"beam": 4, "max_length": 5, **options})
    return beam_search(decoder, features, options=chosen, start_id=START, end_id=END, banned=BANNED, attention=True)


def images(seed: int, count: int = 3) -> Tensor:
    return torch.randn(count, 2, 4, generator=torch.Generator().manual_seed(seed))


def holds(words: tuple[int, ...], phrase: Phrase, continuing: tuple[int, ...] = ()) -> bool:
    places = [i + len(phrase) for i in range(len(words)) if words[i : i + len(phrase)] == phrase]
    return any(end == len(words) or words[end] not in continuing for end in places)


@pytest.mark.parametrize(
    ("required", "forbidden"),
    [
        ((((5,),),), ()),
        ((((4,),), ((5,),)), ()),
        ((((4, 5),),), ()),
        ((((4, 4, 5), (5, 5)),), ()),
        ((), ((4, 4),)),
        ((((5,),),), ((4, 5), (5, 4, 4))),
        ((((5, 5),), ((4, 5),)), ((4, 4),)),
    ],
)
@pytest.mark.parametrize("continuing", [(), (5,)])
@pytest.mark.parametrize("seed", range(3))
def test_constrained_search_equals_brute_force(
    seed: int, continuing: tuple[int, ...], required: tuple[tuple[Phrase, ...], ...], forbidden: tuple[Phrase, ...]
) -> None:
    toy, features = Toy(seed), images(seed)
    wishes = {"required": required, "forbidden": forbidden, "continuing": continuing}
    wide = find(toy, features, beam=120, n=4, **wishes)
    narrow = find(toy, features, beam=2, **wishes)
    for image in range(3):
        every = every_caption(toy, features[image : image + 1], SearchOptions(max_length=5))
        allowed = [
            (score, words)
            for score, words in every
            if all(any(holds(words, phrase, continuing) for phrase in any_of) for any_of in required)
            and not any(holds(words, phrase, continuing) for phrase in forbidden)
        ]
        ended = [h for h in wide[image] if h.finished]
        assert [h.tokens for h in ended] == [words for _, words in allowed[:4]]
        assert [h.score for h in ended] == pytest.approx([score for score, _ in allowed[:4]], abs=1e-5)
        assert narrow[image][0].tokens in {words for _, words in allowed}


@pytest.mark.parametrize("continuing", [(), (5, 7)])
def test_the_width_of_a_search_is_known_before_it(continuing: tuple[int, ...]) -> None:
    rng = random.Random(0)
    equal = 0
    for _ in range(200):
        phrases = [tuple(rng.choices(range(4, 9), k=rng.choice([1, 1, 2, 3]))) for _ in range(9)]
        required = tuple((phrases[i], phrases[i + 1]) for i in range(rng.randrange(4)))
        forbidden = tuple(phrases[5 : rng.randrange(5, 9)])
        options = SearchOptions(required=required, forbidden=forbidden, continuing=continuing)
        built = Automaton.build(required, forbidden, end_id=END, continuing=continuing).states
        assert built <= options.states
        equal += built == options.states
    assert equal > 20  # it is a bound, but no wild one
    words = tuple(((word,),) for word in (4, 6, 8, 10))
    assert SearchOptions(required=words).states == 16 == Automaton.build(words, (), end_id=END).states


def test_a_beam_of_one_still_says_what_it_must() -> None:
    decoder, features = real("attention"), pictures(20)
    free = [best.tokens for best, *_ in find(decoder, features, max_length=12)]
    word = next(w for w in range(4, 20) if sum(w in tokens for tokens in free) < 10)
    for best, *_ in find(decoder, features, beam=1, max_length=12, required=(((word,),),)):
        assert word in best.tokens
        assert best.attention is not None and best.attention.shape[0] == len(best.tokens)


def test_one_group_is_plain_and_no_diversity_makes_groups_plain() -> None:
    decoder, features = real("lstm"), pictures(12)
    small = find(decoder, features, beam=3, n=3, max_length=12)
    groups = find(decoder, features, beam=9, n=9, groups=3, diversity=0.0, max_length=12)
    for one, many in zip(small, groups, strict=True):
        assert [h.tokens for h in many[::3]] == [h.tokens for h in one]  # the best of each group, then the second, …
        assert [h.score for h in many[::3]] == pytest.approx([h.score for h in one], abs=1e-5)


def test_groups_shun_what_the_groups_before_say() -> None:
    """Groups of one beam are greedy: group g takes the best word after λ times its count among groups 1 … g-1."""
    decoder, features, strength = real("attention"), pictures(6), 0.7
    found = find(decoder, features, beam=3, n=3, groups=3, diversity=strength, max_length=8, length_penalty=0.0)
    for image, hypotheses in enumerate(found):
        expected = shunning(decoder, features[image : image + 1], groups=3, strength=strength, steps=8)
        assert sorted(h.tokens for h in hypotheses) == sorted(expected)


def shunning(decoder: Any, features: Tensor, *, groups: int, strength: float, steps: int) -> list[tuple[int, ...]]:
    """Greedy groups by hand. A group that would end does so in its pool and goes on with its next best word."""
    memory = decoder.prepare(features)
    states = [decoder.init_state(memory, 1) for _ in range(groups)]
    said: list[tuple[int, ...]] = [()] * groups
    sums = [0.0] * groups
    ended: list[tuple[float, tuple[int, ...]]] = [(-math.inf, ())] * groups
    for _ in range(steps):
        chosen: list[int] = []
        for g in range(groups):
            token = said[g][-1] if said[g] else START
            with torch.no_grad():
                step = decoder.step(torch.tensor([[token]]), states[g], memory)
            log_probs = step.logits[0, 0].log_softmax(-1).tolist()
            wanted = sorted(
                (w for w in range(len(log_probs)) if w not in BANNED),
                key=lambda w: log_probs[w] - strength * chosen.count(w),
                reverse=True,
            )[:2]
            if END in wanted:
                ended[g] = max(ended[g], (sums[g] + log_probs[END], said[g]))
            word = next(w for w in wanted if w != END)
            chosen.append(word)
            said[g], sums[g], states[g] = (*said[g], word), sums[g] + log_probs[word], step.state
    return [best if score > -math.inf else whole for (score, best), whole in zip(ended, said, strict=True)]


@pytest.mark.parametrize("ways", [{"groups": 3, "beam": 6, "n": 4}, {"required": (((7,),), ((9, 11),)), "n": 2}])
def test_batches_change_nothing(ways: dict[str, Any]) -> None:
    decoder, features = real("attention"), pictures(24)
    together = find(decoder, features, max_length=12, **ways)
    for image in range(24):
        (alone,) = find(decoder, features[image : image + 1], max_length=12, **ways)
        assert [h.tokens for h in alone] == [h.tokens for h in together[image]]


def test_groups_must_divide_the_beam() -> None:
    with pytest.raises(ValueError, match="divisor"):
        find(real("lstm"), pictures(1), beam=4, groups=3)


@pytest.mark.parametrize("name", ["lstm", "attention"])
@pytest.mark.parametrize("count", [1, 2])
def test_an_ensemble_of_the_same_is_the_single_one(name: str, count: int) -> None:
    decoder, features = real(name), pictures(10)
    single = find(decoder, features, n=3, max_length=12)
    ensemble = EnsembleDecoder([Member(decoder)] * count)
    for one, many in zip(single, find(ensemble, (features,) * count, n=3, max_length=12), strict=True):
        assert [h.tokens for h in one] == [h.tokens for h in many]
        assert [h.log_prob for h in one] == pytest.approx([h.log_prob for h in many], abs=1e-4)
        if name == "attention":
            for a, b in zip(one, many, strict=True):
                assert a.attention is not None and b.attention is not None
                torch.testing.assert_close(a.attention, b.attention)


def test_an_ensemble_averages_probabilities_whatever_the_decoders() -> None:
    members, features = [real("lstm", 1), real("attention", 2)], pictures(5)
    ensemble = EnsembleDecoder([Member(decoder) for decoder in members])
    for best, *_ in find(ensemble, (features, features), max_length=12):
        assert best.attention is None  # the LSTM has none
    found = find(ensemble, (features, features), max_length=12)
    for image, (best, *_) in enumerate(found):
        said = [*best.tokens, *([END] if best.finished else [])]
        tokens = torch.tensor([[[START, *said[:-1]]]])
        with torch.no_grad():
            mean = torch.stack([m(features[image : image + 1], tokens).logits.softmax(-1) for m in members]).mean(0)
        wanted = mean.log()[0, 0].gather(-1, torch.tensor(said)[:, None]).flatten().tolist()
        assert list(best.token_log_probs) == pytest.approx(wanted, abs=1e-4)


def test_a_mirrored_member_says_left_for_right() -> None:
    """A model of the mirrored world, mirrored, is the model itself."""
    decoder = real("attention")
    swap = torch.arange(20)
    swap[[7, 8]] = torch.tensor([8, 7])
    flip = torch.tensor([1, 0, 3, 2, 5, 4])
    mirrored = real("attention")
    with torch.no_grad():
        for weight in (mirrored.embedding.weight, mirrored.output.bias):  # tied: the output layer's weight as well
            weight.copy_(weight[swap])
    features = pictures(10)
    ensemble = EnsembleDecoder([Member(decoder), Member(mirrored, words=swap, regions=flip)])
    single = find(decoder, features, max_length=12)
    both = find(ensemble, (features, features[:, flip]), max_length=12)
    assert {7, 8} & {word for best, *_ in single for word in best.tokens}
    for (one, *_), (two, *_) in zip(single, both, strict=True):
        assert one.tokens == two.tokens
        assert one.log_prob == pytest.approx(two.log_prob, abs=1e-4)
        assert one.attention is not None and two.attention is not None
        torch.testing.assert_close(one.attention, two.attention)


def test_drawn_tensors_are_the_samples() -> None:
    decoder, features, options = real("lstm"), pictures(9), SearchOptions(n=4, max_length=12)

    def seeds() -> list[torch.Generator]:
        return [torch.Generator().manual_seed(i) for i in range(9)]

    drawn = draw(decoder, features, options=options, start_id=START, end_id=END, banned=BANNED, generators=seeds())
    found = sample(decoder, features, options=options, start_id=START, end_id=END, banned=BANNED, generators=seeds())
    assert drawn.tokens.shape == drawn.log_probs.shape and drawn.tokens.shape[:2] == (9, 4)
    for rows, log_probs, hypotheses in zip(drawn.tokens, drawn.log_probs, found, strict=True):
        whole = {(*h.tokens, END) if h.finished else h.tokens: h.log_prob for h in hypotheses}
        for row, values in zip(rows.tolist(), log_probs, strict=True):
            length = row.index(END) + 1 if END in row else len(row)
            assert float(values.sum()) == pytest.approx(whole[tuple(row[:length])], abs=1e-4)
            assert set(row[length:]) <= {END} and not values[length:].any()


def test_every_word_of_a_toy_can_be_said() -> None:
    """Or the tests above would be about nothing."""
    said = set(itertools.chain.from_iterable(h.tokens for hs in find(Toy(1), images(1), n=4) for h in hs))
    assert said == set(WORDS) and UNK not in said
