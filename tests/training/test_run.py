"""A whole run, small: it learns, it stops and goes on as if it had not, it says what is wrong."""

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

import pytest
from safetensors.torch import load_file, save_file

from showtell.bundle import build_encoder, load_bundle
from showtell.config import Recipe
from showtell.data.annotations import read_annotations
from showtell.data.scenes import draw_scenes
from showtell.errors import BundleError, DataError, RecipeError
from showtell.evaluation import evaluate_bundle
from showtell.paths import CACHE_FILES
from showtell.recipe import load_recipe
from showtell.report.collect import collect
from showtell.training.run import Run, TrainResult, train
from showtell.training.runlog import EpochReport

# A CNN of its own size, two phases (LSTM on cached features, then CNN + LSTM), dropout, averaged weights, accumulation:
# all that has a state is in it.
SMALL = """
[data]
min_count = 1
[encoder]
name = "small"
pretrained = false
image_size = 32
[decoder]
name = "attention"
embedding = 24
hidden = 32
attention = 16
dropout = 0.3
[train]
batch_images = 4
accumulate = 2
ema = 0.9
warmup = 3
label_smoothing = 0.1
doubly_stochastic = 0.1
precision = "no"
checkpoint_steps = 2
[[train.phases]]
epochs = 2
lr = 5e-3
[[train.phases]]
epochs = 2
lr = 2e-3
encoder_from = "layers"
encoder_lr = 1e-3
[search]
beam = 2
max_length = 12
"""


@pytest.fixture(scope="module")
def recipe_file(tmp_path_factory: pytest.TempPathFactory) -> Path:
    path = tmp_path_factory.mktemp("recipe") / "small.toml"
    path.write_text(SMALL, encoding="utf-8")
    return path


@pytest.fixture(scope="module")
def data(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return draw_scenes(tmp_path_factory.mktemp("data") / "scenes", images=30, size=40)


@pytest.fixture(scope="module")
def whole(tmp_path_factory: pytest.TempPathFactory, recipe_file: Path, data: Path) -> Path:
    """The folder of a run that nothing interrupted."""
    out = tmp_path_factory.mktemp("whole") / "run"
    train(load_recipe(recipe_file), data=data, out=out)
    return out


def same(one: Path, other: Path) -> None:
    """Asserts that two runs ended with the same weights, checkpoints and scores, to the last bit."""
    for name in ("bundle/model.safetensors", "checkpoint.safetensors"):
        first, second = load_file(one / name), load_file(other / name)
        assert first.keys() == second.keys()
        assert all(bool((first[key] == second[key]).all()) for key in first), name
    assert lines(one) == lines(other)


def lines(out: Path) -> list[dict[str, object]]:
    """The log without its clock."""
    read = [json.loads(line) for line in (out / "log.jsonl").read_text(encoding="utf-8").splitlines()]
    return [{key: value for key, value in line.items() if key != "seconds"} for line in read]


class Stop(Exception):
    """What a test raises in the middle of a run."""


def stopped(recipe: Recipe, data: Path, out: Path, *, after: int) -> None:
    """Runs until the `after`-th step of training is reported, then dies without a goodbye."""
    steps = 0

    def progress(what: str, done: int, total: int) -> None:
        nonlocal steps
        steps += what.startswith("epoch")
        if steps == after:
            raise Stop

    with pytest.raises(Stop):
        train(recipe, data=data, out=out, resume=(out / "checkpoint.safetensors").exists(), progress=progress)


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
    val = evaluate_bundle(whole / "bundle", data, split="val")
    assert val.report.scores == pytest.approx(training["scores"], abs=1e-9)


def test_training_is_deterministic(whole: Path, recipe_file: Path, data: Path, tmp_path: Path) -> None:
    train(load_recipe(recipe_file), data=data, out=tmp_path / "again")
    same(whole, tmp_path / "again")


@pytest.mark.parametrize("points", [[1], [3], [4, 3], [7, 1, 6], [13]])
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


def test_resume_after_the_end_changes_nothing(whole: Path, recipe_file: Path, data: Path) -> None:
    before = (whole / "bundle" / "model.safetensors").read_bytes()
    reports: list[EpochReport] = []
    result = train(load_recipe(recipe_file), data=data, out=whole, resume=True, report=reports.append)
    assert not reports
    assert result.epochs == 4
    assert (whole / "bundle" / "model.safetensors").read_bytes() == before


def steps_an_epoch(data: Path) -> int:
    """Of the small recipe: batches of 4 images, two of them a step."""
    batches = -(-len(read_annotations(data).split("train")) // 4)
    return -(-batches // 2)


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


def test_patience_grows_with_the_epochs_and_both_have_an_end(recipe_file: Path, data: Path, tmp_path: Path) -> None:
    """A rate that changes nothing: the first epoch stays the best, and ten times the epochs wait ten times as long."""
    recipe = load_recipe(recipe_file, ["train.phases=[{epochs=1, lr=1e-12, min_steps=1000}]", "train.patience=1"])
    notes: list[str] = []
    train(recipe, data=data, out=tmp_path / "run", note=notes.append)
    assert any(note.startswith("phase 1: up to 10 epochs, not 1: ") for note in notes)
    assert len(lines(tmp_path / "run")) == 10
    recipe = load_recipe(recipe_file, ["train.phases=[{epochs=2, lr=1e-12, min_steps=1000}]", "train.patience=1"])
    train(recipe, data=data, out=tmp_path / "half")
    assert len(lines(tmp_path / "half")) == 1 + 10


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
    kills = int(os.environ.get("SHOWTELL_KILLS", "4"))
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
    assert all(killed[: kills // 2])  # a very fast machine may be done before the last one
    subprocess.run([*command, str(out)], check=True, capture_output=True)
    same(tmp_path / "whole", out)


@pytest.mark.slow
@pytest.mark.parametrize("decoder", ["lstm", "attention"])
def test_eight_images_are_learnt_by_heart(decoder: str, tmp_path: Path) -> None:
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
    recipe = load_recipe(
        "scenes",
        [
            f"decoder.name={decoder}", f"encoder.pooled={'true' if decoder == 'lstm' else 'false'}",
            "decoder.embedding=64", "decoder.hidden=64", "decoder.tied=false", "decoder.dropout=0.0", "data.min_count=1",
            "encoder.image_size=48", "train.batch_images=8", "train.ema=0.0", "train.warmup=0", "train.patience=250",
            'train.phases=[{epochs=250, lr=2e-3, encoder_from="layers", encoder_lr=2e-3, augment="none"}]',
        ],
    )  # fmt: skip
    result = train(recipe, data=drawn, out=tmp_path / "run")
    assert result.scores["bleu_4"] > 0.99


def test_a_cache_is_filled_once(recipe_file: Path, data: Path, tmp_path: Path) -> None:
    recipe = load_recipe(recipe_file, [f'data.cache="{tmp_path / "cache"}"', "train.max_phases=1"])
    seen: list[tuple[str, int, int]] = []
    for name in ("one", "two"):
        seen.clear()
        train(recipe, data=data, out=tmp_path / name, progress=lambda *args: seen.append(args))
    assert [s for s in seen if s[0] == "encoding images"] == [("encoding images", 0, 0)]
    same(tmp_path / "one", tmp_path / "two")


def test_further_views_are_cached_once_drawn_from_and_resumed_exactly(
    recipe_file: Path, data: Path, tmp_path: Path
) -> None:
    cache = tmp_path / "cache"
    recipe = load_recipe(
        recipe_file,
        [f'data.cache="{cache}"', "train.max_phases=1", "train.phases=[{epochs=2, lr=5e-3, cached_views=3}]"],
    )
    seen: list[tuple[str, int, int]] = []
    result = train(recipe, data=data, out=tmp_path / "whole", progress=lambda *args: seen.append(args))
    (own,) = cache.iterdir()
    assert sorted(path.name for path in own.iterdir() if path.is_dir()) == ["light-1-v1", "light-2-v1"]
    images = {split: len(read_annotations(data).split(split)) for split in ("train", "val")}
    rows = {path: len(path.read_text().splitlines()) for path in own.rglob("index.jsonl")}
    assert rows == {
        own / "index.jsonl": sum(images.values()),
        own / "light-1-v1" / "index.jsonl": images["train"],
        own / "light-2-v1" / "index.jsonl": images["train"],
    }
    assert {what for what, _, _ in seen if "view" in what} == {f"encoding images, view {k} of 3" for k in (1, 2, 3)}
    val = evaluate_bundle(result.bundle, data, split="val")
    assert val.report.scores == pytest.approx(result.scores, abs=1e-9)  # validation sees each image as it is
    stopped(recipe, data, tmp_path / "stopped", after=3)
    train(recipe, data=data, out=tmp_path / "stopped", resume=True)
    same(tmp_path / "whole", tmp_path / "stopped")
    plain = load_recipe(recipe_file, [f'data.cache="{cache}"', "train.max_phases=1"])
    train(plain, data=data, out=tmp_path / "plain")
    assert lines(tmp_path / "plain") != lines(tmp_path / "whole")


def test_how_captions_are_looked_for_may_change_on_the_way(recipe_file: Path, data: Path, tmp_path: Path) -> None:
    """Views shape no training: validation has one."""
    phases = 'train.phases=[{epochs=1, augment="aerial"}]'
    train(load_recipe(recipe_file, [phases]), data=data, out=tmp_path / "run")
    train(load_recipe(recipe_file, [phases, "search.views=8"]), data=data, out=tmp_path / "run", resume=True)


def test_what_is_below_the_trained_layers_is_cached(recipe_file: Path, data: Path, tmp_path: Path) -> None:
    """CNN + LSTM from views that were encoded half-way, and the features of that CNN from them, not from the images again."""
    cache, copy = tmp_path / "cache", tmp_path / "data"
    shutil.copytree(data, copy)
    phases = (
        'train.phases=[{epochs=1}, {epochs=2, encoder_from="layers.conv2", lr=1e-2, encoder_lr=1e-2, cached_views=2},'
        "{epochs=1, cached_views=3}]"
    )
    recipe = load_recipe(recipe_file, [f'data.cache="{cache}"', phases])
    encoded: list[int] = []
    seen: list[
        tuple[int, int]
    ] = []  # rows of what is cached for an image, and batches that the network itself has seen

    def report(epoch: EpochReport) -> None:
        run.position.best_cider = -1.0  # so that the next epoch, and its CNN, is the best so far
        (caches := run.samples.caches) and seen.append((next(iter(caches.values())).regions, len(encoded)))

    run = Run(
        recipe.trained_on(copy), encoder_weights=None, out=tmp_path / "run",
        resume=False, note=lambda _: None, progress=lambda *_: None,
    )  # fmt: skip
    network = run.model.encoder.network
    network.register_forward_hook(lambda module, given, result: encoded.append(len(given[0])))
    before = {name: tensor.clone() for name, tensor in run.model.encoder.state_dict().items()}
    run.run(report)
    images = {split: len(read_annotations(copy).split(split)) for split in ("train", "val")}
    counts = [count for _, count in seen]
    assert [regions for regions, _ in seen] == [4, 64, 64, 4]  # features of 2×2 regions, 64 channels of a map
    assert counts[:3] == [0, 0, 0]  # the whole network sees no image while its upper part is trained
    assert sum(encoded) == images["train"]  # afterwards for the third view alone, which no phase had cached before
    changed = {name for name, tensor in run.model.encoder.state_dict().items() if not tensor.equal(before[name])}
    assert changed
    assert {name.split(".")[2] for name in changed} == {"conv2", "norm2", "conv3", "norm3"}
    assert len(list(cache.iterdir())) == 2  # of the encoder as it came, and of its lower part
    (below,) = (
        folder for folder in cache.iterdir() if json.loads((folder / "cache.json").read_text())["regions"] == 64
    )
    assert [path.name for path in below.iterdir() if path.is_dir()] == ["light-1-v1"]
    result = load_bundle(tmp_path / "run" / "bundle").config["training"]
    found = evaluate_bundle(tmp_path / "run" / "bundle", copy, split="val")
    assert found.report.scores == pytest.approx(result["scores"], abs=1e-9)  # which encodes the images as a whole


def test_maps_stay_with_the_run_where_the_named_cache_is_one_encoders(
    recipe_file: Path, data: Path, tmp_path: Path
) -> None:
    cache = tmp_path / "cache"
    phases = "train.phases=[{epochs=1}]"
    train(load_recipe(recipe_file, [f"data.cache={cache}", phases]), data=data, out=tmp_path / "first")
    (own,) = cache.iterdir()
    phases = 'train.phases=[{epochs=1, encoder_from="layers.conv2", cached_views=2}, {epochs=1}]'
    recipe = load_recipe(recipe_file, [f"data.cache={own}", phases])
    folders = []
    train(
        recipe, data=data, out=tmp_path / "run",
        report=lambda _: folders.append(sorted(p.name for p in (tmp_path / "run" / "features").iterdir())),
    )  # fmt: skip
    assert len(folders[0]) == 1
    assert sorted(path.name for path in own.iterdir()) == sorted(CACHE_FILES)


def test_a_phase_that_trains_from_cached_maps_is_resumed_exactly(recipe_file: Path, data: Path, tmp_path: Path) -> None:
    phases = 'train.phases=[{epochs=2, encoder_from="layers.conv2", encoder_lr=1e-2, cached_views=2}, {epochs=1, cached_views=2}]'
    recipe = load_recipe(recipe_file, [f'data.cache="{tmp_path / "cache"}"', phases])
    train(recipe, data=data, out=tmp_path / "whole")
    stopped(recipe, data, tmp_path / "stopped", after=3)
    train(recipe, data=data, out=tmp_path / "stopped", resume=True)
    same(tmp_path / "whole", tmp_path / "stopped")
    live = load_recipe(recipe_file, ['train.phases=[{epochs=2, encoder_from="layers.conv2", encoder_lr=1e-2}]'])
    train(live, data=data, out=tmp_path / "live")
    assert lines(tmp_path / "live")[0] != lines(tmp_path / "whole")[0]


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
def test_several_processes_train_together(recipe_file: Path, data: Path, tmp_path: Path) -> None:
    phases = (
        'train.phases=[{epochs=1}, {epochs=1, encoder_from="layers"}, {epochs=1, objective="self-critical", samples=2},'
        '{epochs=1, objective="self-critical", samples=2, encoder_from="layers.conv2", cached_views=2}]'
    )
    done = subprocess.run(
        [
            sys.executable, "-m", "torch.distributed.run", "--standalone", "--nproc_per_node=2",
            "-m", "showtell", "train", str(recipe_file), phases, "--data", str(data), "--out", str(tmp_path / "run"),
        ],
        env={**os.environ, "ACCELERATE_USE_CPU": "1"}, capture_output=True, text=True, check=False,
    )  # fmt: skip
    assert done.returncode == 0, done.stderr
    assert [line["epoch"] for line in lines(tmp_path / "run")] == [1, 2, 3, 4]
    assert done.stdout.count("epoch   1") == done.stdout.count("bundle:") == 1  # one of them speaks
    training = load_bundle(tmp_path / "run" / "bundle").config["training"]
    found = evaluate_bundle(tmp_path / "run" / "bundle", data, split="val")
    assert found.report.scores == pytest.approx(training["scores"], abs=1e-9)


def refuse(error: type[Exception], match: str, call: Callable[[], TrainResult]) -> None:
    with pytest.raises(error, match=match) as caught:
        call()
    assert "\n" not in str(caught.value)


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


def test_a_wrong_decoder_is_said_before_weights_are_fetched(
    monkeypatch: pytest.MonkeyPatch, recipe_file: Path, data: Path, tmp_path: Path
) -> None:
    monkeypatch.setattr("showtell.training.run.build_encoder", lambda *_, **__: pytest.fail("weights were fetched"))
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


def test_ctrl_c_in_the_last_validation_ends_the_run_too(recipe_file: Path, data: Path, tmp_path: Path) -> None:
    recipe = load_recipe(recipe_file, ["train.phases=[{epochs=1}]"])
    with pytest.raises(KeyboardInterrupt):
        train(recipe, data=data, out=tmp_path / "run", report=lambda _: os.kill(os.getpid(), signal.SIGINT))
    assert train(recipe, data=data, out=tmp_path / "run", resume=True).epochs == 1


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


def test_one_process_may_train_in_several_precisions(recipe_file: Path, data: Path, tmp_path: Path) -> None:
    for precision in ("no", "bf16"):
        recipe = load_recipe(recipe_file, ["train.phases=[{epochs=1}]", f"train.precision={precision}"])
        assert train(recipe, data=data, out=tmp_path / precision).epochs == 1


def test_features_of_a_trained_cnn_stay_with_the_run(recipe_file: Path, data: Path, tmp_path: Path) -> None:
    """One phase trains the CNN, the next one caches what it sees; each phase has one optimizer alone."""
    cache = tmp_path / "cache"
    recipe = load_recipe(
        recipe_file,
        [
            'train.phases=[{epochs=1}, {epochs=1, encoder_from="layers", lr=1e-2}, {epochs=1, cached_views=2}, {epochs=1, encoder_from="layers", lr=1e-2}, {epochs=1}]',
            f"data.cache={cache}",
        ],
    )
    folders: list[Path] = []
    optimizers: list[int] = []
    kept: list[int] = []

    def report(epoch: EpochReport) -> None:
        optimizers.append(len(run.accelerator._optimizers))
        folders.append(next((cache.folder.parent for cache in run.samples.caches.values()), tmp_path))
        kept.append(len(list((tmp_path / "run" / "features").glob("*"))))
        run.position.best_cider = -1.0  # so that the next epoch, and its CNN, is the best so far

    run = Run(
        recipe.trained_on(data), encoder_weights=None, out=tmp_path / "run",
        resume=False, note=lambda _: None, progress=lambda *_: None,
    )  # fmt: skip
    run.run(report)
    assert optimizers == [1] * 5
    own = tmp_path / "run" / "features"
    assert folders == [cache, tmp_path, own, tmp_path, own]
    assert kept == [0, 0, 1, 1, 1]  # those of the CNN before are gone
    assert len(list(cache.iterdir())) == 1
    assert not (tmp_path / "run" / "features").exists()


def test_a_torn_checkpoint_is_said(whole: Path, recipe_file: Path, data: Path, tmp_path: Path) -> None:
    out = tmp_path / "run"
    out.mkdir()
    for name in ("recipe.json", "checkpoint.safetensors"):
        (out / name).write_bytes((whole / name).read_bytes())
    (out / "checkpoint.safetensors").write_bytes((whole / "checkpoint.safetensors").read_bytes()[:1000])
    refuse(BundleError, "checkpoint", lambda: train(load_recipe(recipe_file), data=data, out=out, resume=True))


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
