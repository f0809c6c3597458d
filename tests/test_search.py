"""Beam search is what brute force would find, whatever the batch; its numbers are teacher forcing's."""

from __future__ import annotations

from typing import Any, NamedTuple

import pytest
import torch
from torch import Tensor

from showtell.decoding import SearchOptions
from showtell.model.decoders import DECODERS, Decoder, build_decoder
from showtell.search import Hypothesis, beam_search, sample

PAD, START, END, UNK = 0, 1, 2, 3
BANNED = (PAD, START, UNK)
R, F, V = 6, 10, 20


class Memory(NamedTuple):
    image: Tensor


class State(NamedTuple):
    hidden: Tensor


class Step(NamedTuple):
    logits: Tensor
    state: Any
    attention: Tensor | None


class Toy:
    """A recurrent network of a few words: small enough to try every caption."""

    def __init__(self, seed: int, words: int = 6, hidden: int = 4) -> None:
        draw = torch.Generator().manual_seed(seed)
        self.embed = torch.randn(words, hidden, generator=draw)
        self.recur = torch.randn(hidden, hidden, generator=draw)
        self.out = 1.5 * torch.randn(hidden, words, generator=draw)

    def prepare(self, features: Tensor) -> Memory:
        return Memory(features.mean(1))

    def init_state(self, memory: Memory, rows: int) -> State:
        return State(memory.image[:, None].expand(-1, rows, -1))

    def step(self, tokens: Tensor, state: State, memory: Memory) -> Step:
        hidden = torch.tanh(state.hidden @ self.recur + self.embed[tokens] + memory.image[:, None])
        return Step(hidden @ self.out, State(hidden), hidden.softmax(-1))


def every_caption(toy: Toy, features: Tensor, options: SearchOptions) -> list[tuple[float, tuple[int, ...]]]:
    """All finished captions of one image with their scores, best first."""
    memory = toy.prepare(features)
    found = []

    def extend(token: int, state: State, words: tuple[int, ...], log_prob: float) -> None:
        if len(words) == options.max_length:
            return
        step = toy.step(torch.tensor([[token]]), state, memory)
        for word, more in enumerate(step.logits.log_softmax(-1)[0, 0].tolist()):
            if word == END:
                found.append(((log_prob + more) / (len(words) + 1) ** options.length_penalty, words))
            elif word not in BANNED:
                extend(word, step.state, (*words, word), log_prob + more)

    extend(START, toy.init_state(memory, 1), (), 0.0)
    return sorted(found, reverse=True)


def search(decoder: Any, features: Tensor, **options: Any) -> list[list[Hypothesis]]:
    chosen = SearchOptions(**{"beam": 4, "max_length": 12, **options})
    return beam_search(decoder, features, options=chosen, start_id=START, end_id=END, banned=BANNED, attention=True)


@pytest.mark.parametrize("seed", range(6))
@pytest.mark.parametrize("penalty", [0.0, 0.7, 1.0, 2.0])
def test_beam_search_equals_brute_force(seed: int, penalty: float) -> None:
    toy, features = Toy(seed), torch.randn(3, 2, 4, generator=torch.Generator().manual_seed(seed))
    options = SearchOptions(beam=200, max_length=4, length_penalty=penalty, n=5)
    found = beam_search(toy, features, options=options, start_id=START, end_id=END, banned=BANNED)
    for image, hypotheses in enumerate(found):
        best = every_caption(toy, features[image : image + 1], options)[:5]
        assert [h.tokens for h in hypotheses] == [words for _, words in best]
        assert [h.score for h in hypotheses] == pytest.approx([score for score, _ in best], abs=1e-5)


def likeliest(toy: Toy, features: Tensor, steps: int) -> tuple[int, ...]:
    """The likeliest word each time, of one image, to the first `<end>`."""
    memory, said = toy.prepare(features), [START]
    state = toy.init_state(memory, 1)
    for _ in range(steps):
        step = toy.step(torch.tensor([[said[-1]]]), state, memory)
        allowed, state = step.logits[0, 0].clone(), step.state
        allowed[list(BANNED)] = -torch.inf
        said.append(int(allowed.argmax()))
        if said[-1] == END:
            return tuple(said[1:-1])
    return tuple(said[1:])


@pytest.mark.parametrize("penalty", [0.0, 0.7, 1.0, 2.0])
def test_a_beam_of_one_is_greedy(penalty: float) -> None:
    lengths = set()
    for seed in range(8):
        toy, features = Toy(seed), 2 * torch.randn(12, 2, 4, generator=torch.Generator().manual_seed(seed))
        found = search(toy, features, beam=1, max_length=6, length_penalty=penalty)
        for image, (best,) in enumerate(found):
            assert best.tokens == likeliest(toy, features[image : image + 1], 6)
            assert best.finished == (len(best.tokens) < 6)
            lengths.add(len(best.tokens))
    assert len(lengths) > 4


@pytest.mark.parametrize("ways", [{"min_length": 2}, {"required": (((4,),),)}])
def test_what_a_decoder_returns_stays_as_it_is(ways: dict[str, Any]) -> None:
    """A decoder may keep its logits, as one that looks them up in a table."""

    class Table(Toy):
        def step(self, tokens: Tensor, state: State, memory: Memory) -> Step:
            return Step(table.expand(*tokens.shape, -1), state, None)

    table = torch.tensor([0.0, 0.0, 2.0, 0.0, 1.0, 0.5])
    before = table.clone()
    options = SearchOptions(**{"beam": 2, "max_length": 4, **ways})
    ((best,),) = beam_search(Table(0), torch.zeros(1, 2, 4), options=options, start_id=START, end_id=END, banned=BANNED)
    assert table.equal(before)
    sure = table.log_softmax(-1)
    assert best.log_prob == pytest.approx(float(sure[list(best.tokens)].sum() + sure[END]), abs=1e-5)


def real(name: str, seed: int = 0) -> Decoder:
    torch.manual_seed(seed)
    options = {"embedding": 8, "hidden": 8, "layers": 1, "attention": 5, "dropout": 0.0, "tied": True}
    decoder = build_decoder(name, feature_size=F, vocabulary_size=V, **options).eval()
    with torch.no_grad():
        for parameter in decoder.parameters():  # an untrained decoder is nearly uniform: make its choices matter
            parameter.mul_(4.0)
    return decoder


def pictures(count: int, seed: int = 1) -> Tensor:
    return torch.randn(count, R, F, generator=torch.Generator().manual_seed(seed))


@pytest.mark.parametrize("name", DECODERS)
def test_a_batch_of_64_equals_one_by_one(name: str) -> None:
    decoder, features = real(name), pictures(64)
    together = search(decoder, features, n=3)
    assert len({hypotheses[0].tokens for hypotheses in together}) > 5
    for image in range(64):
        (alone,) = search(decoder, features[image : image + 1], n=3)
        assert [h.tokens for h in alone] == [h.tokens for h in together[image]]
        assert [h.log_prob for h in alone] == pytest.approx([h.log_prob for h in together[image]], rel=3e-5, abs=1e-4)


@pytest.mark.parametrize("name", DECODERS)
@pytest.mark.parametrize("way", ["beam", "sample"])
def test_scores_are_teacher_forcings(name: str, way: str) -> None:
    decoder, features = real(name), pictures(8)
    if way == "beam":
        found = search(decoder, features, n=4)
    else:
        options = SearchOptions(n=4, max_length=12, temperature=1.3, top_p=0.9)
        found = sample(decoder, features, options=options, start_id=START, end_id=END, banned=BANNED)
    for image, hypotheses in enumerate(found):
        assert len(hypotheses) == 4
        for hypothesis in hypotheses:
            said = [*hypothesis.tokens, *([END] if hypothesis.finished else [])]
            tokens = torch.tensor([[[START, *said[:-1]]]])
            with torch.no_grad():
                logits = decoder(features[image : image + 1], tokens).logits
            wanted = logits.log_softmax(-1)[0, 0].gather(-1, torch.tensor(said)[:, None]).flatten().tolist()
            assert list(hypothesis.token_log_probs) == pytest.approx(wanted, abs=1e-4)
            assert hypothesis.log_prob == pytest.approx(sum(wanted), rel=3e-5, abs=1e-4)
            assert not set(hypothesis.tokens) & {*BANNED, END}


@pytest.mark.parametrize("size", [1, 2, 3])
def test_no_ngram_comes_twice(size: int) -> None:
    repeats = 0
    for seed in range(4):
        decoder, features = real("lstm", seed), pictures(16, seed)
        for blocked in (0, size):
            for best, *_ in search(decoder, features, no_repeat_ngram=blocked):
                grams = [best.tokens[i : i + size] for i in range(len(best.tokens) - size + 1)]
                if blocked:
                    assert len(grams) == len(set(grams))
                else:
                    repeats += len(grams) - len(set(grams))
    assert repeats  # or the test would show nothing


def test_sampling_is_seeded_and_top_p_narrows() -> None:
    decoder, features = real("attention"), pictures(6)

    def draw(seed: int, **options: Any) -> list[list[tuple[int, ...]]]:
        chosen = SearchOptions(**{"n": 3, "max_length": 12, **options})
        found = sample(
            decoder, features, options=chosen, start_id=START, end_id=END, banned=BANNED,
            generators=[torch.Generator().manual_seed(seed + i) for i in range(len(features))],
        )  # fmt: skip
        return [[h.tokens for h in hypotheses] for hypotheses in found]

    assert draw(1, temperature=8.0) == draw(1, temperature=8.0) != draw(2, temperature=8.0)
    whole = draw(1, temperature=8.0)
    features = features[:2]
    assert draw(1, temperature=8.0) == whole[:2]
    greedy = [[h.tokens for h in hypotheses] for hypotheses in search(decoder, features, beam=1)]
    assert [row[:1] for row in draw(3, top_p=1e-6)] == greedy
    assert [row[:1] for row in draw(3, temperature=1e-4)] == greedy


@pytest.mark.parametrize("seeded", [True, False])
def test_samples_come_as_often_as_they_are_likely(seeded: bool) -> None:
    decoder, features = real("lstm"), pictures(1).expand(40, -1, -1)
    generators = [torch.Generator().manual_seed(i) for i in range(40)] if seeded else None
    torch.manual_seed(0)
    options = SearchOptions(n=50, max_length=1)
    found = sample(decoder, features, options=options, start_id=START, end_id=END, generators=generators)
    drawn = torch.zeros(V)
    for hypotheses in found:
        for hypothesis in hypotheses:
            drawn[hypothesis.tokens[0] if hypothesis.tokens else END] += 1
    with torch.no_grad():
        expected = decoder(features[:1], torch.tensor([[[START]]])).logits[0, 0, 0].softmax(-1)
    assert ((drawn - 2000 * expected).square() / (2000 * expected)).sum() < 60  # chi-square, 19 degrees: p < 1e-5


def test_attention_is_of_the_words_said() -> None:
    for hypotheses in search(real("attention"), pictures(5), n=2):
        for hypothesis in hypotheses:
            assert hypothesis.attention is not None
            assert hypothesis.attention.shape == (len(hypothesis.tokens), R)
            torch.testing.assert_close(hypothesis.attention.sum(-1), torch.ones(len(hypothesis.tokens)))
    assert all(h.attention is None for found in search(real("lstm"), pictures(2)) for h in found)


def test_n_must_fit_into_the_beam() -> None:
    with pytest.raises(ValueError, match="beam"):
        search(real("lstm"), pictures(1), beam=2, n=3)
