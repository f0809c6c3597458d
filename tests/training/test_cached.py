"""What a run encodes once, where it keeps it, and that training from it is the same."""

from __future__ import annotations

import json
import shutil
from pathlib import Path

import pytest
from training_runs import lines, same, stopped

from showtell.bundle import load_bundle
from showtell.captioner import Captioner
from showtell.data.annotations import read_annotations
from showtell.evaluation import evaluate_captioner
from showtell.paths import CACHE_FILES
from showtell.recipe import load_recipe
from showtell.training.run import Run, train
from showtell.training.runlog import EpochReport


@pytest.mark.slow
def test_a_cache_is_filled_once(recipe_file: Path, data: Path, tmp_path: Path) -> None:
    recipe = load_recipe(recipe_file, [f'data.cache="{tmp_path / "cache"}"', "train.max_phases=1"])
    seen: list[tuple[str, int, int]] = []
    for name in ("one", "two"):
        seen.clear()
        train(recipe, data=data, out=tmp_path / name, progress=lambda *args: seen.append(args))
    assert [s for s in seen if s[0] == "encoding images"] == [("encoding images", 0, 0)]
    same(tmp_path / "one", tmp_path / "two")


@pytest.mark.slow
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
    val = evaluate_captioner(Captioner.load(result.bundle), data, split="val")
    assert val.report.scores == pytest.approx(result.scores, abs=1e-9)  # validation sees each image as it is
    stopped(recipe, data, tmp_path / "stopped", after=3)
    train(recipe, data=data, out=tmp_path / "stopped", resume=True)
    same(tmp_path / "whole", tmp_path / "stopped")
    plain = load_recipe(recipe_file, [f'data.cache="{cache}"', "train.max_phases=1"])
    train(plain, data=data, out=tmp_path / "plain")
    assert lines(tmp_path / "plain") != lines(tmp_path / "whole")


@pytest.mark.slow
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
    found = evaluate_captioner(Captioner.load(tmp_path / "run" / "bundle"), copy, split="val")
    assert found.report.scores == pytest.approx(result["scores"], abs=1e-9)  # which encodes the images as a whole


@pytest.mark.slow
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


@pytest.mark.slow
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


@pytest.mark.slow
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
