"""Trackers are told what the log holds; one that fails does not take the training with it."""

from __future__ import annotations

import json
import sys
from collections.abc import Iterator
from pathlib import Path

import accelerate.tracking
import pytest
from accelerate.utils import LoggerType
from training_runs import lines, refuse, same

from showtell.errors import RecipeError
from showtell.recipe import load_recipe
from showtell.training.run import train

# As far as Accelerate asks for it: what it is told lands in a file beside it.
DVCLIVE = """
import json, pathlib
TOLD = pathlib.Path(__file__).with_name("told.jsonl")
class Live:
    step = 0
    def _tell(self, *what):
        with TOLD.open("a") as file:
            file.write(json.dumps([self.step, *what]) + "\\n")
    def log_params(self, values): self._tell("params", values)
    def log_metric(self, name, value, **kwargs):
        if BROKEN: raise OSError("no route to host\\nat all")
        self._tell(name, value)
    def next_step(self): pass
    def end(self): self._tell("end", None)
BROKEN = False
"""
METRIC = """
class Metric:
    @staticmethod
    def could_log(value): return isinstance(value, (int, float))
"""


@pytest.fixture
def told(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[Path]:
    """Where a tracker of that kind, installed for the test, writes what it is told."""
    site = tmp_path / "site"
    for name, text in (("__init__.py", DVCLIVE), ("plots.py", METRIC)):
        (site / "dvclive").mkdir(parents=True, exist_ok=True)
        (site / "dvclive" / name).write_text(text)
    (site / "dvclive-3.0.dist-info").mkdir()
    (site / "dvclive-3.0.dist-info" / "METADATA").write_text("Metadata-Version: 2.1\nName: dvclive\nVersion: 3.0\n")
    monkeypatch.syspath_prepend(site)
    found = [*accelerate.tracking.get_available_trackers(), LoggerType.DVCLIVE]  # which were looked for at its import
    monkeypatch.setattr(accelerate.tracking, "_available_trackers", found)
    yield site / "dvclive" / "told.jsonl"
    for name in [name for name in sys.modules if name.split(".")[0] == "dvclive"]:
        del sys.modules[name]


@pytest.mark.slow
def test_a_tracker_is_told_what_the_log_holds(
    told: Path, recipe_file: Path, data: Path, whole: Path, tmp_path: Path
) -> None:
    recipe = load_recipe(recipe_file, ['train.trackers=["dvclive"]'])
    train(recipe, data=data, out=tmp_path / "run")
    heard = [json.loads(line) for line in told.read_text().splitlines()]
    assert heard[0][1] == "params"
    assert heard[0][2]["train.phases.1.encoder_from"] == "layers"
    assert heard[0][2]["data.path"] == data.name  # no folder of this machine
    epochs = lines(tmp_path / "run")
    for epoch in epochs:
        points = {
            name: value for step, name, value in heard if step == epoch["epoch"] and name not in ("params", "end")
        }
        assert points["val/cider"] == epoch["scores"]["cider"]
        assert points["loss/train"] == epoch["train_loss"]
        assert "reward/train" not in points
    assert heard[-1][1] == "end"
    same(whole, tmp_path / "run")  # telling changes nothing


def test_a_tracker_that_fails_costs_its_own_record(told: Path, recipe_file: Path, data: Path, tmp_path: Path) -> None:
    (told.parent / "__init__.py").write_text(DVCLIVE.replace("BROKEN = False", "BROKEN = True"))
    notes: list[str] = []
    recipe = load_recipe(recipe_file, ['train.trackers=["dvclive"]', "train.max_phases=1"])
    result = train(recipe, data=data, out=tmp_path / "run", note=notes.append)
    assert (result.bundle / "config.json").is_file()
    assert "epoch 1 is missing in dvclive: no route to host" in notes


def test_what_cannot_be_told_is_said_before_training(told: Path, recipe_file: Path, data: Path, tmp_path: Path) -> None:
    for name, said in (
        ("wanbd", "no tracker 'wanbd'; did you mean 'wandb'?"),
        ("comet_ml", "comet_ml is not installed; run  pip install comet_ml"),
        ("tensorboard", "TensorBoard's events are written anyway"),
    ):
        recipe = load_recipe(recipe_file, [f'train.trackers=["{name}"]'])
        refuse(
            RecipeError, said.replace("?", r"\?"), lambda recipe=recipe: train(recipe, data=data, out=tmp_path / "run")
        )
    assert not (tmp_path / "run").exists()
    (told.parent / "__init__.py").write_text("class Live:\n    def __init__(self): raise OSError('no login')\n")
    recipe = load_recipe(recipe_file, ['train.trackers=["dvclive"]'])
    refuse(RecipeError, r"dvclive cannot start \(no login\)", lambda: train(recipe, data=data, out=tmp_path / "run"))
    assert not (tmp_path / "run").exists()
