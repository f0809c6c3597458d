"""The decoding is chosen by validation CIDEr, one value at a time, and kept in the bundle."""

from __future__ import annotations

import json
import shutil
from dataclasses import asdict
from pathlib import Path
from typing import Any

import pytest
import torch
from typer.testing import CliRunner

from showtell.captioner import Captioner
from showtell.card import model_card
from showtell.choosing import Tried, choose_bundle_decoding, choose_decoding
from showtell.cli import app
from showtell.config import Recipe, SearchConfig
from showtell.data.vocabulary import Vocabulary
from showtell.decoding import Wishes
from showtell.evaluation import evaluate_captioner
from showtell.metrics import Protocol
from showtell.recipe import load_recipe
from showtell.training.run import train
from tests.test_search import Toy

CAPTIONS = ["one two", "two two one", "one", "two one two one"]


def choose(seed: int, references: list[list[str]], **options: Any) -> tuple[SearchConfig, list[Tried]]:
    heard: list[Tried] = []
    vocabulary = Vocabulary.train(CAPTIONS, min_count=1)  # ids 4 and 5: what a Toy says
    features = torch.randn(4, 2, 4, generator=torch.Generator().manual_seed(seed))
    choice = choose_decoding(
        lambda views: (Toy(seed), iter(features.split(3))), references, vocabulary,
        protocol=Protocol.of(references, dataset="toys", split="val", decoding="", version="0"),
        search=SearchConfig(beam=2, max_length=6, length_penalty=0.0), report=heard.append, **options,
    )  # fmt: skip
    assert list(choice.tried) == heard
    return choice.search, heard


@pytest.mark.parametrize("seed", range(3))
def test_the_best_of_what_was_tried_is_chosen(seed: int) -> None:
    chosen, tried = choose(seed, [[caption, "one two two"] for caption in CAPTIONS])
    best = max(entry.scores["cider"] for entry in tried)
    assert next(entry.search for entry in tried if entry.scores["cider"] == best) == chosen
    assert len(tried) == len({entry.search for entry in tried}) <= 12
    assert tried[0].search == SearchConfig(beam=2, max_length=6, length_penalty=0.0)


def test_where_nothing_helps_the_decoding_stays(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("showtell.choosing._scores", lambda *_: {"cider": 1.0, "bleu_4": 0.5})
    chosen, tried = choose(0, [[caption] for caption in CAPTIONS])
    assert chosen == tried[0].search


def test_each_value_starts_from_the_best_so_far(monkeypatch: pytest.MonkeyPatch) -> None:
    def score(*arguments: Any) -> dict[str, float]:
        config = arguments[-1]
        return {"cider": -abs(config.length_penalty - 0.7) - abs(config.beam - 8) + config.consensus, "bleu_4": 0.0}

    monkeypatch.setattr("showtell.choosing._scores", score)
    chosen, _ = choose(0, [[caption] for caption in CAPTIONS])
    assert chosen == SearchConfig(beam=8, length_penalty=0.7, max_length=6, consensus=10)


def test_views_are_chosen_first(monkeypatch: pytest.MonkeyPatch) -> None:
    def score(*arguments: Any) -> dict[str, float]:
        config = arguments[-1]
        return {"cider": -abs(config.views - 2) - abs(config.length_penalty - 0.7), "bleu_4": 0.0}

    monkeypatch.setattr("showtell.choosing._scores", score)
    chosen, tried = choose(0, [[caption] for caption in CAPTIONS], views=(1, 2, 4))
    assert chosen == SearchConfig(beam=2, max_length=6, length_penalty=0.7, views=2)
    assert [entry.search.views for entry in tried[:3]] == [1, 2, 4]
    assert {entry.search.views for entry in tried[3:]} == {2}


def test_a_decoding_scores_what_evaluating_it_does(tiny_bundle: Path, scenes: Path) -> None:
    choice, protocol = choose_bundle_decoding(tiny_bundle, scenes, most_views=4)
    assert [tried.search.views for tried in choice.tried[:3]] == [1, 2, 4]
    for tried in choice.tried[:3]:
        scored = evaluate_captioner(
            Captioner.load(tiny_bundle), scenes, split="val", wishes=Wishes(views=tried.search.views)
        )
        assert scored.report.scores == pytest.approx(tried.scores, abs=0.02)  # cached features are half-precise
    assert protocol.decoding == choice.search.describe()


def test_more_views_than_there_are(tiny_bundle: Path, scenes: Path) -> None:
    result = CliRunner().invoke(app, ["decoding", str(tiny_bundle), "--data", str(scenes), "--views", "5"])
    assert result.exit_code == 2
    assert "5 views" in result.stderr and "at most 4" in result.stderr


def test_the_bundle_keeps_it(tiny_bundle: Path, scenes: Path, tmp_path: Path) -> None:
    bundle = Path(shutil.copytree(tiny_bundle, tmp_path / "bundle"))
    arguments = ["decoding", str(bundle), "--data", str(scenes)]
    before = (bundle / "config.json").read_bytes()
    dry = CliRunner().invoke(app, [*arguments, "--dry-run"])
    assert dry.exit_code == 0, dry.output
    assert (bundle / "config.json").read_bytes() == before
    done = CliRunner().invoke(app, arguments)
    assert done.exit_code == 0, done.output
    config = json.loads((bundle / "config.json").read_text(encoding="utf-8"))
    search = SearchConfig(**config["recipe"]["search"])
    assert f"best: {search.describe()}" in done.stdout
    assert config["decoding"]["protocol"]["split"] == "val"
    assert search.describe() in {entry["decoding"] for entry in config["decoding"]["tried"]}
    assert Captioner.load(bundle).defaults.beam == search.beam
    card = (bundle / "README.md").read_text(encoding="utf-8")
    assert search.describe() in card
    assert f"| CIDEr | {100 * config['decoding']['scores']['cider']:.2f} |" in card


def test_scores_of_a_decoding_that_stayed_are_told_once() -> None:
    protocol = Protocol.of([["a"]], dataset="toys", split="val", decoding="beam 3", version="0")
    scored = {"scores": {"cider": 1.5}, "protocol": asdict(protocol)}
    training = {"dataset": "toys", "train_images": 4, "epoch": 2, **scored}
    stayed = model_card(Recipe(), training, decoding=scored)
    assert stayed.count("| CIDEr | 150.00 |") == 1 and "The decoding was chosen by these scores" in stayed
    assert "# recipe, trained on toys\n" in stayed
    other = {"scores": {"cider": 1.6}, "protocol": {**asdict(protocol), "decoding": "beam 5"}}
    changed = model_card(Recipe(), training, decoding=other)
    assert changed.count("| CIDEr | 150.00 |") == 1 and "| CIDEr | 160.00 |" in changed


@pytest.mark.slow
def test_a_run_may_end_by_choosing(scenes: Path, tmp_path: Path) -> None:
    recipe = load_recipe(
        "scenes",
        ["train.phases=[{epochs=1}]", "train.choose_decoding=true", "decoder.hidden=16", "search.max_length=8"],
    )
    first = train(recipe, data=scenes, out=tmp_path / "run")
    config = (tmp_path / "run" / "bundle" / "config.json").read_bytes()
    chosen = json.loads(config)["decoding"]["tried"]
    assert chosen[0]["decoding"] == recipe.search.describe()
    assert first.scores["cider"] == max(entry["scores"]["cider"] for entry in chosen)
    again = train(recipe, data=scenes, out=tmp_path / "run", resume=True)
    assert again.scores == first.scores
    assert (tmp_path / "run" / "bundle" / "config.json").read_bytes() == config
