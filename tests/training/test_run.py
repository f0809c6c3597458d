"""A whole run, small: it learns, leaves what it says, and says what is wrong."""

from __future__ import annotations

import json
import os
import shutil
import subprocess
import sys
from pathlib import Path

import pytest
import timm
import torch
from accelerate import Accelerator
from safetensors.torch import load_file
from torch import Tensor
from training_runs import lines, on_the_cpu, refuse, same, steps_an_epoch

import showtell
from showtell.bundle import load_bundle
from showtell.captioner import Captioner
from showtell.data.annotations import read_annotations
from showtell.data.scenes import draw_scenes
from showtell.errors import DataError, RecipeError
from showtell.evaluation import evaluate_captioner
from showtell.metrics import Report
from showtell.model.captioner import CaptionerModel
from showtell.model.contract import Output
from showtell.recipe import load_recipe
from showtell.report.collect import collect, read_epochs
from showtell.training.run import Run, train


def test_a_run_leaves_what_it_says(whole: Path, data: Path) -> None:
    log = lines(whole)
    assert [line["epoch"] for line in log] == [1, 2, 3, 4]
    assert [line["phase"] for line in log] == [1, 1, 2, 2]
    assert [line["trains_encoder"] for line in log] == [False, False, True, True]
    shown = min(3, len(read_annotations(data).split("val")))
    assert all(len(line["samples"]) == shown for line in log)  # type: ignore[arg-type]
    assert set(log[0]["scores"]) == {"bleu_1", "bleu_2", "bleu_3", "bleu_4", "rouge_l", "cider"}  # type: ignore[call-overload]
    assert list((whole / "tensorboard").iterdir())
    bundle = load_bundle(whole / "bundle")
    training = bundle.config["training"]
    best = max(log, key=lambda line: line["scores"]["cider"])  # type: ignore[index]
    assert training["epoch"] == best["epoch"]
    assert all(line["protocol"] == training["protocol"] for line in log)
    assert [epoch.number for epoch in read_epochs(whole / "log.jsonl")] == [1, 2, 3, 4]
    val = evaluate_captioner(Captioner.load(whole / "bundle"), data, split="val")
    assert val.report.scores == pytest.approx(training["scores"], abs=1e-9)


def test_a_bundle_and_its_card_say_what_it_was_made_with(whole: Path) -> None:
    made = load_bundle(whole / "bundle").config["training"]["made_with"]
    device = Accelerator().device.type
    assert made == {
        "showtell": showtell.__version__, "torch": torch.__version__, "timm": timm.__version__,
        "device": device, "processes": 1,
    }  # fmt: skip
    card = (whole / "bundle" / "README.md").read_text(encoding="utf-8")
    assert (
        f"Made with showtell {showtell.__version__}, torch {torch.__version__} and timm {timm.__version__}, on {device}."
        in card
    )
    assert "max length 12" in card


def test_training_is_deterministic(whole: Path, recipe_file: Path, data: Path, tmp_path: Path) -> None:
    train(load_recipe(recipe_file), data=data, out=tmp_path / "again")
    same(whole, tmp_path / "again")


def test_one_validation_image_is_too_few(recipe_file: Path, data: Path, tmp_path: Path) -> None:
    recipe = load_recipe(recipe_file)
    rows = [json.loads(line) for line in (data / "captions.jsonl").read_text().splitlines()]
    for name in ("train", "val"):
        kept = [row for row in rows if row["split"] == name][: 1 if name == "val" else 6]
        rows = [row for row in rows if row["split"] != name] + kept
    shutil.copytree(data, tmp_path / "few")
    (tmp_path / "few" / "captions.jsonl").write_text("".join(json.dumps(row) + "\n" for row in rows))
    with pytest.raises(DataError, match=r"CIDEr.*is 0 for a single image.*data.val"):
        train(recipe, data=tmp_path / "few", out=tmp_path / "run")


@pytest.mark.slow
def test_few_images_get_more_epochs(recipe_file: Path, data: Path, tmp_path: Path) -> None:
    notes: list[str] = []

    def epochs(min_steps: int) -> list[dict[str, object]]:
        out = tmp_path / str(min_steps)
        phases = f"train.phases=[{{epochs=2, lr=5e-3, min_steps={min_steps}}}]"
        train(load_recipe(recipe_file, [phases, "train.patience=9"]), data=data, out=out, note=notes.append)
        return lines(out)

    steps = steps_an_epoch(data)
    log = epochs(3 * steps + 1)
    assert len(log) == 4
    assert log[-1]["lr"] < 0.2 * 5e-3 < log[1]["lr"]  # type: ignore[operator]  # the cosine goes over all of them
    assert any(note.startswith("phase 1: up to 4 epochs, not 2: ") for note in notes)
    assert len(epochs(2 * steps)) == 2
    assert len([note for note in notes if note.startswith("phase ")]) == 1


@pytest.mark.slow
def test_patience_grows_with_the_epochs_and_both_have_an_end(
    recipe_file: Path, data: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The first epoch stays the best, and ten times the epochs wait ten times as long."""
    validated = Run._validate
    alike = {"cider": 0.5, "rouge_l": 0.5}
    monkeypatch.setattr(Run, "_validate", lambda run: (lambda c, s, r: (c, s | alike, r))(*validated(run)))
    recipe = load_recipe(recipe_file, ["train.phases=[{epochs=1, lr=1e-12, min_steps=1000}]", "train.patience=1"])
    notes: list[str] = []
    train(recipe, data=data, out=tmp_path / "run", note=notes.append)
    assert any(note.startswith("phase 1: up to 10 epochs, not 1: ") for note in notes)
    assert len(lines(tmp_path / "run")) == 10
    recipe = load_recipe(recipe_file, ["train.phases=[{epochs=2, lr=1e-12, min_steps=1000}]", "train.patience=1"])
    train(recipe, data=data, out=tmp_path / "half")
    assert len(lines(tmp_path / "half")) == 1 + 10


@pytest.mark.slow
def test_eight_images_are_learnt_by_heart(tmp_path: Path) -> None:
    """The whole path, end to end: what can be memorised is said word for word, and the images decide which."""
    drawn = draw_scenes(tmp_path / "scenes", images=16, size=48)
    rows = [json.loads(line) for line in (drawn / "captions.jsonl").read_text(encoding="utf-8").splitlines()]
    eight = [{**row, "captions": row["captions"][:1], "split": "train"} for row in rows[:8]]
    names = [row["image"] for row in eight]
    held = [{**row, "image": f"images/val-{i}.png", "split": "val"} for i, row in enumerate(eight)]
    for name, row in zip(names, held, strict=True):  # the same pictures, so that validation sees what was learnt
        (drawn / row["image"]).write_bytes((drawn / name).read_bytes())
    text = "".join(json.dumps(row) + "\n" for row in [*eight, *held])
    (drawn / "captions.jsonl").write_text(text, encoding="utf-8")
    epochs = 150
    recipe = load_recipe(
        "scenes",
        [
            "decoder.name=attention", "decoder.embedding=64", "decoder.hidden=64", "decoder.tied=false", "decoder.dropout=0.0", "data.min_count=1",
            "encoder.image_size=48", "train.batch_images=8", "train.ema=0.0", "train.warmup=0", f"train.patience={epochs}",
            f'train.phases=[{{epochs={epochs}, lr=2e-3, encoder_from="layers", encoder_lr=2e-3, augment="none"}}]',
        ],
    )  # fmt: skip
    result = train(recipe, data=drawn, out=tmp_path / "run")
    assert result.scores["bleu_4"] > 0.99


@pytest.mark.parametrize(
    ("name", "lower", "upper"),
    [
        ("small", "layers", "layers.conv2"),
        ("test_resnet.r160_in1k", "layer2", "layer3"),
    ],
)
@pytest.mark.slow
def test_a_cnn_that_computes_twice_learns_the_same(
    name: str, lower: str, upper: str, recipe_file: Path, data: Path, tmp_path: Path
) -> None:
    phases = (
        f'train.phases=[{{epochs=1, encoder_from="{lower}", lr=1e-2, encoder_lr=1e-2}}, {{epochs=1, encoder_from="{upper}", cached_views=2}},'
        f'{{epochs=1, encoder_from="{upper}", objective="self-critical", samples=2}}]'
    )
    losses, weights = [], []
    for wanted in ("false", "true"):
        recipe = load_recipe(
            recipe_file,
            [f'encoder.name="{name}"', "encoder.image_size=64", phases, f"train.gradient_checkpointing={wanted}"],
        )
        bundle = train(
            recipe, data=data, out=tmp_path / wanted, report=lambda epoch: losses.append(epoch.train_loss)
        ).bundle
        weights.append(load_file(bundle / "model.safetensors"))
    assert losses[:2] == pytest.approx(losses[3:5], rel=1e-4)
    torch.testing.assert_close(weights[1], weights[0], rtol=1e-3, atol=1e-4)


@pytest.mark.parametrize("phase", [1, 2])
def test_broken_images_are_left_out(phase: int, recipe_file: Path, data: Path, tmp_path: Path) -> None:
    copy = draw_scenes(tmp_path / "scenes", images=40, size=40)
    of = {split: read_annotations(copy).split(split) for split in ("train", "val")}
    of["train"][0].path.write_bytes(b"not a picture")
    of["val"][0].path.write_bytes(of["val"][0].path.read_bytes()[:60])
    keys = "cached_views=2" if phase == 1 else 'encoder_from="layers"'
    phases = f"train.phases=[{{epochs=1, lr=1e-3, {keys}}}]"
    recipe = load_recipe(recipe_file, [phases])
    notes: list[str] = []
    result = train(recipe, data=copy, out=tmp_path / "run", note=notes.append)
    left_out = [note for note in notes if note.startswith("left out")]
    assert len(left_out) == 2
    assert {of[split][0].path.name for split in of} == {name for name in _names(of) if any(name in n for n in left_out)}
    assert load_bundle(result.bundle).config["training"]["protocol"]["images"] == len(of["val"]) - 1


def _names(of: dict[str, tuple[object, ...]]) -> list[str]:
    return [image.path.name for images in of.values() for image in images]  # type: ignore[attr-defined]


@pytest.mark.slow
def test_several_processes_train_together(recipe_file: Path, data: Path, whole: Path, tmp_path: Path) -> None:
    phases = (
        'train.phases=[{epochs=1}, {epochs=1, encoder_from="layers"}, {epochs=1, objective="self-critical", samples=2},'
        '{epochs=1, objective="self-critical", samples=2, encoder_from="layers.conv2", cached_views=2},'
        '{epochs=1, objective="distillation", samples=2}]'
    )
    done = subprocess.run(
        [
            sys.executable, "-m", "torch.distributed.run", "--standalone", "--nproc_per_node=2",
            "-m", "showtell", "train", str(recipe_file), phases, "--data", str(data), "--out", str(tmp_path / "run"),
            "--teacher", str(whole / "bundle"),
        ],
        env=os.environ | on_the_cpu(), capture_output=True, text=True, check=False,
    )  # fmt: skip
    assert done.returncode == 0, done.stderr
    assert [line["epoch"] for line in lines(tmp_path / "run")] == [1, 2, 3, 4, 5]
    assert done.stdout.count("epoch   1") == done.stdout.count("bundle:") == 1  # one of them speaks
    training = load_bundle(tmp_path / "run" / "bundle").config["training"]
    found = evaluate_captioner(Captioner.load(tmp_path / "run" / "bundle"), data, split="val")
    assert found.report.scores == pytest.approx(training["scores"], abs=1e-9)


def test_wrong_input_is_refused(whole: Path, recipe_file: Path, data: Path, tmp_path: Path) -> None:
    recipe = load_recipe(recipe_file)
    refuse(RecipeError, "--resume", lambda: train(recipe, data=data, out=whole))
    other = load_recipe(recipe_file, ["decoder.hidden=16"])
    refuse(RecipeError, "decoder.hidden", lambda: train(other, data=data, out=whole, resume=True))
    (tmp_path / "file").touch()
    refuse(RecipeError, "is a file; expected a folder", lambda: train(recipe, data=data, out=tmp_path / "file"))
    refuse(DataError, "no folder", lambda: train(recipe, data=tmp_path / "nowhere", out=tmp_path / "run"))
    assert not (tmp_path / "run").exists()
    unknown = load_recipe(recipe_file, ["decoder.name=perceiver"])
    refuse(RecipeError, "perceiver", lambda: train(unknown, data=data, out=tmp_path / "run"))
    late = load_recipe(recipe_file, ['train.phases=[{epochs=1}, {epochs=1, encoder_from="Mixed_6e"}]'])
    refuse(
        RecipeError,
        r"^'train\.phases\.1' \(phase 2\): encoder_from is 'Mixed_6e'.*one of layers\.conv0",
        lambda: train(late, data=data, out=tmp_path / "late"),
    )
    assert not (tmp_path / "late").exists()


@pytest.mark.slow
def test_a_training_that_diverges_stops_and_keeps_its_best_epoch(recipe_file: Path, data: Path, tmp_path: Path) -> None:
    recipe = load_recipe(recipe_file, ["train.phases.0.lr=1e30", "train.checkpoint_steps=0"])
    refuse(
        RecipeError,
        r"^'train\.phases\.0' \(phase 1\): training diverged in epoch 1, .*run has no captioner yet; "
        r"set train\.phases\.0\.lr below 1e\+30, with --resume .* another --out$",
        lambda: train(recipe, data=data, out=tmp_path / "run"),
    )
    assert not any((tmp_path / "run" / name).exists() for name in ("bundle", "checkpoint.safetensors"))
    assert lines(tmp_path / "run") == []
    later = [
        "train.phases=[{epochs=1}, {epochs=2, encoder_from='layers', lr=1e30}]",
        "train.precision=bf16",
        "train.checkpoint_steps=0",
    ]
    refuse(
        RecipeError,
        r"^'train\.phases\.1' \(phase 2\): .* epoch 2, .*; epoch 1, the best so far, stays in .*bundle; "
        r"set .*lr below 1e\+30 or train\.phases\.1\.encoder_lr below 1e-05, .*precision=\"no\"",
        lambda: train(load_recipe(recipe_file, later), data=data, out=tmp_path / "later"),
    )
    assert load_bundle(tmp_path / "later" / "bundle").config["training"]["epoch"] == len(lines(tmp_path / "later")) == 1
    mended = [key.replace("1e30", "1e-3") for key in later]
    again = train(load_recipe(recipe_file, mended), data=data, out=tmp_path / "later", resume=True)
    assert again.epochs == 3


def test_a_wrong_decoder_is_said_before_weights_are_fetched(
    monkeypatch: pytest.MonkeyPatch, recipe_file: Path, data: Path, tmp_path: Path
) -> None:
    monkeypatch.setattr(
        "showtell.training.preparing.build_encoder", lambda *_, **__: pytest.fail("weights were fetched")
    )
    wrong = load_recipe(recipe_file, ["decoder.name=lstm", "decoder.tied=true"])
    refuse(RecipeError, "tied needs embedding == hidden", lambda: train(wrong, data=data, out=tmp_path / "run"))
    assert not (tmp_path / "run").exists()


def test_a_run_knows_where_its_data_was_and_its_bundle_tells_no_folders(
    whole: Path, recipe_file: Path, data: Path, tmp_path: Path
) -> None:
    assert json.loads((whole / "recipe.json").read_text())["data"]["path"] == str(data)
    assert json.loads((whole / "bundle" / "config.json").read_text())["recipe"]["data"]["path"] == data.name
    cached = load_recipe(recipe_file, [f'data.cache="{tmp_path}/cache"', "train.max_phases=1"])
    train(cached, data=data, out=tmp_path / "cached")
    assert str(tmp_path) not in (tmp_path / "cached" / "bundle" / "config.json").read_text()
    assert collect(whole, examples=1).evaluation.images[0].path.is_relative_to(data)
    assert collect(whole / "bundle", examples=1).evaluation.images[0].path.is_relative_to(data)
    moved, out = Path(shutil.copytree(data, tmp_path / "moved")), Path(shutil.copytree(whole, tmp_path / "run"))
    train(load_recipe(recipe_file), data=moved, out=out, resume=True)
    assert json.loads((out / "recipe.json").read_text())["data"]["path"] == str(moved)


@pytest.mark.slow
def test_one_process_may_train_in_several_precisions(
    recipe_file: Path, data: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    device, forward = Accelerator().device.type, CaptionerModel.forward
    seen: list[torch.dtype | None] = []

    def watched(self: CaptionerModel, inputs: Tensor, tokens: Tensor) -> Output:
        seen.append(torch.get_autocast_dtype(device) if torch.is_autocast_enabled(device) else None)
        return forward(self, inputs, tokens)

    monkeypatch.setattr(CaptionerModel, "forward", watched)
    for number, (precision, wanted) in enumerate([("no", None), ("bf16", torch.bfloat16), ("no", None)]):
        recipe = load_recipe(recipe_file, ["train.phases=[{epochs=1}]", f"train.precision={precision}"])
        assert train(recipe, data=data, out=tmp_path / str(number)).epochs == 1
        assert seen and set(seen) == {wanted}
        seen.clear()


@pytest.mark.slow
def test_the_modern_recipe_trains_both_its_phases_on_drawn_scenes(tmp_path: Path) -> None:
    """Its weights cannot be had here: that it is whole is all that this shows."""
    drawn = draw_scenes(tmp_path / "scenes", images=26, size=48)
    options = [
        "encoder.pretrained=false", "encoder.image_size=64", "search.max_length=6", "search.beam=2", "train.precision=no",
        "train.phases=[{epochs=1}, {epochs=1, encoder_from='stages.3', augment='none'}]", "data.min_count=1",
    ]  # fmt: skip
    result = train(load_recipe("flickr8k-modern", options), data=drawn, out=tmp_path / "run")
    assert result.epochs == 2
    bundle = load_bundle(result.bundle)
    assert (bundle.grid, bundle.encoder.regions, bundle.encoder.feature_size) == ((2, 2), 5, 1024)


@pytest.mark.slow
def test_a_run_that_has_not_scored_yet_is_not_ended_and_ties_go_to_rouge(
    recipe_file: Path, data: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """CIDEr is 0 until captions share words with their own images' that others lack."""
    told = iter([(0.0, 0.1), (0.0, 0.3), (0.0, 0.2), (0.0, 0.2), (0.4, 0.1), (0.4, 0.1), (0.3, 0.9), (0.9, 0.9)])
    validated = Run._validate

    def scored(run: Run) -> tuple[list[str], dict[str, float], Report | None]:
        candidates, scores, report = validated(run)
        cider, rouge_l = next(told)
        return candidates, {**scores, "cider": cider, "rouge_l": rouge_l}, report

    monkeypatch.setattr(Run, "_validate", scored)
    recipe = load_recipe(recipe_file, ["train.phases=[{epochs=8}]", "train.patience=2"])
    notes: list[str] = []
    assert train(recipe, data=data, out=tmp_path / "run", note=notes.append).best_epoch == 5
    assert [row["epoch"] for row in lines(tmp_path / "run") if row["best"]] == [1, 2, 5]
    assert len(lines(tmp_path / "run")) == 7, "two epochs without a better score after the fifth"
    assert not any("no epoch scored" in note for note in notes)
    told = iter([(0.0, 0.1), (0.0, 0.0)])
    recipe = load_recipe(recipe_file, ["train.phases=[{epochs=2}]"])
    assert train(recipe, data=data, out=tmp_path / "none", note=notes.append).best_epoch == 1
    assert any(note.startswith("no epoch scored above CIDEr 0 on the validation split") for note in notes)
