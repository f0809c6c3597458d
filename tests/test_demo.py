"""The demo, small: everything it promises is there."""

from __future__ import annotations

import re
from pathlib import Path

import pytest

from showtell.demo import run_demo
from showtell.errors import DataError


@pytest.mark.slow
def test_the_demo_makes_what_it_says(tmp_path: Path) -> None:
    said: list[str] = []
    result = run_demo(tmp_path / "demo", images=60, overrides=("train.patience=1",), say=said.append)
    assert (result.bundle / "model.safetensors").is_file()
    assert sum(line.startswith("epoch") for line in said) >= 2
    drawings = sorted((tmp_path / "demo" / "attention").iterdir())
    assert len(drawings) == 3
    page = result.page.read_text(encoding="utf-8")
    assert page.count('class="card"') == page.count("data:image/") >= 3
    assert not re.search(r'(src|href)="(?!data:)', page)
    lines = list(result.lines())
    assert "test CIDEr" in lines[-2]
    assert "constant caption" in lines[-2]
    assert "shuffled" in lines[-1]
    again = run_demo(tmp_path / "demo", images=60, overrides=("train.patience=1",))
    assert again.test.report.scores == result.test.report.scores


def test_the_demo_leaves_other_folders_alone(tmp_path: Path) -> None:
    (tmp_path / "scenes").mkdir()  # as a run of the recipe 'scenes' has it
    (tmp_path / "scenes" / "photo.jpg").touch()
    with pytest.raises(DataError, match="--out"):
        run_demo(tmp_path)
    assert (tmp_path / "scenes" / "photo.jpg").exists()
