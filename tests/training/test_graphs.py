"""Steps that are recorded and replayed teach what plain ones do. Recording itself needs a GPU; all else is tested without."""

from __future__ import annotations

import contextlib
import dataclasses
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch
from torch import Tensor, nn

from showtell.bundle import build_encoder, build_model
from showtell.config import PhaseConfig, Recipe, SearchConfig, TrainConfig
from showtell.data.annotations import CaptionedImage, read_annotations
from showtell.data.dataset import Batch, make_groups, pad
from showtell.data.scenes import draw_scenes
from showtell.data.vocabulary import Vocabulary
from showtell.decoding import SearchOptions
from showtell.model.captioner import CaptionerModel
from showtell.recipe import load_recipe
from showtell.search import draw
from showtell.training.graphs import Function, Recorded, Recorder, worth_recording
from showtell.training.objectives import CrossEntropy, SelfCritical
from showtell.training.run import train

on_gpu = pytest.mark.skipif(not torch.cuda.is_available(), reason="needs an NVIDIA GPU")
WHERE = [pytest.param("cpu"), pytest.param("cuda", marks=on_gpu)]


class NothingRecorded(Recorder):
    """Takes the place of recordings where there is no GPU; remembers what would have been recorded."""

    def __init__(self) -> None:
        self.asked: list[tuple[str, tuple[int, ...]]] = []

    def module(self, name: str, part: nn.Module, arguments: tuple[Tensor, ...]) -> Function:
        self.asked.append((name, tuple(arguments[-1].shape)))
        return part

    def function(self, function: Callable[[Tensor], Tensor], x: Tensor) -> Function:
        self.asked.append(("function", tuple(x.shape)))
        return function


@pytest.fixture(scope="module")
def images(scenes: Path) -> list[CaptionedImage]:
    return list(read_annotations(scenes).split("train"))


@pytest.fixture(scope="module")
def vocabulary(images: list[CaptionedImage]) -> Vocabulary:
    return Vocabulary.train([c for image in images for c in image.captions], min_count=1)


@pytest.fixture
def recipe() -> Recipe:
    return load_recipe("scenes", ["encoder.image_size=32", "decoder.dropout=0"])


@pytest.fixture
def model(recipe: Recipe, vocabulary: Vocabulary) -> CaptionerModel:
    torch.manual_seed(0)
    return build_model(recipe, build_encoder(recipe), len(vocabulary))


def batch_of(model: CaptionerModel, images: list[CaptionedImage], vocabulary: Vocabulary, device: str) -> Batch:
    groups = make_groups(images, vocabulary, captions_per_image=5, max_tokens=20)
    torch.manual_seed(1)
    features = torch.randn(len(images), model.encoder.regions, model.encoder.feature_size, device=device)
    return Batch(features, pad([g.tokens for g in groups]).to(device), tuple(g.image.image_id for g in groups))


def recorded(model: CaptionerModel, device: str, notes: list[str] | None = None) -> tuple[Recorded, Recorder]:
    recorder = NothingRecorded() if device == "cpu" else Recorder()
    told = notes if notes is not None else []
    wrapped = Recorded(model, images=4, autocast=contextlib.nullcontext, note=told.append, recorder=recorder)
    return wrapped, recorder


def gradients(
    model: CaptionerModel, objective: CrossEntropy, batch: Batch, wrapped: Recorded | None = None
) -> tuple[float, dict[str, Tensor]]:
    """The loss and the gradients; nothing else of the step stays, or it could not be recorded."""
    model.zero_grad()
    lesson = objective(wrapped or model, batch, progress=0.0)  # type: ignore[arg-type]
    lesson.loss.backward()
    return lesson.value, {name: p.grad.clone() for name, p in model.named_parameters() if p.grad is not None}


@pytest.mark.parametrize("device", WHERE)
@pytest.mark.parametrize("trained", [False, True], ids=["features", "images"])
def test_gradients_are_those_of_the_plain_model(
    trained: bool, device: str, images: list[CaptionedImage], vocabulary: Vocabulary, model: CaptionerModel
) -> None:
    model.to(device).train()
    model.encoder.requires_grad_(trained)
    batch = batch_of(model, images[:4], vocabulary, device)
    if trained:
        batch = dataclasses.replace(batch, inputs=torch.randn(4, 3, 32, 32, device=device))
    objective = CrossEntropy(TrainConfig(doubly_stochastic=0.5, label_smoothing=0.1), PhaseConfig(), vocabulary)
    wrapped, _ = recorded(model, device)
    for _ in range(3):
        value, wanted = gradients(model, objective, batch)
        found, got = gradients(model, objective, batch, wrapped)
        assert found == pytest.approx(value, rel=1e-4)
        torch.testing.assert_close(got, wanted, rtol=1e-3, atol=1e-5)
        with torch.no_grad():  # the next round sees other weights
            for parameter in model.parameters():
                parameter.add_(0.01 * torch.randn_like(parameter))


@pytest.mark.parametrize("device", WHERE)
def test_what_is_drawn_changes_with_chance_and_with_the_weights(
    device: str, images: list[CaptionedImage], vocabulary: Vocabulary, model: CaptionerModel
) -> None:
    model.to(device)
    phase = PhaseConfig(objective="self-critical", samples=4)
    objective = SelfCritical(
        images, vocabulary, phase=phase, search=SearchConfig(max_length=12), autocast=contextlib.nullcontext
    )
    batch = batch_of(model, images[:4], vocabulary, device)
    wrapped, _ = recorded(model, device)
    first, second = (objective(wrapped, batch, progress=0.0) for _ in range(2))  # type: ignore[arg-type]
    assert first.weight == second.weight == 16
    assert first.loss != second.loss  # other captions were drawn
    second.loss.backward()
    assert all(p.grad is not None for p in model.decoder.parameters())
    with torch.no_grad():
        model.decoder.output.bias[vocabulary.end_id] = 1e4
    drawn = objective._draw(model, batch.inputs, replay=wrapped.replay)
    assert drawn.shape == (4, 4, 1)  # every caption ends at once
    assert bool((drawn == vocabulary.end_id).all())


def test_captions_drawn_together_are_those_drawn_apart(model: CaptionerModel, vocabulary: Vocabulary) -> None:
    features = torch.randn(16, model.encoder.regions, model.encoder.feature_size)
    with torch.no_grad():
        model.decoder.output.bias[vocabulary.end_id] += 3  # images are done at different steps
    options = SearchOptions(n=2, max_length=12)

    def found(together: bool) -> Tensor:
        generators = [torch.Generator().manual_seed(i) for i in range(16)]
        return draw(
            model.decoder.eval(), features, options=options, start_id=vocabulary.start_id, end_id=vocabulary.end_id,
            generators=generators, together=together,
        ).tokens  # fmt: skip

    apart, together = found(False), found(True)
    assert together.shape[-1] == 12
    assert torch.equal(together[..., : apart.shape[-1]], apart)
    assert bool((together[..., apart.shape[-1] :] == vocabulary.end_id).all())


def test_shapes_are_few_and_small_batches_run_as_they_are(
    images: list[CaptionedImage], vocabulary: Vocabulary, model: CaptionerModel
) -> None:
    wrapped, recorder = recorded(model, "cpu")
    assert isinstance(recorder, NothingRecorded)
    batch = batch_of(model, images[:4], vocabulary, "cpu")
    for steps in (5, 6, 7, 8, 9):
        output = wrapped(batch.inputs, batch.tokens[..., :steps])
        assert output.logits.shape[2] == steps
        assert output.attention is not None
        assert output.attention.shape[2] == steps
    wrapped(batch.inputs[:3], batch.tokens[:3])
    with torch.no_grad():
        wrapped(batch.inputs, batch.tokens[..., :12])
    assert [shape[-1] for _, shape in recorder.asked] == [8, 12]


def test_where_nothing_can_be_recorded_training_goes_on(
    images: list[CaptionedImage], vocabulary: Vocabulary, model: CaptionerModel, monkeypatch: pytest.MonkeyPatch
) -> None:
    def refuse(*_: Any) -> Function:
        raise torch.OutOfMemoryError("CUDA out of memory. Tried to allocate 2 GiB")

    notes: list[str] = []
    wrapped, recorder = recorded(model.eval(), "cpu", notes)
    monkeypatch.setattr(recorder, "module", refuse)
    batch = batch_of(model, images[:4], vocabulary, "cpu")
    for _ in range(2):
        found = wrapped(batch.inputs, batch.tokens).logits
        torch.testing.assert_close(found, model(batch.inputs, batch.tokens).logits)
    assert len(notes) == 1
    assert "CUDA graphs could not be recorded (CUDA out of memory" in notes[0]


@pytest.mark.parametrize(
    ("change", "phase"),
    [
        ({"cuda_graphs": False}, {}),
        ({"accumulate": 2}, {}),
        ({"precision": "fp16"}, {}),
        ({}, {"encoder_from": "layers", "unfreeze_every": 1}),
    ],
)
def test_what_is_not_recorded(change: dict[str, Any], phase: dict[str, Any], model: CaptionerModel) -> None:
    assert worth_recording(model, train=TrainConfig(), phase=PhaseConfig(), processes=1)
    assert not worth_recording(model, train=TrainConfig(), phase=PhaseConfig(), processes=2)
    assert not worth_recording(model, train=TrainConfig(**change), phase=PhaseConfig(**phase), processes=1)


def test_a_cudnn_lstm_is_not_recorded(vocabulary: Vocabulary) -> None:
    recipe = load_recipe("scenes", ["decoder.name=lstm", "decoder.tied=false", "encoder.pooled=true"])
    model = build_model(recipe, build_encoder(recipe), len(vocabulary))
    assert not worth_recording(model, train=TrainConfig(), phase=PhaseConfig(), processes=1)


@on_gpu
def test_a_recording_that_breaks_off_leaves_chance_as_it_was() -> None:
    torch.cuda.manual_seed(3)
    wanted = torch.rand(4, device="cuda")
    torch.cuda.manual_seed(3)

    def waits(x: Tensor) -> Tensor:
        drawn = nn.functional.dropout(x)
        return drawn * float(drawn.sum()) if torch.cuda.is_current_stream_capturing() else drawn

    with pytest.raises(RuntimeError):
        Recorder().function(waits, torch.ones(4, device="cuda"))
    assert torch.equal(torch.rand(4, device="cuda"), wanted)
    nn.functional.dropout(torch.ones(4, device="cuda"))
    doubled = Recorder().function(lambda x: 2 * nn.functional.dropout(x, 0.0), torch.ones(4, device="cuda"))
    assert doubled(torch.full((4,), 3.0, device="cuda")).tolist() == [6.0] * 4


@on_gpu
@pytest.mark.parametrize("decoder", ["attention", "adaptive", "updown", "transformer"])
def test_a_run_on_a_gpu_learns_with_and_without_recordings(decoder: str, tmp_path: Path) -> None:
    data = draw_scenes(tmp_path / "scenes", images=60, size=40)
    phases = (
        'train.phases=[{epochs=8, lr=3e-3}, {epochs=2, lr=1e-3, encoder_from="layers.conv2", encoder_lr=1e-3}, '
        '{epochs=2, lr=1e-4, objective="self-critical"}, {epochs=1, lr=1e-4, encoder_from="layers.conv2", objective="self-critical"}]'
    )
    losses = {}
    for graphs in ("true", "false"):
        recipe = load_recipe(
            "scenes",
            ["encoder.image_size=32", "train.batch_images=8", "train.patience=20", phases, f"decoder.name={decoder}", f"train.cuda_graphs={graphs}"],
        )  # fmt: skip
        notes: list[str] = []
        reports: list[Any] = []
        train(recipe, data=data, out=tmp_path / graphs, report=reports.append, note=notes.append)
        assert not any("could not be recorded" in note for note in notes), notes
        losses[graphs] = [report.train_loss for report in reports[:10]]
        assert losses[graphs][7] < 0.6 * losses[graphs][0]
        assert all(report.reward is not None and report.reward > 0 for report in reports[10:])
    assert losses["true"][7] == pytest.approx(losses["false"][7], rel=0.15)
