"""What a run reads of a data set before it encodes anything, and what it says of it."""

from __future__ import annotations

import json
import shutil
from pathlib import Path

import pytest

from showtell.recipe import load_recipe
from showtell.training.samples import Samples


def read(recipe_file: Path, data: Path, *options: str) -> tuple[Samples, list[str]]:
    notes: list[str] = []
    recipe = load_recipe(recipe_file, list(options))
    return Samples(recipe, data, note=notes.append, progress=lambda what, done, total: None), notes


def split_anew(data: Path, to: Path, splits: dict[str, str]) -> Path:
    """The data set with some of its splits called otherwise; without any where they are called ""."""
    shutil.copytree(data, to)
    rows = [json.loads(line) for line in (data / "captions.jsonl").read_text(encoding="utf-8").splitlines()]
    rows = [row | {"split": splits.get(row["split"], row["split"])} for row in rows]
    (to / "captions.jsonl").write_text("".join(json.dumps(row) + "\n" for row in rows), encoding="utf-8")
    return to


def test_without_a_val_split_some_of_train_is_held_out(recipe_file: Path, data: Path, tmp_path: Path) -> None:
    root = split_anew(data, tmp_path / "two", {"val": "train"})
    samples, notes = read(recipe_file, root, "data.val=0.25")
    assert samples.listed == 21  # of 28, and two are for testing
    assert any("no val split: 7 of its 28 train images" in note for note in notes)


@pytest.mark.parametrize("given", [True, False])
def test_pictures_in_two_splits_are_told(given: bool, recipe_file: Path, data: Path, tmp_path: Path) -> None:
    root = split_anew(data, tmp_path / "copied", {} if given else {"train": "", "val": "", "test": ""})
    rows = [json.loads(line) for line in (root / "captions.jsonl").read_text(encoding="utf-8").splitlines()]
    for row, other in zip(rows[:4], rows[-4:], strict=True):
        shutil.copy(root / other["image"], root / row["image"])
    _, notes = read(recipe_file, root)
    assert any("4 of the pictures lie in two" in note for note in notes) == given
    assert any("byte for byte, and put into the split" in note for note in notes) != given
    assert not [note for note in read(recipe_file, data)[1] if "byte for byte" in note]
