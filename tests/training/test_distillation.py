"""Distillation: a captioner imitates what others say together, from its own features and from theirs."""

from __future__ import annotations

import contextlib
import shutil
from pathlib import Path

import pytest
import torch
from command_line import refused, run
from training_runs import refuse, same, stopped

from showtell.bundle import Bundle, load_bundle
from showtell.config import PhaseConfig, Recipe, SearchConfig
from showtell.data.annotations import CaptionedImage, read_annotations
from showtell.data.dataset import Batch
from showtell.errors import BundleError, RecipeError
from showtell.model.captioner import CaptionerModel
from showtell.recipe import load_recipe
from showtell.training.distillation import Distillation
from showtell.training.run import Run, train
from showtell.training.runlog import EpochReport
from showtell.training.teachers import Teachers, taught_by

TAUGHT = '{epochs=2, lr=5e-3, objective="distillation", samples=3}'


@pytest.fixture(scope="module")
def other(tmp_path_factory: pytest.TempPathFactory, recipe_file: Path, data: Path) -> Path:
    """Another seed's bundle, whose CNN, drawn anew, is another one."""
    out = tmp_path_factory.mktemp("other") / "run"
    train(load_recipe(recipe_file, ["train.seed=1", "train.max_phases=1"]), data=data, out=out)
    return out / "bundle"


def taught(recipe_file: Path, data: Path, *changes: str) -> Recipe:
    """The small recipe, one phase of cross-entropy and one of distillation."""
    phases = f"train.phases=[{{epochs=1, lr=5e-3}}, {TAUGHT}]"
    return load_recipe(recipe_file, [phases, "train.accumulate=1", *changes])


def lesson_of(bundle: Bundle, teachers: Teachers, features: torch.Tensor, *also: torch.Tensor, training: bool) -> float:
    """The divergence of a bundle's own decoder from the teachers', on captions that it draws."""
    model = CaptionerModel(bundle.encoder, bundle.decoder)
    if not training:
        model.train = lambda mode=True: model  # type: ignore[method-assign]
    objective = Distillation(
        teachers, bundle.vocabulary, phase=PhaseConfig(objective="distillation"),
        search=SearchConfig(max_length=12), autocast=contextlib.nullcontext,
    )  # fmt: skip
    torch.manual_seed(0)
    batch = Batch(features, torch.zeros(len(features), 1, 1, dtype=torch.long), ("",) * len(features), also)
    return objective(model, batch, progress=0.0).value


def test_who_says_what_the_teacher_says_has_nothing_to_learn(whole: Path, other: Path) -> None:
    bundle, another = load_bundle(whole / "bundle"), load_bundle(other)
    features = torch.randn(3, bundle.encoder.regions, bundle.encoder.feature_size)
    alone = Teachers([bundle])
    assert alone.encoders(bundle.encoder.fingerprint()) == {}
    assert lesson_of(bundle, alone, features, training=False) == pytest.approx(0.0, abs=1e-6)
    both = Teachers([bundle, another])
    assert list(both.encoders(bundle.encoder.fingerprint()).values()) == [another.encoder]
    assert lesson_of(bundle, both, features, torch.randn_like(features), training=False) > 1e-4


def test_teachers_speak_with_the_mean_of_their_probabilities(whole: Path, other: Path) -> None:
    bundles = [load_bundle(whole / "bundle"), load_bundle(other)]
    teachers = Teachers(bundles)
    teachers.encoders("a student's")
    features = [torch.randn(2, b.encoder.regions, b.encoder.feature_size) for b in bundles]
    fed = torch.tensor([[[1, 5, 6], [1, 7, 0]], [[1, 0, 0], [1, 8, 9]]])
    words = fed != 0
    found = teachers.log_probs((torch.empty(0), *features), fed, words)
    each = [b.decoder(f, fed).logits.softmax(-1)[words] for b, f in zip(bundles, features, strict=True)]
    torch.testing.assert_close(found.exp(), torch.stack(each).mean(0))
    assert len(found) == int(words.sum())


def test_a_captioner_comes_near_its_teachers(recipe_file: Path, data: Path, whole: Path, tmp_path: Path) -> None:
    """It is smaller than its teacher, and knows its words without being told."""
    losses: list[float] = []

    def report(epoch: EpochReport) -> None:
        assert epoch.train_loss is not None
        losses.append(epoch.train_loss)

    recipe = load_recipe(recipe_file, [
        'train.phases=[{epochs=8, lr=1e-2, objective="distillation"}]', "decoder.name=lstm", "decoder.hidden=24",
        "encoder.pooled=true", "data.min_count=1000", "train.patience=8", "train.accumulate=1", "decoder.dropout=0.0",
    ])  # fmt: skip
    result = train(recipe, data=data, teachers=[whole / "bundle"], out=tmp_path / "run", report=report)
    assert losses[-1] < losses[0] / 3
    student = load_bundle(result.bundle)
    assert student.vocabulary.listed() == load_bundle(whole / "bundle").vocabulary.listed()
    assert student.config["recipe"]["train"]["teachers"] == ["bundle"]
    card = (result.bundle / "README.md").read_text(encoding="utf-8")
    assert "learned to say what another captioner says (`bundle`)" in card
    config = (result.bundle / "config.json").read_text(encoding="utf-8")
    assert str(whole) not in config + card  # a bundle names no folders of this machine


def test_teachers_see_with_their_own_cnns_and_a_run_goes_on_exactly(
    recipe_file: Path, data: Path, whole: Path, other: Path, tmp_path: Path
) -> None:
    cache = tmp_path / "cache"
    recipe = taught(recipe_file, data, f'data.cache="{cache}"', "train.phases.1.cached_views=2")
    teachers = [whole / "bundle", other]
    out = tmp_path / "whole"
    went: list[str] = []
    kept: list[int] = []

    def report(epoch: EpochReport) -> None:
        kept.append(len(list((out / "features").glob("*/light-1-v1/index.jsonl"))))

    train(recipe, data=data, teachers=teachers, out=out, report=report, progress=lambda what, *_: went.append(what))
    assert kept == [0, 2, 2]  # two teachers, two CNNs, in two views each
    assert not (out / "features").exists()
    assert {what for what in went if "teachers" in what} == {
        f"encoding images for teachers, {number} of 2, view {view} of 2" for number in (1, 2) for view in (1, 2)
    }
    steps = -(-len(read_annotations(data).split("train")) // 4)
    again = taught_by(recipe, teachers).trained_on(data)
    stopped(again, data, tmp_path / "stopped", after=steps + 3)
    encoded = {path: path.stat().st_mtime_ns for path in (tmp_path / "stopped" / "features").rglob("*.f16")}
    assert len(encoded) == 4
    seen: list[tuple[str, int, int]] = []
    train(recipe, data=data, out=tmp_path / "stopped", resume=True, progress=lambda *args: seen.append(args))
    assert {total for what, _, total in seen if "encoding" in what} == {0}  # all of it is still there
    same(out, tmp_path / "stopped")


def test_a_teacher_sees_the_view_that_its_student_sees(
    recipe_file: Path, data: Path, whole: Path, tmp_path: Path
) -> None:
    """Student and teacher have the same CNN, once known as such and once as one more."""
    recipe = load_recipe(recipe_file, [
        'train.phases=[{epochs=1, objective="distillation", cached_views=4}]', f'data.cache="{tmp_path / "cache"}"',
    ])  # fmt: skip
    recipe = taught_by(recipe, [whole / "bundle"]).trained_on(data)
    started = recipe.model_copy(update={"train": recipe.train.model_copy(update={"start": str(whole / "bundle")})})
    quiet = {"note": lambda _: None, "progress": lambda *_: None}
    run = Run(started, encoder_weights=None, out=tmp_path / "run", resume=False, **quiet)  # type: ignore[arg-type]
    caches = list(run.samples.caches.values())
    run.samples._also = [caches]
    batches = run.samples.batches(
        run.samples.order(0, batch_images=4), encoder=run.model.encoder, phase=run.phase, epoch=0
    )
    for batch in batches:
        (features,) = batch.also
        assert torch.equal(features, batch.inputs)


def test_what_does_not_go_together_is_one_sentence(
    recipe_file: Path, data: Path, whole: Path, images: list[CaptionedImage], tmp_path: Path
) -> None:
    out = tmp_path / "run"
    recipe = taught(recipe_file, data)
    refuse(RecipeError, r"train\.phases\.1.*nobody teaches.*--teacher", lambda: train(recipe, data=data, out=out))
    plain = load_recipe(recipe_file)
    refuse(
        RecipeError, "no phase of the recipe learns from a teacher",
        lambda: train(plain, data=data, teachers=[whole / "bundle"], out=out),
    )  # fmt: skip
    refuse(BundleError, "expected a bundle", lambda: train(recipe, data=data, teachers=[tmp_path], out=out))
    renamed = tmp_path / "renamed"
    shutil.copytree(whole / "bundle", renamed)
    tokens = renamed / "tokenizer.json"
    tokens.write_text(tokens.read_text(encoding="utf-8").replace('"red"', '"rot"'), encoding="utf-8")
    teachers = [whole / "bundle", renamed]
    refuse(
        RecipeError, r"renamed has other words than the teacher .*as many, but not the same",
        lambda: train(recipe, data=data, teachers=teachers, out=out),
    )  # fmt: skip
    refuse(
        RecipeError, "has other words than the teacher",
        lambda: train(recipe, data=data, start=renamed, teachers=[whole / "bundle"], out=out),
    )  # fmt: skip
    with pytest.raises(RecipeError, match="leaves the CNN as it is"):
        load_recipe("scenes", ['train.phases=[{objective="distillation", encoder_from="layers"}]'])
    with pytest.raises(RecipeError, match="a distillation phase feeds its own words"):
        load_recipe("scenes", ['train.phases=[{objective="distillation", scheduled_sampling=0.2}]'])
    refused(run("train", recipe_file, "--data", data, "--out", out, "--teacher", tmp_path / "none"), "is not a folder")
    assert not out.exists()


def test_a_phase_that_will_not_run_needs_no_teacher(recipe_file: Path, data: Path, whole: Path, tmp_path: Path) -> None:
    train(taught(recipe_file, data, "train.max_phases=1"), data=data, out=tmp_path / "run")
    more = taught(recipe_file, data)
    refuse(
        RecipeError, r"train\.teachers was \[\].*use another --out",  # its words would be others
        lambda: train(more, data=data, teachers=[whole / "bundle"], out=tmp_path / "run", resume=True),
    )  # fmt: skip
