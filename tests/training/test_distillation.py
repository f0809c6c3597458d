"""Distillation: a captioner imitates what others say together, from its own features and from theirs."""

from __future__ import annotations

import contextlib
import json
import shutil
from pathlib import Path

import numpy as np
import pytest
import torch
from command_line import refused, run
from PIL import Image
from training_runs import lines, refuse, same, stopped

from showtell.bundle import Bundle, load_bundle
from showtell.config import PhaseConfig, Recipe, SearchConfig
from showtell.data.annotations import read_annotations
from showtell.data.augment import AugmentedView
from showtell.data.dataset import Batch
from showtell.errors import BundleError, DataError, RecipeError
from showtell.images import ImageTransform, open_image
from showtell.model.captioner import CaptionerModel
from showtell.recipe import load_recipe
from showtell.training.checkpoint import Position
from showtell.training.distillation import Distillation
from showtell.training.run import train
from showtell.training.runlog import EpochReport
from showtell.training.teachers import Teachers, taught_by
from showtell.training.tune import parse_space, tune

CPU = torch.device("cpu")
TAUGHT = '{epochs=2, lr=5e-3, objective="distillation", samples=3}'


@pytest.fixture(scope="module")
def other(tmp_path_factory: pytest.TempPathFactory, recipe_file: Path, data: Path) -> Path:
    """Another seed's bundle, whose CNN, drawn anew, is another one and sees larger pictures."""
    out = tmp_path_factory.mktemp("other") / "run"
    changes = ["train.seed=1", "train.max_phases=1", "encoder.image_size=48"]
    train(load_recipe(recipe_file, changes), data=data, out=out)
    return out / "bundle"


def taught(recipe_file: Path, *changes: str) -> Recipe:
    """The small recipe, one phase of cross-entropy and one of distillation."""
    phases = f"train.phases=[{{epochs=1, lr=5e-3}}, {TAUGHT}]"
    return load_recipe(recipe_file, [phases, "train.accumulate=1", *changes])


def said_together(*bundles: Bundle) -> Teachers:
    return Teachers(bundles, names=[str(bundle.path) for bundle in bundles], device=CPU)


def divergence(student: Bundle, teachers: Teachers, *features: torch.Tensor) -> float:
    """The student's from its teachers, on captions that it draws."""
    model = CaptionerModel(student.encoder, student.decoder).train()
    objective = Distillation(
        teachers, student.vocabulary, phase=PhaseConfig(objective="distillation"),
        search=SearchConfig(max_length=12), autocast=contextlib.nullcontext,
    )  # fmt: skip
    torch.manual_seed(0)
    tokens = torch.zeros(len(features[0]), 1, 1, dtype=torch.long)
    return objective(model, Batch(features[0], tokens, ("",) * len(tokens), features), progress=0.0).value


def test_who_says_what_the_teacher_says_has_nothing_to_learn(whole: Path, other: Path) -> None:
    bundle, another = load_bundle(whole / "bundle"), load_bundle(other)
    features = torch.randn(3, bundle.encoder.regions, bundle.encoder.feature_size)
    assert divergence(bundle, said_together(bundle), features) == pytest.approx(0.0, abs=1e-6)
    assert divergence(bundle, said_together(bundle, another), features, features) > 1e-4


def test_teachers_speak_with_the_mean_of_their_probabilities(whole: Path, other: Path) -> None:
    bundles = [load_bundle(whole / "bundle"), load_bundle(other), load_bundle(whole / "bundle")]
    teachers = said_together(*bundles)
    assert [bundle.path for bundle in teachers.encoders.values()] == [whole / "bundle", other]  # each CNN once
    features = [torch.randn(2, b.encoder.regions, b.encoder.feature_size) for b in bundles[:2]]
    fed = torch.tensor([[[1, 5, 6], [1, 7, 0]], [[1, 0, 0], [1, 8, 9]]])
    words = fed != 0
    found = teachers.log_probs(features, fed, words)
    seen = [features[0], features[1], features[0]]
    each = [b.decoder(f, fed).logits.softmax(-1)[words] for b, f in zip(bundles, seen, strict=True)]
    torch.testing.assert_close(found.exp(), torch.stack(each).mean(0))
    assert len(found) == int(words.sum())


@pytest.mark.slow
def test_a_small_captioner_comes_near_a_larger_one(recipe_file: Path, data: Path, whole: Path, tmp_path: Path) -> None:
    """It knows its teacher's words without being told."""
    losses: list[float] = []

    def report(epoch: EpochReport) -> None:
        assert epoch.train_loss is not None
        losses.append(epoch.train_loss)

    recipe = load_recipe(recipe_file, [
        'train.phases=[{epochs=8, lr=1e-2, objective="distillation"}]', "decoder.name=lstm", "decoder.hidden=24",
        "encoder.pooled=true", "data.min_count=1000", "train.patience=8", "train.accumulate=1", "decoder.dropout=0.0",
    ])  # fmt: skip
    result = train(recipe, data=data, teachers=whole / "bundle", out=tmp_path / "run", report=report)
    assert losses[-1] < losses[0] / 3
    student = load_bundle(result.bundle)
    assert student.vocabulary.listed() == load_bundle(whole / "bundle").vocabulary.listed()
    assert student.config["recipe"]["train"]["teachers"] == ["bundle"]
    card = (result.bundle / "README.md").read_text(encoding="utf-8")
    assert "learned to say what another captioner says.\n" in card
    config = (result.bundle / "config.json").read_text(encoding="utf-8")
    assert str(whole) not in config + card  # a bundle names no folders of this machine


def test_the_recipe_for_it_starts_from_a_captioner(
    data: Path, whole: Path, other: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(Position, "better", lambda *_: True)  # on so few images one epoch may be worse than the start
    teachers = ("--teacher", whole / "bundle", "--teacher", other)
    small = ("train.phases.0.epochs=1", "train.phases.0.cached_views=2", "train.batch_images=8", "train.warmup=0")
    out = tmp_path / "run"
    done = run("train", "distill", *small, "--data", data, "--start", whole / "bundle", *teachers, "--out", out)
    assert done.exit_code == 0, done.output
    assert f"teachers: {whole / 'bundle'}, {other}" in done.stderr
    assert "It learned to say what 2 captioners say together." in (out / "bundle" / "README.md").read_text()
    assert load_bundle(out / "bundle").encoder.fingerprint() == load_bundle(whole / "bundle").encoder.fingerprint()


@pytest.mark.slow
def test_teachers_see_with_their_own_cnns_and_a_run_goes_on_exactly(
    recipe_file: Path, data: Path, whole: Path, other: Path, tmp_path: Path
) -> None:
    cache = tmp_path / "cache"
    recipe = taught(recipe_file, f'data.cache="{cache}"', "train.phases.1.cached_views=2")
    teachers = [whole / "bundle", other]
    out = tmp_path / "whole"
    went: list[str] = []
    train(recipe, data=data, teachers=teachers, out=out, progress=lambda what, *_: went.append(what))
    labels = {what for what in went if "teachers" in what}
    assert {f"encoding images for teachers, 2 of 2, view {view} of 2" for view in (1, 2)} <= labels
    views = {path.name for path in cache.glob("*/light-*")}
    assert views == {"light-1-v1", "light-1-v1-96"}  # the student's pictures, decoded as the larger one's
    steps = -(-len(read_annotations(data).split("train")) // 4)
    again = taught_by(recipe, teachers).trained_on(data)
    stopped(again, data, tmp_path / "stopped", after=steps + 3)
    seen: list[tuple[str, int, int]] = []
    train(recipe, data=data, out=tmp_path / "stopped", resume=True, progress=lambda *args: seen.append(args))
    assert {total for what, _, total in seen if "encoding" in what} == {0}  # all of it is still there
    same(out, tmp_path / "stopped")


def test_views_of_pictures_of_two_sizes_crop_alike(tmp_path: Path) -> None:
    """A large JPEG is decoded smaller where less is needed, and what is cropped is drawn from its pixels."""
    width, height = 2000, 1500
    x, y = np.meshgrid(np.linspace(0, 255, width), np.linspace(0, 255, height))
    photo = tmp_path / "photo.jpg"
    Image.fromarray(np.stack([x, y, y], -1).astype(np.uint8)).save(photo, quality=95)
    small, large = (
        ImageTransform(
            size=size, resize=size, crop_mode="squash", mean=(0.0,) * 3, std=(1.0,) * 3, interpolation="bilinear"
        )
        for size in (64, 200)
    )

    def corners(transform: ImageTransform, number: int, decoded_for: int) -> list[float]:
        """What lies at the picture's left, right, top and bottom edge: where the crop begins and ends."""
        view = AugmentedView(transform, number, "light", decoded_for)
        seen = view(open_image(photo, enough=view.enough))
        return [float(v) for v in (seen[0, 0, 0], seen[0, 0, -1], seen[1, 0, 0], seen[1, -1, 0])]

    for number in (1, 2, 3, 4):
        student = corners(small, number, small.enough)
        assert corners(large, number, small.enough) == pytest.approx(student, abs=0.02)
    apart = [np.abs(np.subtract(corners(large, n, 0), corners(small, n, 0))).max() for n in (1, 2, 3, 4)]
    assert max(apart) > 0.05  # decoded as each needs it, they do not


@pytest.mark.slow
def test_other_teachers_may_not_go_on(recipe_file: Path, data: Path, whole: Path, other: Path, tmp_path: Path) -> None:
    recipe = taught(recipe_file, "train.phases.1.epochs=1")
    moved = tmp_path / "moved"
    shutil.copytree(whole / "bundle", moved)
    train(recipe, data=data, teachers=whole / "bundle", out=tmp_path / "run")
    one = '{epochs=1, lr=5e-3, objective="distillation", samples=3}'
    phases = f"train.phases=[{{epochs=1, lr=5e-3}}, {one}, {one}]"
    longer = load_recipe(recipe_file, [phases, "train.accumulate=1"])
    refuse(
        RecipeError, "has learned from other teachers",
        lambda: train(longer, data=data, teachers=other, out=tmp_path / "run", resume=True),
    )  # fmt: skip
    train(longer, data=data, teachers=moved, out=tmp_path / "run", resume=True)
    assert [line["phase"] for line in lines(tmp_path / "run")] == [1, 2, 3]


@pytest.mark.slow
@pytest.mark.parametrize("started", [False, True])
def test_a_finished_run_may_learn_from_a_teacher(
    started: bool, recipe_file: Path, data: Path, whole: Path, tmp_path: Path
) -> None:
    start, out = whole / "bundle" if started else None, tmp_path / "run"
    train(taught(recipe_file, "train.max_phases=1"), data=data, start=start, out=out)  # which needs no teacher
    more = taught(recipe_file, "train.phases.1.epochs=1")
    renamed = other_words(whole / "bundle", tmp_path / "renamed")
    refuse(
        RecipeError, "other words than", lambda: train(more, data=data, teachers=renamed, out=out, resume=True)
    )  # fmt: skip
    teacher = tmp_path / "teacher"  # whose data were split otherwise, which is not for a run that goes on
    shutil.copytree(whole / "bundle", teacher)
    config = json.loads((teacher / "config.json").read_text(encoding="utf-8"))
    config["recipe"]["data"] |= {"val": 0.3, "split_seed": 7}
    (teacher / "config.json").write_text(json.dumps(config), encoding="utf-8")
    train(more, data=data, teachers=teacher, out=out, resume=True)
    assert [line["phase"] for line in lines(out)] == [1, 2]
    no_more = load_recipe(recipe_file, ["train.phases=[{epochs=1, lr=5e-3}]", "train.accumulate=1"])
    refuse(  # nobody asks for a teacher whom no phase needs
        RecipeError, r"train\.phases\.1 is gone", lambda: train(no_more, data=data, out=out, resume=True)
    )  # fmt: skip


@pytest.mark.slow
def test_a_run_keeps_its_teachers_words(recipe_file: Path, data: Path, whole: Path, tmp_path: Path) -> None:
    """Stopped before it learns from them, it goes on with their words, or not at all."""
    fewer = ("train.max_phases=1", "data.min_count=1000")
    train(taught(recipe_file, *fewer), data=data, teachers=whole / "bundle", out=tmp_path / "run")
    train(taught(recipe_file, *fewer), data=data, out=tmp_path / "run", resume=True)  # it knows who teaches
    assert json.loads((tmp_path / "run" / "recipe.json").read_text())["train"]["teachers"] == [str(whole / "bundle")]
    less = ("data.min_count=12", "train.phases=[{epochs=1, lr=5e-3}]")
    train(taught(recipe_file, *fewer, less[0]), data=data, teachers=whole / "bundle", out=tmp_path / "other")
    alone = taught(recipe_file, *less)
    refuse(
        RecipeError, "other was trained with other words than those found now",
        lambda: train(alone, data=data, out=tmp_path / "other", resume=True),
    )  # fmt: skip


def test_data_are_split_as_the_teachers_were(recipe_file: Path, whole: Path, tmp_path: Path) -> None:
    folder = tmp_path / "bundle"
    shutil.copytree(whole / "bundle", folder)
    config = json.loads((folder / "config.json").read_text(encoding="utf-8"))
    config["recipe"]["data"] |= {"val": 0.3, "split_seed": 7, "vocabulary": "bpe"}
    (folder / "config.json").write_text(json.dumps(config), encoding="utf-8")
    recipe = taught_by(taught(recipe_file), [folder])
    assert (recipe.data.val, recipe.data.split_seed, recipe.data.vocabulary) == (0.3, 7, "bpe")
    assert taught_by(taught(recipe_file, "data.val=0.2"), [folder]).data.val == 0.2


def other_words(bundle: Path, to: Path) -> Path:
    """A copy of a bundle that calls one colour otherwise."""
    shutil.copytree(bundle, to)
    tokens = to / "tokenizer.json"
    tokens.write_text(tokens.read_text(encoding="utf-8").replace('"red"', '"rot"'), encoding="utf-8")
    return to


def test_what_does_not_go_together_is_one_sentence(recipe_file: Path, data: Path, whole: Path, tmp_path: Path) -> None:
    out, bundle = tmp_path / "run", whole / "bundle"
    recipe = taught(recipe_file)
    refuse(RecipeError, r"train\.phases\.1.*nobody teaches.*--teacher", lambda: train(recipe, data=data, out=out))
    refuse(
        RecipeError, "nobody teaches",
        lambda: tune(recipe, parse_space(["train.ema=[0.8, 0.9]"]), trials=1, out=tmp_path / "tuned", data=data),  # type: ignore[arg-type, return-value]
    )  # fmt: skip
    plain = load_recipe(recipe_file)
    refuse(RecipeError, "no phase of the recipe", lambda: train(plain, data=data, teachers=bundle, out=out))
    refuse(BundleError, "expected a bundle", lambda: train(recipe, data=data, teachers=[tmp_path], out=out))
    refused(
        run("train", recipe_file, "data.vocabulary=bpe", "--data", data, "--out", out, "--teacher", bundle),
        "'data.vocabulary'", "has the same words",
    )  # fmt: skip
    renamed = other_words(bundle, tmp_path / "renamed")
    refuse(
        RecipeError, r"renamed has other words than the teacher .*as many, but not the same",
        lambda: train(recipe, data=data, teachers=[bundle, renamed], out=out),
    )  # fmt: skip
    refuse(
        RecipeError, "has other words than the teacher",
        lambda: train(recipe, data=data, start=renamed, teachers=[bundle], out=out),
    )  # fmt: skip
    rows = [{"image": str(i.path), "captions": ["Ж Ж Ж"], "split": i.split} for i in read_annotations(data).images]
    foreign = tmp_path / "foreign.jsonl"
    foreign.write_text("".join(json.dumps(row) + "\n" for row in rows), encoding="utf-8")
    refuse(DataError, "the teacher knows 0 %", lambda: train(recipe, data=foreign, teachers=bundle, out=out))
    shutil.copytree(bundle, tmp_path / "there" / "bundle")
    refuse(
        RecipeError, "that teaches lies there and would be written over",
        lambda: train(recipe, data=data, teachers=tmp_path / "there" / "bundle", out=tmp_path / "there"),
    )  # fmt: skip
    with pytest.raises(RecipeError, match="leaves the CNN as it is"):
        load_recipe("scenes", ['train.phases=[{objective="distillation", encoder_from="layers"}]'])
    with pytest.raises(RecipeError, match="a distillation phase feeds its own words"):
        load_recipe("scenes", ['train.phases=[{objective="distillation", scheduled_sampling=0.2}]'])
    refused(run("train", recipe_file, "--data", data, "--out", out, "--teacher", tmp_path / "none"), "is not a folder")
    assert load_recipe(recipe_file, ["train.teachers=one"]).train.teachers == ("one",)
    assert not out.exists()
