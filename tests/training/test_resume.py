"""A run goes on exactly where it was stopped, or says why it cannot."""

from __future__ import annotations

import json
import os
import random
import shutil
import signal
import subprocess
import sys
import time
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

import pytest
from safetensors.torch import save_file
from training_runs import lines, refuse, same, steps_an_epoch, stopped

from showtell import bundle
from showtell.bundle import build_encoder
from showtell.config import Recipe
from showtell.data.annotations import read_annotations
from showtell.data.scenes import draw_scenes
from showtell.errors import BundleError, DataError, RecipeError
from showtell.paths import saved_together
from showtell.recipe import load_recipe, parse_recipe
from showtell.training.checkpoint import read_checkpoint, write_checkpoint
from showtell.training.folder import _changed, alone_in
from showtell.training.run import train
from showtell.training.runlog import EpochReport


@pytest.mark.parametrize(
    "points",
    [
        [1],
        pytest.param([3], marks=pytest.mark.slow),
        *(pytest.param(p, marks=pytest.mark.slow) for p in ([4, 3], [7, 1, 6], [13])),
    ],
)
def test_resume_equals_never_stopped(
    points: Sequence[int], whole: Path, recipe_file: Path, data: Path, tmp_path: Path
) -> None:
    recipe, out = load_recipe(recipe_file), tmp_path / "run"
    for after in points:
        stopped(recipe, data, out, after=after)
    train(recipe, data=data, out=out, resume=True)
    same(whole, out)


@pytest.mark.slow
def test_a_self_critical_phase_resumes_exactly(recipe_file: Path, data: Path, tmp_path: Path) -> None:
    """Cross-entropy with the model's own words, then the reward from the cache, then the reward through the CNN."""
    phases = (
        'train.phases=[{epochs=1, lr=5e-3, scheduled_sampling=0.5}, {epochs=1, lr=1e-3, objective="self-critical", samples=2},'
        '{epochs=1, lr=1e-3, objective="self-critical", samples=2, baseline="greedy", encoder_from="layers"}]'
    )
    recipe = load_recipe(recipe_file, [phases, "train.word_dropout=0.1"])
    train(recipe, data=data, out=tmp_path / "whole")
    log = lines(tmp_path / "whole")
    assert [line["train_loss"] is None for line in log] == [False, True, True]
    assert [line["reward"] is None for line in log] == [True, False, False]
    steps = log and 3 * ((len(read_annotations(data).split("train")) + 3) // 4)
    stopped(recipe, data, tmp_path / "stopped", after=steps // 2)
    stopped(recipe, data, tmp_path / "stopped", after=steps // 3)
    train(recipe, data=data, out=tmp_path / "stopped", resume=True)
    same(tmp_path / "whole", tmp_path / "stopped")


def test_a_captioner_without_its_checkpoint_is_not_trained_over(
    whole: Path, recipe_file: Path, data: Path, tmp_path: Path
) -> None:
    out = tmp_path / "run"
    shutil.copytree(whole, out)
    (out / "checkpoint.safetensors").unlink()
    before = (out / "bundle" / "model.safetensors").read_bytes()
    with pytest.raises(RecipeError, match="no checkpoint to go on from"):
        train(load_recipe(recipe_file), data=data, out=out, resume=True)
    assert (out / "bundle" / "model.safetensors").read_bytes() == before


def test_resume_after_the_end_changes_nothing(whole: Path, recipe_file: Path, data: Path) -> None:
    before = (whole / "bundle" / "model.safetensors").read_bytes()
    reports: list[EpochReport] = []
    result = train(load_recipe(recipe_file), data=data, out=whole, resume=True, report=reports.append)
    assert not reports
    assert result.epochs == 4
    assert (whole / "bundle" / "model.safetensors").read_bytes() == before


@pytest.mark.slow
def test_phases_that_have_not_begun_may_change(recipe_file: Path, data: Path, tmp_path: Path) -> None:
    """A run of one phase gets a second, as if it had had it from the start; what has begun stays, from its first step."""

    def recipe(*phases: str) -> Recipe:
        return load_recipe(recipe_file, [f"train.phases=[{', '.join(phases)}]"])

    def refuse_other_phases(words: str, *phases: str) -> None:
        refuse(RecipeError, words, lambda: train(recipe(*phases), data=data, out=out, resume=True))

    out, first, second = tmp_path / "run", "{epochs=1, lr=5e-3}", "{epochs=2, lr=1e-3}"
    both, batches = recipe(first, second), 2 * steps_an_epoch(data)
    train(both, data=data, out=tmp_path / "whole")
    train(recipe(first), data=data, out=out)
    refuse_other_phases(r"train\.phases\.0\.epochs was 1, is 2", second)
    stopped(both, data, out, after=3)  # in the second phase, after a step
    refuse_other_phases(r"train\.phases\.1\.epochs was 2, is 3", first, "{epochs=3, lr=1e-3}")
    stopped(both, data, out, after=batches)  # after an epoch
    refuse_other_phases(r"train\.phases\.1\.lr was 0\.001, is 0\.002", first, "{epochs=2, lr=2e-3}")
    stopped(recipe(first, second, first), data, out, after=1)  # a third one may come
    train(both, data=data, out=out, resume=True)
    same(tmp_path / "whole", out)
    assert (out / "recipe.json").read_bytes() == (tmp_path / "whole" / "recipe.json").read_bytes()
    refuse_other_phases(r"train\.phases\.1 is gone", first)


@pytest.mark.slow
def test_ctrl_c_ends_politely_and_exactly(whole: Path, recipe_file: Path, data: Path, tmp_path: Path) -> None:
    def progress(what: str, done: int, total: int) -> None:
        if what == "epoch 3" and done == 3:
            os.kill(os.getpid(), signal.SIGINT)

    out, before = tmp_path / "run", signal.getsignal(signal.SIGINT)
    with pytest.raises(KeyboardInterrupt):
        train(load_recipe(recipe_file), data=data, out=out, progress=progress)
    assert signal.getsignal(signal.SIGINT) is before  # the default, or ignored where the tests run in the background
    train(load_recipe(recipe_file), data=data, out=out, resume=True)
    same(whole, out)


def kill_after_progress(command: Sequence[str], checkpoint: Path, seconds: float) -> bool:
    """Starts a run, kills it -9 so many seconds after its first checkpoint; whether it was still running."""
    before = checkpoint.stat().st_mtime_ns if checkpoint.exists() else 0
    process = subprocess.Popen(command, stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL)
    while process.poll() is None and (checkpoint.stat().st_mtime_ns if checkpoint.exists() else 0) == before:
        time.sleep(0.005)
    time.sleep(seconds)
    if process.poll() is not None:
        return False
    process.kill()
    process.wait()
    return True


@pytest.mark.slow
def test_kill_9_at_random_moments(recipe_file: Path, data: Path, tmp_path: Path) -> None:
    kills = int(os.environ.get("SHOWTELL_KILLS", "1"))
    phases = f'train.phases=[{{epochs={2 * kills}, lr=5e-3}}, {{epochs={kills}, encoder_from="layers"}}]'
    command = [
        sys.executable, "-m", "showtell", "train", str(recipe_file), "--data", str(data), "--resume",
        "train.patience=99", phases, "--out",
    ]  # fmt: skip
    subprocess.run([*command, str(tmp_path / "whole")], check=True, capture_output=True)
    out, draw = tmp_path / "run", random.Random(8)
    killed = [
        kill_after_progress([*command, str(out)], out / "checkpoint.safetensors", draw.uniform(0.0, 0.3))
        for _ in range(kills)
    ]
    assert all(killed[: max(1, kills // 2)])  # a very fast machine may be done before the last one
    subprocess.run([*command, str(out)], check=True, capture_output=True)
    same(tmp_path / "whole", out)


def test_what_did_nothing_may_be_left_out_of_a_recipe_of_an_earlier_version() -> None:
    def changed(**phase: object) -> list[str]:
        kept = {key: phase[key] for key in phase.keys() & {"encoder_from"}}
        before, now = (
            parse_recipe({"train": {"phases": [each]}}, where="here").model_dump(mode="json") for each in (phase, kept)
        )
        return _changed(before, now, begun=1)

    assert not changed(augment="aerial", temperature=0.5, encoder_lr=1e-3)
    assert changed(augment="aerial", encoder_from="layers") == ['train.phases.0.augment was "aerial", is "light"']


@pytest.mark.slow
def test_how_captions_are_looked_for_may_change_on_the_way(recipe_file: Path, data: Path, tmp_path: Path) -> None:
    """Views shape no training: validation has one."""
    phases, batches = 'train.phases=[{epochs=2, augment="aerial", cached_views=2}]', 2 * steps_an_epoch(data)
    one_view, eight = (load_recipe(recipe_file, [phases, f"search.views={views}"]) for views in (1, 8))
    train(one_view, data=data, out=tmp_path / "whole")
    stopped(one_view, data, tmp_path / "run", after=batches + 1)  # after an epoch
    result = train(eight, data=data, out=tmp_path / "run", resume=True)
    assert result.epochs == 2
    same(tmp_path / "whole", tmp_path / "run")
    assert json.loads((tmp_path / "run" / "recipe.json").read_text())["search"]["views"] == 8


def test_a_run_goes_on_with_what_it_began_with(whole: Path, recipe_file: Path, data: Path, tmp_path: Path) -> None:
    recipe, out = load_recipe(recipe_file), Path(shutil.copytree(whole, tmp_path / "run"))
    others = draw_scenes(tmp_path / "scenes", images=26, size=40)
    refuse(RecipeError, "other images or captions", lambda: train(recipe, data=others, out=out, resume=True))
    weights = build_encoder(recipe).network.state_dict()
    save_file({name: (tensor + 1).contiguous() for name, tensor in weights.items()}, tmp_path / "other.safetensors")
    refuse(
        RecipeError,
        "other weights of the encoder",
        lambda: train(recipe, data=data, out=out, resume=True, encoder_weights=tmp_path / "other.safetensors"),
    )
    same(whole, out)


Rows = list[dict[str, Any]]
LONGER = '[{epochs=2, lr=5e-3}, {epochs=2, lr=2e-3, encoder_from="layers", encoder_lr=1e-3}, {epochs=1, lr=1e-3}]'


def rewrite(data: Path, change: Callable[[Rows], object]) -> None:
    """Changes the rows of drawn scenes in place."""
    rows = [json.loads(line) for line in (data / "captions.jsonl").read_text(encoding="utf-8").splitlines()]
    change(rows)
    (data / "captions.jsonl").write_text("".join(json.dumps(row) + "\n" for row in rows), encoding="utf-8")


def exchange_val_captions(data: Path) -> None:
    def change(rows: Rows) -> None:
        one, other = [row for row in rows if row["split"] == "val"][:2]
        one["captions"], other["captions"] = other["captions"], one["captions"]

    rewrite(data, change)


def put_test_into_val(data: Path) -> None:
    rewrite(data, lambda rows: [row.update(split="val") for row in rows if row["split"] == "test"])


def exchange_pictures(data: Path, split: str) -> None:
    one, other = (image.path for image in read_annotations(data).split(split)[:2])
    first, second = one.read_bytes(), other.read_bytes()
    assert first != second
    one.write_bytes(second)
    other.write_bytes(first)


CHANGES = {
    "val captions": (exchange_val_captions, r"best epoch by other images or captions of the val split .*same --data"),
    "val split": (put_test_into_val, r"best epoch by other images or captions of the val split"),
    "pictures": (lambda data: exchange_pictures(data, "train"), r"began with other pictures .* put back the files"),
    "val pictures": (lambda data: exchange_pictures(data, "val"), r"began with other pictures"),
}


@pytest.mark.parametrize("what", CHANGES)
def test_what_epochs_are_chosen_by_and_pictures_may_not_change(
    what: str, whole: Path, recipe_file: Path, data: Path, tmp_path: Path
) -> None:
    moved, out = (Path(shutil.copytree(folder, tmp_path / folder.name)) for folder in (data, whole))
    change, words = CHANGES[what]
    train(load_recipe(recipe_file), data=moved, out=out, resume=True)  # elsewhere, they are the same
    change(moved)
    refuse(RecipeError, words, lambda: train(load_recipe(recipe_file), data=moved, out=out, resume=True))
    same(whole, out)


def test_pictures_are_compared_while_the_cnn_is_trained_from_the_start(
    recipe_file: Path, data: Path, tmp_path: Path
) -> None:
    """No cache knows them."""
    moved = Path(shutil.copytree(data, tmp_path / "data"))
    recipe = load_recipe(
        recipe_file, ['train.phases=[{epochs=2, encoder_from="layers"}]', f"data.cache={tmp_path}/cache"]
    )
    stopped(recipe, moved, tmp_path / "run", after=3)
    exchange_pictures(moved, "train")
    refuse(
        RecipeError, "began with other pictures", lambda: train(recipe, data=moved, out=tmp_path / "run", resume=True)
    )


def test_a_checkpoint_that_does_not_say_is_not_compared_but_says_from_then_on(
    whole: Path, recipe_file: Path, data: Path, tmp_path: Path
) -> None:
    moved, out = (Path(shutil.copytree(folder, tmp_path / folder.name)) for folder in (data, whole))
    checkpoint, longer = out / "checkpoint.safetensors", load_recipe(recipe_file, [f"train.phases={LONGER}"])
    tensors, position = read_checkpoint(checkpoint)
    before = {name: value for name, value in vars(position).items() if name not in ("val", "pictures")}
    write_checkpoint(checkpoint, tensors, before)
    exchange_val_captions(moved)
    exchange_pictures(moved, "train")
    assert train(longer, data=moved, out=out, resume=True).epochs == 5
    exchange_val_captions(moved)
    refuse(RecipeError, "best epoch by other", lambda: train(longer, data=moved, out=out, resume=True))


def test_a_run_from_before_copies_were_split_together_is_told_so(
    recipe_file: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    data, recipe = draw_scenes(tmp_path / "scenes", images=30, size=40), load_recipe(recipe_file)
    rows = [json.loads(line) for line in (data / "captions.jsonl").read_text().splitlines()]
    for row, first in zip(rows[15:], rows, strict=False):
        shutil.copy(data / first["image"], data / row["image"])
    (data / "captions.jsonl").write_text("".join(json.dumps(row | {"split": None}) + "\n" for row in rows))
    with monkeypatch.context() as before:
        before.setattr("showtell.data.splits.first_equals", lambda paths: range(len(paths)))
        stopped(recipe, data, tmp_path / "run", after=3)
    words = "this version puts copies into one split"
    refuse(RecipeError, words, lambda: train(recipe, data=data, out=tmp_path / "run", resume=True))


def test_ctrl_c_in_the_last_validation_ends_the_run_too(recipe_file: Path, data: Path, tmp_path: Path) -> None:
    recipe = load_recipe(recipe_file, ["train.phases=[{epochs=1}]"])
    with pytest.raises(KeyboardInterrupt):
        train(recipe, data=data, out=tmp_path / "run", report=lambda _: os.kill(os.getpid(), signal.SIGINT))
    assert train(recipe, data=data, out=tmp_path / "run", resume=True).epochs == 1


@pytest.mark.slow
def test_ctrl_c_while_features_are_encoded_ends_at_once(recipe_file: Path, data: Path, tmp_path: Path) -> None:
    recipe = load_recipe(
        recipe_file, ["train.phases=[{epochs=1}, {epochs=1, cached_views=4}]", f"data.cache={tmp_path}/cache"]
    )
    seen: list[str] = []

    def progress(what: str, done: int, total: int) -> None:
        seen.append(what)
        if what == "encoding images, view 2 of 4":
            os.kill(os.getpid(), signal.SIGINT)

    with pytest.raises(KeyboardInterrupt):
        train(recipe, data=data, out=tmp_path / "run", progress=progress)
    assert seen[-1] == "encoding images, view 2 of 4" and seen.count(seen[-1]) == 1
    assert train(recipe, data=data, out=tmp_path / "run", resume=True).epochs == 2


def test_a_torn_checkpoint_is_said(whole: Path, recipe_file: Path, data: Path, tmp_path: Path) -> None:
    out = tmp_path / "run"
    out.mkdir()
    for name in ("recipe.json", "checkpoint.safetensors"):
        (out / name).write_bytes((whole / name).read_bytes())
    (out / "checkpoint.safetensors").write_bytes((whole / "checkpoint.safetensors").read_bytes()[:1000])
    refuse(BundleError, "checkpoint", lambda: train(load_recipe(recipe_file), data=data, out=out, resume=True))


@pytest.mark.slow
def test_a_bundle_that_was_half_written_over_is_written_anew(
    recipe_file: Path, data: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Killed between weights and config.json, at each epoch that is saved."""
    recipe, out = load_recipe(recipe_file), tmp_path / "run"
    monkeypatch.setattr("showtell.training.checkpoint.Position.better", lambda *_: True)
    write = bundle._write_json
    for epoch in (2, 3):
        times = [0]

        def killed(path: Path, value: Any, until: int = epoch, times: list[int] = times) -> None:
            times[0] += 1
            if value["training"]["epoch"] == until:
                raise SystemExit
            write(path, value)

        with monkeypatch.context() as patch:
            patch.setattr(bundle, "_write_json", killed)
            with pytest.raises(SystemExit):
                train(recipe, data=data, out=out, resume=epoch > 2)
        assert not saved_together(out / "bundle")
        position = read_checkpoint(out / "checkpoint.safetensors")[1]
        assert position.best_epoch == epoch - 1
    monkeypatch.undo()
    monkeypatch.setattr("showtell.training.checkpoint.Position.better", lambda place, _: place.best_epoch == 0)
    train(recipe, data=data, out=out, resume=True)
    assert saved_together(out / "bundle")
    assert bundle.load_bundle(out / "bundle").config["training"]["epoch"] == 3


@pytest.mark.skipif(os.name == "nt", reason="folders cannot be locked")
def test_a_folder_in_which_another_run_trains_is_refused(
    whole: Path, recipe_file: Path, data: Path, tmp_path: Path
) -> None:
    def meanwhile(what: str, done: int, total: int) -> None:
        if what == "epoch 2" and not said:
            with pytest.raises(RecipeError) as refused, alone_in(out):
                pass
            said.append(str(refused.value))

    out, said = tmp_path / "run", list[str]()
    recipe = load_recipe(recipe_file)
    train(recipe, data=data, out=out, progress=meanwhile)
    assert "another process is training there" in said[0]
    same(whole, out)
    with alone_in(out):
        pass
    refuse(DataError, "no folder", lambda: train(recipe, data=tmp_path / "nowhere", out=tmp_path / "new" / "run"))
    assert not (tmp_path / "new").exists()
