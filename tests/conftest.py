"""What tests share: no test touches the user's cache, and small things are made once."""

from __future__ import annotations

import gc
import os
from pathlib import Path

import pytest

os.environ.setdefault("OMP_NUM_THREADS", "1")  # tensors here are tiny, and waiting for a second thread costs more


@pytest.fixture(autouse=True, scope="session")
def _own_cache(tmp_path_factory: pytest.TempPathFactory) -> None:
    os.environ["SHOWTELL_CACHE"] = str(tmp_path_factory.mktemp("cache"))


@pytest.fixture(scope="session")
def shared() -> Path:
    """The folder of real data and weights; tests that need it are skipped where it is not there."""
    folder = Path(os.environ.get("SHOWTELL_SHARED", Path(__file__).parent.parent.parent / "shared"))
    if not folder.is_dir():
        pytest.skip(f"needs real data in {folder} (SHOWTELL_SHARED)")
    return folder


@pytest.fixture(scope="session")
def scenes(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Forty drawn scenes with captions and splits."""
    from showtell.data.scenes import draw_scenes

    return draw_scenes(tmp_path_factory.mktemp("drawn") / "scenes", images=40)


@pytest.fixture(scope="session")
def tiny_bundle(tmp_path_factory: pytest.TempPathFactory, scenes: Path) -> Path:
    """A bundle that was never trained: it says something, whatever it is."""
    import torch

    from showtell.bundle import build_encoder, build_model, save_bundle
    from showtell.data.annotations import read_annotations
    from showtell.data.vocabulary import Vocabulary
    from showtell.recipe import load_recipe

    torch.manual_seed(0)
    recipe = load_recipe("scenes", ["search.max_length=6"])
    captions = [c for image in read_annotations(scenes).split("train") for c in image.captions]
    vocabulary = Vocabulary.train(captions, min_count=1)
    model = build_model(recipe, build_encoder(recipe), len(vocabulary))
    folder = tmp_path_factory.mktemp("run") / "bundle"
    save_bundle(folder, model=model, vocabulary=vocabulary, recipe=recipe, training={})
    return folder


def pytest_collection_finish() -> None:
    """What the tests have imported stays to the end: frozen, it is not looked through by each collection of garbage, of
    which a training has several."""
    gc.collect()
    gc.freeze()


def pytest_sessionfinish() -> None:
    gc.unfreeze()  # libraries complain of what is still there when Python ends
