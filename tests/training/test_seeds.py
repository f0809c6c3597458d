"""Several seeds of one recipe: which runs they are, what is told of their scores, and that an interrupted row goes on."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest
from command_line import run

from showtell.errors import RecipeError
from showtell.metrics import Protocol
from showtell.recipe import load_recipe
from showtell.training.run import TrainResult
from showtell.training.seeds import Spread, with_seeds

PROTOCOL = Protocol.of([["a dog"]], dataset="toys", split="val", decoding="beam 3", version="0")


def test_the_spread_of_scores() -> None:
    assert Spread.of([1.0, 2.0, 6.0]) == Spread(mean=3.0, deviation=pytest.approx(7**0.5), least=1.0, greatest=6.0)


def test_seeds_count_from_the_recipes_and_change_nothing_else(tmp_path: Path) -> None:
    recipe = load_recipe("scenes", ["train.seed=7"])
    runs = with_seeds(recipe, 2, out=tmp_path)
    assert [path.name for path in runs] == ["seed-7", "seed-8"]
    first, second = runs.values()
    assert first == recipe
    assert second == load_recipe("scenes", ["train.seed=8"])
    (tmp_path / "recipe.json").write_text("{}")
    with pytest.raises(RecipeError, match="holds a run"):
        with_seeds(recipe, 2, out=tmp_path)


@pytest.fixture
def fake(monkeypatch: pytest.MonkeyPatch) -> list[tuple[int, str, bool]]:
    """Trainings that take no time, of which seed 5 has CIDEr 0.5 and seed 6 0.6. Returns what was trained."""
    trained: list[tuple[int, str, bool]] = []

    def train(recipe: Any, *, out: Path, resume: bool, **_: Any) -> TrainResult:
        seed = recipe.train.seed
        trained.append((seed, out.name, resume))
        if seed == 6 and not resume:
            raise KeyboardInterrupt
        out.mkdir(parents=True, exist_ok=True)
        return TrainResult(out / "bundle", 2, 3, {"bleu_4": 0.1, "cider": seed / 10}, PROTOCOL)

    monkeypatch.setattr("showtell.training.run.train", train)
    return trained


def test_a_row_of_seeds_goes_on_and_tells_how_far_apart_they_end(
    fake: list[tuple[int, str, bool]], scenes: Path, tmp_path: Path
) -> None:
    command = ("train", "scenes", "train.seed=5", "--seeds", "3", "--data", scenes, "--out", tmp_path)
    assert run(*command).exit_code == 130
    assert not (tmp_path / "seeds.json").exists()
    result = run(*command, "--resume")
    assert result.exit_code == 0, result.output
    assert fake == [
        (5, "seed-5", False), (6, "seed-6", False), (5, "seed-5", True), (6, "seed-6", True), (7, "seed-7", True)
    ]  # fmt: skip
    *_, bleu, cider, last = result.stdout.splitlines()
    assert bleu.split() == ["BLEU-4", "10.0", "0.0", "10.0", "–", "10.0"]
    assert cider.split() == ["CIDEr", "60.0", "10.0", "50.0", "–", "70.0"]
    assert last.endswith(str(tmp_path / "seeds.json"))
    kept = json.loads((tmp_path / "seeds.json").read_text(encoding="utf-8"))
    assert [each["seed"] for each in kept["runs"]] == [5, 6, 7]
    assert kept["runs"][1]["scores"] == {"bleu_4": 0.1, "cider": 0.6}
    assert kept["spread"]["cider"] == pytest.approx({"mean": 0.6, "deviation": 0.1, "least": 0.5, "greatest": 0.7})


def test_a_later_seeds_folder_that_is_taken_is_refused_before_any_training(
    fake: list[tuple[int, str, bool]], scenes: Path, tmp_path: Path
) -> None:
    (tmp_path / "seed-2").mkdir()
    (tmp_path / "seed-2" / "recipe.json").write_text("{}")
    result = run("train", "scenes", "--seeds", "3", "--data", scenes, "--out", tmp_path)
    assert result.exit_code == 2
    assert "seed-2 already holds a run; add --resume" in result.stderr
    assert not fake


def test_one_seed_is_no_row(scenes: Path) -> None:
    result = run("train", "scenes", "--seeds", "1", "--data", scenes)
    assert result.exit_code == 2
    assert "--seeds" in result.stderr
