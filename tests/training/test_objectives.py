"""What a batch teaches: the plain definitions, written out."""

from __future__ import annotations

import contextlib
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch

from showtell.bundle import build_encoder, build_model, load_bundle
from showtell.config import PhaseConfig, Recipe, SearchConfig, TrainConfig
from showtell.data.annotations import CaptionedImage
from showtell.data.dataset import Batch, make_groups, pad
from showtell.data.vocabulary import Vocabulary
from showtell.errors import RecipeError
from showtell.metrics import cider_d
from showtell.model.captioner import CaptionerModel
from showtell.recipe import load_recipe
from showtell.training.distillation import Distillation
from showtell.training.objectives import CrossEntropy, build_objective, drop_words, feed_own_words
from showtell.training.own_captions import teach
from showtell.training.self_critical import SelfCritical
from showtell.training.teachers import Teachers

START, END = 1, 2


@pytest.fixture
def recipe() -> Recipe:
    return load_recipe("scenes", ["encoder.image_size=32", "decoder.dropout=0.2"])


@pytest.fixture
def model(recipe: Recipe, vocabulary: Vocabulary) -> CaptionerModel:
    torch.manual_seed(0)
    return build_model(recipe, build_encoder(recipe), len(vocabulary))


@pytest.fixture
def batch(model: CaptionerModel, images: list[CaptionedImage], vocabulary: Vocabulary) -> Batch:
    groups = make_groups(images[:4], vocabulary, captions_per_image=5, max_tokens=20)
    features = torch.randn(4, model.encoder.regions, model.encoder.feature_size)
    return Batch(features, pad([g.tokens for g in groups]), tuple(g.image.image_id for g in groups))


def self_critical(images: list[CaptionedImage], vocabulary: Vocabulary, **options: object) -> SelfCritical:
    phase = PhaseConfig(objective="self-critical", **options)  # type: ignore[arg-type]
    search = SearchConfig(max_length=12)
    return SelfCritical(images, vocabulary, phase=phase, search=search, autocast=contextlib.nullcontext)


def test_what_is_fed_and_what_is_asked_for() -> None:
    drawn = torch.tensor([[[5, 6, END, END], [END, END, END, END], [5, 6, 7, 8]]])
    fed, targets = teach(drawn, START, END)
    assert targets.tolist() == [[[5, 6, END, 0], [END, 0, 0, 0], [5, 6, 7, 8]]]
    assert fed.tolist() == [[[START, 5, 6, 0], [START, 0, 0, 0], [START, 5, 6, 7]]]


def test_the_reward_is_the_metric(images: list[CaptionedImage], vocabulary: Vocabulary) -> None:
    """Each image's first caption, as drawn tokens, earns what `metrics.cider_d` gives it with `<end>` as a word."""
    objective = self_critical(images, vocabulary)
    ids = [vocabulary.encode(image.captions[0])[1:] for image in images]
    drawn = pad([[row] for row in ids])
    drawn = torch.where(drawn == 0, END, drawn)
    found = objective.reward(drawn, [image.image_id for image in images])
    said = [" ".join(map(str, row)) for row in ids]
    written = [[" ".join(map(str, ids[1:])) for ids in vocabulary.encode_all(image.captions)] for image in images]
    np.testing.assert_allclose(found[:, 0], 10 * np.array(cider_d(said, written).each) / 10, rtol=1e-9)


@pytest.mark.parametrize("temperature", [1.0, 0.5])
def test_the_gradient_is_the_policys(
    temperature: float, images: list[CaptionedImage], vocabulary: Vocabulary, model: CaptionerModel, batch: Batch
) -> None:
    """The loss is Σ (r − b) (−log p) over the words of the drawn captions, by their number, without dropout."""
    objective = self_critical(images, vocabulary, samples=3, temperature=temperature)
    torch.manual_seed(7)
    lesson = objective(model.train(), batch, progress=0.0)
    torch.manual_seed(7)
    drawn = objective._own.draw(model.eval(), batch.inputs)
    rewards = objective.reward(drawn, batch.image_ids)
    total, words = 0.0, 0
    for b in range(4):
        for k in range(3):
            others = np.delete(rewards[b], k).mean()
            row = drawn[b, k].tolist()
            row = row[: row.index(END) + 1] if END in row else row
            logits = model(batch.inputs[b : b + 1], torch.tensor([[[START, *row[:-1]]]])).logits[0, 0].detach()
            logits[:, [vocabulary.pad_id, vocabulary.start_id, vocabulary.unk_id]] = float("-inf")  # never drawn
            log_prob = (logits / temperature).log_softmax(-1)[torch.arange(len(row)), torch.tensor(row)].sum()
            total -= (rewards[b, k] - others) * log_prob.item()
            words += len(row)
    assert lesson.loss.item() == pytest.approx(total / words, rel=1e-4, abs=1e-6)
    assert lesson.value == pytest.approx(rewards.mean())
    lesson.loss.backward()
    assert all(p.grad is not None for p in model.decoder.parameters())


def test_the_greedy_baseline_is_the_greedy_captions_reward(
    images: list[CaptionedImage], vocabulary: Vocabulary, model: CaptionerModel, batch: Batch
) -> None:
    objective = self_critical(images, vocabulary, baseline="greedy", samples=1)
    model.eval()
    memory = model.decoder.prepare(batch.inputs)
    state, tokens, said = model.decoder.init_state(memory, 1), torch.full((4, 1), START), []
    for _ in range(12):
        step = model.decoder.step(tokens, state, memory)
        logits, state = step.logits.detach().clone(), step.state
        logits[..., [0, START, 3]] = float("-inf")
        tokens = logits.argmax(-1)
        said.append(tokens)
    expected = objective.reward(torch.stack(said, -1), batch.image_ids)
    found = objective._baseline(np.zeros((4, 1)), model, batch.inputs, batch.image_ids)
    np.testing.assert_allclose(found, expected)


def test_rewards_mix(images: list[CaptionedImage], vocabulary: Vocabulary) -> None:
    drawn = torch.tensor([[vocabulary.encode(images[0].captions[0])[1:]] * 2])
    ids = [images[0].image_id]
    cider, bleu, both = (
        self_critical(images, vocabulary, reward=reward).reward(drawn, ids)
        for reward in ({"cider_d": 1.0}, {"bleu_4": 1.0}, {"cider_d": 0.5, "bleu_4": 4.0})
    )
    assert bleu == pytest.approx(1.0, abs=1e-6)
    np.testing.assert_allclose(both, 0.5 * cider + 4 * bleu)


def test_hidden_words_are_never_the_first_and_never_asked_for() -> None:
    torch.manual_seed(0)
    fed = torch.tensor([[[START, 5, 6, 7, 0, 0]]]).expand(50, 5, 6)
    hidden = drop_words(fed, 0.5, unknown=3)
    assert (hidden[..., 0] == START).all()
    assert (hidden[..., 4:] == 0).all()
    assert 0.4 < (hidden[..., 1:4] == 3).float().mean() < 0.6
    assert torch.equal(hidden[..., 1:4][hidden[..., 1:4] != 3], fed[..., 1:4][hidden[..., 1:4] != 3])


def test_own_words_come_from_the_model(model: CaptionerModel, batch: Batch) -> None:
    """A model that is sure of one word is fed that word, after the first place and before the padding."""
    with torch.no_grad():
        for parameter in model.decoder.output.parameters():  # type: ignore[attr-defined]
            parameter.zero_()
        model.decoder.output.bias[9] = 50.0  # type: ignore[attr-defined]
    fed = batch.tokens[..., :-1]
    own = feed_own_words(model.eval(), batch.inputs, fed, 1.0, banned=(0, 1, 3))
    assert torch.equal(own[..., 0], fed[..., 0])
    assert torch.equal(own == 0, fed == 0)
    assert (own[..., 1:][fed[..., 1:] != 0] == 9).all()
    assert torch.equal(feed_own_words(model, batch.inputs, fed, 0.0, banned=(0, 1, 3)), fed)


def test_own_words_never_end_a_caption_before_its_end(
    model: CaptionerModel, batch: Batch, vocabulary: Vocabulary, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Even where the model would end each caption at once: it would be taught to go on after `<end>`."""
    with torch.no_grad():
        for parameter in model.decoder.output.parameters():  # type: ignore[attr-defined]
            parameter.zero_()
        model.decoder.output.bias[END] = 50.0  # type: ignore[attr-defined]
    fed: list[torch.Tensor] = []
    forward = model.decoder.forward  # type: ignore[attr-defined]
    monkeypatch.setattr(
        model.decoder, "forward", lambda features, tokens: (fed.append(tokens), forward(features, tokens))[1]
    )
    CrossEntropy(TrainConfig(), PhaseConfig(scheduled_sampling=1.0), vocabulary)(model, batch, progress=1.0)
    written, own = fed
    assert not torch.equal(written, own) and torch.equal(written, batch.tokens[..., :-1])
    inside = batch.tokens[..., 1:] != 0  # a word or `<end>` is asked for
    assert not (own[inside] == END).any()


def test_neutral_options_change_nothing(model: CaptionerModel, batch: Batch, vocabulary: Vocabulary) -> None:
    model.train()
    plain = CrossEntropy(TrainConfig(), PhaseConfig(), vocabulary)
    options = CrossEntropy(TrainConfig(word_dropout=0.0), PhaseConfig(scheduled_sampling=0.5), vocabulary)
    torch.manual_seed(1)
    first = plain(model, batch, progress=0.0)
    torch.manual_seed(1)
    second = options(model, batch, progress=0.0)
    assert first.value == second.value


def test_a_phase_has_its_objective(images: list[CaptionedImage], vocabulary: Vocabulary, tiny_bundle: Path) -> None:
    common: dict[str, Any] = {
        "train": TrainConfig(), "search": SearchConfig(), "vocabulary": vocabulary, "images": images,
        "teachers": Teachers([load_bundle(tiny_bundle)], names=["tiny"], device=torch.device("cpu")),
        "autocast": contextlib.nullcontext,
    }  # fmt: skip
    names: tuple[Any, ...] = ("cross-entropy", "self-critical", "distillation")
    built = [build_objective(PhaseConfig(objective=name), **common) for name in names]
    assert [type(x) for x in built] == [CrossEntropy, SelfCritical, Distillation]
    with pytest.raises(RecipeError, match="at least 2 samples"):
        load_recipe("scenes", ['train.phases=[{objective="self-critical", samples=1}]'])
    with pytest.raises(RecipeError, match="0 or more"):
        load_recipe("scenes", ['train.phases=[{objective="self-critical", reward={cider_d=-1.0}}]'])
    with pytest.raises(RecipeError, match="goes with cross-entropy"):
        load_recipe("scenes", ['train.phases=[{objective="self-critical", scheduled_sampling=0.2}]'])


def test_a_low_temperature_draws_what_is_likely(
    images: list[CaptionedImage], vocabulary: Vocabulary, model: CaptionerModel, batch: Batch
) -> None:
    with torch.no_grad():
        for parameter in model.decoder.parameters():  # an untrained decoder is nearly uniform
            parameter.mul_(3.0)
    cold = self_critical(images, vocabulary, samples=3, temperature=0.01)._own.draw(model.eval(), batch.inputs)
    assert (cold == cold[:, :1]).all()
    warm = self_critical(images, vocabulary, samples=3)._own.draw(model.eval(), batch.inputs)
    assert (warm != warm[:, :1]).any()
