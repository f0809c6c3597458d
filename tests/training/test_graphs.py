"""Steps that are recorded and replayed teach what plain ones do. Recording itself needs a GPU; all else is tested without."""

from __future__ import annotations

import contextlib
import dataclasses
import weakref
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch
from accelerate import Accelerator
from torch import Tensor, nn

from showtell.bundle import build_encoder, build_model, load_bundle
from showtell.config import PhaseConfig, Recipe, SearchConfig, TrainConfig
from showtell.data.annotations import CaptionedImage
from showtell.data.dataset import Batch, make_groups, pad
from showtell.data.scenes import draw_scenes
from showtell.data.vocabulary import Vocabulary
from showtell.decoding import SearchOptions
from showtell.model.captioner import CaptionerModel
from showtell.recipe import load_recipe
from showtell.search import draw
from showtell.training.distillation import Distillation
from showtell.training.graphs import Function, Recorded, Recorder, worth_recording
from showtell.training.learner import Learner
from showtell.training.lesson import Lesson
from showtell.training.loop import train_steps
from showtell.training.objectives import CrossEntropy
from showtell.training.run import train
from showtell.training.self_critical import SelfCritical
from showtell.training.teachers import Teachers

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
    longest = batch.tokens.shape[-1]
    objective = CrossEntropy(TrainConfig(doubly_stochastic=0.5, label_smoothing=0.1), PhaseConfig(), vocabulary)
    wrapped, _ = recorded(model, device)
    whole = batch
    for steps in (longest, 6, longest, 6, 5):  # recordings of several lengths share their memory
        batch = dataclasses.replace(whole, tokens=whole.tokens[..., :steps])
        value, wanted = gradients(model, objective, batch)
        found, got = gradients(model, objective, batch, wrapped)
        assert found == pytest.approx(value, rel=1e-4)
        torch.testing.assert_close(got, wanted, rtol=1e-3, atol=1e-5)
        with torch.no_grad():  # the next round sees other weights
            for parameter in model.parameters():
                parameter.add_(0.01 * torch.randn_like(parameter))


@pytest.mark.skipif(
    not torch.cuda.is_available(), reason="only a recording, on a GPU, could drop the same numbers again"
)
@pytest.mark.parametrize("variational", [False, True])
def test_each_replay_drops_other_numbers(
    variational: bool, images: list[CaptionedImage], vocabulary: Vocabulary, recipe: Recipe
) -> None:
    changed = ["encoder.image_size=32", "decoder.dropout=0.5", f"decoder.variational={str(variational).lower()}"]
    recipe = load_recipe("scenes", changed)
    model = build_model(recipe, build_encoder(recipe), len(vocabulary)).to("cuda").train()
    batch = batch_of(model, images[:4], vocabulary, "cuda")
    wrapped, _ = recorded(model, "cuda")
    first, second = (wrapped(batch.inputs, batch.tokens).logits.detach().clone() for _ in range(2))
    assert not torch.allclose(first, second, atol=1e-2)


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
    drawn = objective._own.draw(wrapped, batch.inputs)
    assert drawn.shape == (4, 4, 1)  # every caption ends at once
    assert bool((drawn == vocabulary.end_id).all())


@pytest.mark.parametrize("device", WHERE)
def test_what_teachers_say_is_learned_from_what_is_replayed(
    device: str, images: list[CaptionedImage], vocabulary: Vocabulary, model: CaptionerModel, tiny_bundle: Path
) -> None:
    bundle = dataclasses.replace(load_bundle(tiny_bundle), vocabulary=vocabulary)
    torch.manual_seed(2)
    another = build_model(load_recipe("scenes", ["encoder.image_size=32"]), model.encoder, len(vocabulary))
    bundle = dataclasses.replace(bundle, encoder=model.encoder, decoder=another.decoder.eval())
    teachers = Teachers([bundle], names=["another"], device=torch.device(device))
    model.to(device)
    objective = Distillation(
        teachers, vocabulary, phase=PhaseConfig(objective="distillation", samples=3),
        search=SearchConfig(max_length=12), autocast=contextlib.nullcontext,
    )  # fmt: skip
    batch = batch_of(model, images[:4], vocabulary, device)
    batch = dataclasses.replace(batch, of_teachers=(batch.inputs,))
    wrapped, recorder = recorded(model, device)
    optimizer = torch.optim.Adam(model.decoder.parameters(), lr=1e-2)
    values = []
    for _ in range(12):
        lesson = objective(wrapped, batch, progress=0.0)  # type: ignore[arg-type]
        lesson.loss.backward()
        optimizer.step()
        optimizer.zero_grad()
        values.append(lesson.value)
        del lesson
    assert values[-1] < values[0] / 2
    if isinstance(recorder, NothingRecorded):
        assert {name for name, _ in recorder.asked} == {"function", "decoder"}


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
    held: list[weakref.ref[nn.Module]] = []

    def refuse(*_: Any) -> Function:
        half_recorded = nn.Linear(1, 1)
        held.append(weakref.ref(half_recorded))
        raise torch.OutOfMemoryError("CUDA out of memory. Tried to allocate 2 GiB")

    def note(text: str) -> None:
        assert held[-1]() is None  # its memory is free before the step is tried again
        notes.append(text)

    notes: list[str] = []
    wrapped = Recorded(model.eval(), images=4, autocast=contextlib.nullcontext, note=note, recorder=NothingRecorded())
    monkeypatch.setattr(wrapped._recorder, "module", refuse)
    batch = batch_of(model, images[:4], vocabulary, "cpu")
    for _ in range(2):
        found = wrapped(batch.inputs, batch.tokens).logits
        torch.testing.assert_close(found, model(batch.inputs, batch.tokens).logits)
    assert len(notes) == 1
    assert "CUDA graphs could not be recorded (decoder: CUDA out of memory" in notes[0]


def test_one_part_that_cannot_be_recorded_leaves_the_other(
    images: list[CaptionedImage], vocabulary: Vocabulary, model: CaptionerModel, monkeypatch: pytest.MonkeyPatch
) -> None:
    plain = NothingRecorded.module

    def choosy(self: NothingRecorded, name: str, part: nn.Module, arguments: tuple[Tensor, ...]) -> Function:
        if name == "encoder":
            raise RuntimeError("operation not permitted when stream is capturing")
        return plain(self, name, part, arguments)

    monkeypatch.setattr(NothingRecorded, "module", choosy)
    wrapped, recorder = recorded(model, "cpu", notes := [])
    batch = batch_of(model, images[:4], vocabulary, "cpu")
    for steps in (8, 12):
        wrapped(torch.randn(4, 3, 32, 32), batch.tokens[..., :steps])
    assert isinstance(recorder, NothingRecorded)
    assert [name for name, _ in recorder.asked] == ["decoder", "decoder"]
    assert len(notes) == 1
    assert "(encoder: operation not permitted" in notes[0]


def test_a_draw_that_is_not_replayed_ends_with_its_captions(
    images: list[CaptionedImage], vocabulary: Vocabulary, model: CaptionerModel, monkeypatch: pytest.MonkeyPatch
) -> None:
    asked: list[bool] = []

    def counted(*arguments: Any, **options: Any) -> Any:
        asked.append(options["together"])
        return draw(*arguments, **options)

    monkeypatch.setattr("showtell.training.own_captions.draw", counted)
    phase = PhaseConfig(objective="self-critical")
    objective = SelfCritical(
        images, vocabulary, phase=phase, search=SearchConfig(max_length=12), autocast=contextlib.nullcontext
    )
    wrapped, _ = recorded(model.eval(), "cpu")
    for many in (4, 3):  # a batch of three is smaller than the others
        objective._own.draw(wrapped, batch_of(model, images[:many], vocabulary, "cpu").inputs)
    assert asked == [True, False]


def test_nothing_of_a_step_is_left_when_the_next_begins(
    images: list[CaptionedImage], vocabulary: Vocabulary, model: CaptionerModel
) -> None:
    """Or the next one could not be recorded."""
    inner = CrossEntropy(TrainConfig(), PhaseConfig(), vocabulary)
    losses: list[weakref.ref[Tensor]] = []

    def objective(model: CaptionerModel, batch: Batch, *, progress: float) -> Lesson:
        assert all(loss() is None for loss in losses)
        lesson = inner(model, batch, progress=progress)
        losses.append(weakref.ref(lesson.loss))
        return lesson

    optimizer = torch.optim.SGD(model.parameters(), lr=0.1)
    optimizer.param_groups[0] |= {"base_lr": 0.1, "first_epoch": 0}
    batch = batch_of(model, images[:4], vocabulary, "cpu")
    learner = Learner(model, objective, dict(model.named_parameters()), optimizer, averaged=None, epochs=1)
    steps = train_steps(
        [batch] * 3, learner=learner, accelerator=Accelerator(cpu=True), train=TrainConfig(), before=0, first_step=0, epoch_steps=3
    )  # fmt: skip
    assert len(list(steps)) == len(losses) == 3


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
    assert worth_recording(model, train=TrainConfig(), phase=PhaseConfig())
    assert not worth_recording(model, train=TrainConfig(**change), phase=PhaseConfig(**phase))


def test_a_cudnn_lstm_is_not_recorded(vocabulary: Vocabulary) -> None:
    recipe = load_recipe("scenes", ["decoder.name=lstm", "decoder.tied=false", "encoder.pooled=true"])
    model = build_model(recipe, build_encoder(recipe), len(vocabulary))
    assert not worth_recording(model, train=TrainConfig(), phase=PhaseConfig())


@on_gpu
def test_a_recording_that_breaks_off_leaves_chance_as_it_was() -> None:
    stream = torch.cuda.current_stream()
    torch.cuda.manual_seed(3)
    wanted = torch.rand(4, device="cuda")
    torch.cuda.manual_seed(3)

    def waits(x: Tensor) -> Tensor:
        drawn = nn.functional.dropout(x)
        return drawn * float(drawn.sum()) if torch.cuda.is_current_stream_capturing() else drawn

    with pytest.raises(RuntimeError):
        Recorder().function(waits, torch.ones(4, device="cuda"))
    assert torch.cuda.current_stream() == stream
    assert torch.equal(torch.rand(4, device="cuda"), wanted)
    nn.functional.dropout(torch.ones(4, device="cuda"))
    doubled = Recorder().function(lambda x: 2 * nn.functional.dropout(x, 0.0), torch.ones(4, device="cuda"))
    assert doubled(torch.full((4,), 3.0, device="cuda")).tolist() == [6.0] * 4


@on_gpu
@pytest.mark.parametrize("decoder", ["attention", "adaptive", "updown", "transformer"])
def test_a_run_on_a_gpu_learns_with_and_without_recordings(
    decoder: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    data = draw_scenes(tmp_path / "scenes", images=60, size=40)
    phases = (
        'train.phases=[{epochs=8, lr=3e-3}, {epochs=2, lr=1e-3, encoder_from="layers.conv2", encoder_lr=1e-3}, '
        '{epochs=2, lr=1e-4, objective="self-critical"}, {epochs=1, lr=1e-4, encoder_from="layers.conv2", objective="self-critical"}]'
    )
    losses = {}
    plain, recordings = torch.cuda.make_graphed_callables, []

    def counted(*arguments: Any, **options: Any) -> Any:
        recordings.append(arguments)
        return plain(*arguments, **options)

    monkeypatch.setattr("torch.cuda.make_graphed_callables", counted)
    for graphs in ("true", "false"):
        recipe = load_recipe(
            "scenes",
            ["encoder.image_size=32", "train.batch_images=8", "train.patience=20", phases, f"decoder.name={decoder}", f"train.cuda_graphs={graphs}"],
        )  # fmt: skip
        notes: list[str] = []
        reports: list[Any] = []
        train(recipe, data=data, out=tmp_path / graphs, report=reports.append, note=notes.append)
        assert not any("could not be recorded" in note for note in notes), notes
        assert bool(recordings) == (graphs == "true")
        recordings.clear()
        losses[graphs] = [report.train_loss for report in reports[:10]]
        assert losses[graphs][7] < 0.6 * losses[graphs][0]
        assert all(report.reward is not None and report.reward > 0 for report in reports[10:])
    assert losses["true"][7] == pytest.approx(losses["false"][7], rel=0.15)
