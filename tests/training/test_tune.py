"""`showtell tune`: what may be varied, what is tried, that it goes on where it stopped, and that the best one is written."""

from __future__ import annotations

from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest

from showtell.config import Recipe
from showtell.errors import DataError, RecipeError, WeightsError
from showtell.recipe import load_recipe, parse_recipe
from showtell.training import run as training_run
from showtell.training.tune import Range, Trial, parse_space, tune, with_values

RECIPE = parse_recipe({"train": {"phases": [{"epochs": 1}, {"epochs": 2}]}}, where="here")


def test_what_may_be_varied() -> None:
    texts = [
        "decoder.dropout=0.3..0.6",
        "train.phases.0.lr=1e-4..1e-2:log",
        "decoder.hidden = 64..512",
        "decoder.tied=[true, false]",
    ]
    assert parse_space(texts) == {
        "decoder.dropout": Range(0.3, 0.6),
        "train.phases.0.lr": Range(1e-4, 1e-2, log=True),
        "decoder.hidden": Range(64, 512),
        "decoder.tied": (True, False),
    }


@pytest.mark.parametrize(
    ("text", "said"),
    [
        ("decoder.dropout", "names no values"),
        ("decoder.dropout=0.5", "expected KEY="),
        ("decoder.dropout=[0.5]", "expected KEY="),
        ("decoder.dropout=0.6..0.3", "the smaller end first"),
        ("decoder.dropout=0.0..0.3:log", "above 0"),
        ("decoder.dropout=a..b", "have to be numbers"),
        ("decoder.dropout=1e-4..inf", "have to be numbers"),
        ("decoder.dropout=0.1...5", "have to be numbers"),
    ],
)
def test_what_is_no_space(text: str, said: str) -> None:
    with pytest.raises(RecipeError, match=said):
        parse_space([text])


@pytest.fixture
def fake(monkeypatch: pytest.MonkeyPatch) -> list[Recipe]:
    """Trainings that take no time: the best dropout is 0.4. Returns what was trained."""
    trained: list[Recipe] = []

    def train(recipe: Recipe, *, out: Path, **_: Any) -> Any:
        trained.append(recipe)
        (out / "bundle").mkdir(parents=True)
        (out / "recipe.json").write_text("{}")
        if recipe.decoder.hidden == 13:
            raise RecipeError("thirteen does not go")
        return SimpleNamespace(scores={"cider": 1 - abs(recipe.decoder.dropout - 0.4)}, protocol="toys val")

    monkeypatch.setattr(training_run, "train", train)
    return trained


SPACE = parse_space(["decoder.dropout=0.0..0.9", "train.phases.1.lr=1e-4..1e-2:log"])


def test_the_best_becomes_a_recipe(fake: list[Recipe], tmp_path: Path) -> None:
    heard: list[Trial] = []
    found = tune(RECIPE, SPACE, trials=12, out=tmp_path, report=heard.append)
    assert list(found.trials) == heard and len(fake) == 12
    assert found.best.cider == max(trial.cider or 0 for trial in heard)
    written = load_recipe(found.recipe)
    assert written.decoder.dropout == found.best.values["decoder.dropout"]
    assert written.train.phases[1].lr == found.best.values["train.phases.1.lr"]
    assert written.train.phases[0] == RECIPE.train.phases[0]
    assert found.protocol == "toys val" and "(toys val)" in found.recipe.read_text().splitlines()[0]
    assert [p.parent.name for p in tmp_path.glob("*/bundle")] == [f"trial-{found.best.number:03d}"]


def test_the_best_is_for_the_data_of_the_search(
    fake: list[Recipe], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    (tmp_path / "work").mkdir()
    monkeypatch.chdir(tmp_path / "work")
    space = parse_space(["decoder.dropout=[0.1, 0.2]"])
    named = load_recipe(tune(RECIPE, space, trials=1, out=Path("named"), data=Path("../photos")).recipe)
    assert Path(named.data.path) == tmp_path / "photos", "from wherever it is read"
    assert load_recipe(tune(RECIPE, space, trials=1, out=Path("own")).recipe).data.path == RECIPE.data.path


def test_a_search_goes_on_as_if_it_had_not_stopped(
    fake: list[Recipe], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    whole = tune(RECIPE, SPACE, trials=9, out=tmp_path / "whole")
    tune(RECIPE, SPACE, trials=4, out=tmp_path / "parts")
    resumed: list[bool] = []
    train = training_run.train

    def interrupted(recipe: Recipe, *, resume: bool, out: Path, **more: Any) -> Any:
        resumed.append(resume)
        if not resume:
            out.mkdir()
            (out / "recipe.json").write_text("{}")
            raise KeyboardInterrupt
        return train(recipe, out=out, **more)

    monkeypatch.setattr(training_run, "train", interrupted)
    with pytest.raises(KeyboardInterrupt):
        tune(RECIPE, SPACE, trials=9, out=tmp_path / "parts")
    monkeypatch.setattr(
        training_run,
        "train",
        lambda recipe, **more: interrupted(recipe, **more) if len(resumed) < 2 else train(recipe, **more),
    )
    heard: list[Trial] = []
    parts = tune(RECIPE, SPACE, trials=9, out=tmp_path / "parts", report=heard.append)
    assert resumed == [False, True]
    assert [t.values for t in parts.trials] == [t.values for t in whole.trials]
    assert [t.number for t in heard] == list(range(9)), "earlier trials are told again"


def test_a_trial_that_cannot_run_is_told_and_passed_over(fake: list[Recipe], tmp_path: Path) -> None:
    space = parse_space(["decoder.hidden=[512, 256, 13, 128]"])
    found = tune(RECIPE, space, trials=8, out=tmp_path)
    failed = [trial for trial in found.trials if trial.cider is None]
    assert failed and all(trial.values == {"decoder.hidden": 13} for trial in failed)
    assert "thirteen does not go" in str(failed[0]) and found.best.values != {"decoder.hidden": 13}


@pytest.mark.parametrize(
    ("texts", "said"),
    [
        (["decoder.droput=0.1..0.2"], "did you mean 'dropout'"),
        (["train.phases.2.lr=[1e-3, 1e-4]"], "expected a number from 0 to 1 in place of '2'"),
        (["decoder.dropout=0.5..1.5"], "less than 1"),
        (["train.phases.0.encoder_lr=1e-5..1e-3:log"], "trains no CNN"),
        ([], "nothing is varied"),
        (
            ["data.split_seed=0..9"],
            r"^data\.split_seed cannot be varied: .* other images, .*\(data\.split_seed=VALUE\)$",
        ),
        (["decoder.dropout=0.1..0.2", "data.val=0.1..0.4"], r"^data\.val cannot be varied"),
        (["data.test=[0.1, 0.2]"], r"^data\.test cannot be varied"),
        (["data.path=['photos', 'flickr8k']"], r"^data\.path cannot be varied"),
        (["data=[{val=0.2, split_seed=1}, {}]"], r"^data\.val, data\.split_seed cannot be varied"),
    ],
)
def test_wrong_keys_are_found_before_anything_is_written(texts: list[str], said: str, tmp_path: Path) -> None:
    with pytest.raises(RecipeError, match=said):
        tune(RECIPE, parse_space(texts), trials=1, out=tmp_path / "out")
    assert not (tmp_path / "out").exists()


def test_another_search_needs_another_folder(fake: list[Recipe], tmp_path: Path) -> None:
    tune(RECIPE, SPACE, trials=1, out=tmp_path)
    with pytest.raises(RecipeError, match="another --vary"):
        tune(RECIPE, parse_space(["decoder.dropout=0.1..0.2"]), trials=2, out=tmp_path)
    with pytest.raises(RecipeError, match="another --seed"):
        tune(RECIPE, SPACE, trials=2, out=tmp_path, seed=1)


@pytest.mark.slow
def test_two_real_trainings(tmp_path: Path, scenes: Path) -> None:
    from showtell.cli import main

    out = tmp_path / "tuned"
    said = [
        "tune", "scenes", "--data", str(scenes), "--out", str(out), "--trials", "2", "--vary", "decoder.dropout=[0.0, 0.5]",
        "train.phases=[{epochs=1}]", "decoder.hidden=16", "decoder.embedding=16", "decoder.attention=8",
    ]  # fmt: skip
    with pytest.raises(SystemExit) as left:
        main(said)
    assert left.value.code in (0, None)
    assert load_recipe(out / "best.toml").decoder.hidden == 16
    assert len(list(out.glob("trial-*/log.jsonl"))) == 2 and len(list(out.glob("trial-*/bundle"))) == 1


def test_a_proposal_that_was_torn_is_passed_over(fake: list[Recipe], tmp_path: Path) -> None:
    tune(RECIPE, SPACE, trials=2, out=tmp_path)
    journal = tmp_path / "study.log"
    lines = journal.read_text().splitlines(keepends=True)
    journal.write_text("".join([*lines, *[line for line in lines if '"op_code":4' in line][:1]]))  # a trial, no values
    found = tune(RECIPE, SPACE, trials=3, out=tmp_path)
    assert len(found.trials) == 3 and all(trial.values.keys() == SPACE.keys() for trial in found.trials)


@pytest.mark.parametrize("error", [DataError, WeightsError])
def test_a_trial_that_the_machine_stopped_waits(
    error: type[Exception], fake: list[Recipe], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    train = training_run.train

    def fail(*_: Any, **__: Any) -> Any:
        raise error("it is away")

    monkeypatch.setattr(training_run, "train", fail)
    with pytest.raises(error):
        tune(RECIPE, SPACE, trials=1, out=tmp_path)
    monkeypatch.setattr(training_run, "train", train)
    assert [trial.trouble for trial in tune(RECIPE, SPACE, trials=1, out=tmp_path).trials] == [""]


def test_values_that_leave_no_words_are_passed_over(
    fake: list[Recipe], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    train = training_run.train

    def fail(recipe: Recipe, **options: Any) -> Any:
        if recipe.data.min_count == 1000:
            raise DataError("the vocabulary is empty")
        return train(recipe, **options)

    monkeypatch.setattr(training_run, "train", fail)
    found = tune(RECIPE, parse_space(["data.min_count=[1, 1000]"]), trials=6, out=tmp_path)
    said = {trial.values["data.min_count"]: trial.trouble for trial in found.trials}
    assert said == {1: "", 1000: "the vocabulary is empty"}


def test_the_order_of_what_is_varied_does_not_matter() -> None:
    recipe = load_recipe("ucm-attention")
    for values in ({"train.phases.0.augment": "strong", "train.phases.0.cached_views": 1},
                   {"train.phases.0.samples": 9, "train.phases.0.objective": "cross-entropy"}):  # fmt: skip
        for order in (values, dict(reversed(values.items()))):
            with pytest.raises(RecipeError, match="leave it out"):
                with_values(recipe, order)
    assert with_values(recipe, {"train.phases.0.cached_views": 1}).train.phases[0].augment == "light"
