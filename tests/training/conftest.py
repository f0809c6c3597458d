"""A recipe, data and a run that nobody stopped."""

from __future__ import annotations

from pathlib import Path

import pytest
from training_runs import SMALL

from showtell.data.annotations import CaptionedImage, read_annotations
from showtell.data.scenes import draw_scenes
from showtell.data.vocabulary import Vocabulary
from showtell.recipe import load_recipe
from showtell.training.run import train


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


@pytest.fixture(scope="module")
def images(scenes: Path) -> list[CaptionedImage]:
    """Those of the train split of forty drawn scenes."""
    return list(read_annotations(scenes).split("train"))


@pytest.fixture(scope="module")
def vocabulary(images: list[CaptionedImage]) -> Vocabulary:
    """All of their words."""
    return Vocabulary.train([c for image in images for c in image.captions], min_count=1)
