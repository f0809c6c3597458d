"""What feature caches take on disk, and how they go."""

from __future__ import annotations

import json
from pathlib import Path

import pytest
import torch
from typer.testing import CliRunner

from showtell.cli import app
from showtell.data.caches import caches, choose
from showtell.data.features import FeatureCache, Key
from showtell.errors import CacheError


def fill(folder: Path, *, images: int, regions: int = 4, feature_size: int = 8, of: str = "") -> None:
    cache = FeatureCache(folder, fingerprint=folder.name, regions=regions, feature_size=feature_size, of=of)
    with cache.writer() as writer:
        keys = [(Key(f"/photos/{'more' * (i % 3 == 2)}/{i}.jpg", 1, 1), f"{i}") for i in range(images)]
        writer.append(keys, torch.zeros(images, regions, feature_size))


@pytest.fixture
def place(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """The user's caches: one of three images with two further views, and a smaller one of pooled features."""
    monkeypatch.setenv("SHOWTELL_CACHE", str(tmp_path))
    place = tmp_path / "features"
    fill(place / "aa11", images=3, of="small (conv3, grid)")
    fill(place / "aa11" / "light-1-v1", images=3)
    fill(place / "aa11" / "light-2-v1", images=2)
    fill(place / "bb22", images=1, regions=1)
    return place


def test_what_caches_take(place: Path) -> None:
    (place / "notes").mkdir()
    first, second = caches()
    assert (first.name, first.images, first.views, second.name, second.images, second.views) == (
        "aa11",
        3,
        2,
        "bb22",
        1,
        0,
    )
    assert first.bytes == sum(path.stat().st_size for path in (place / "aa11").rglob("*") if path.is_file())
    assert first.bytes > 8 * 4 * 8 * 2  # rows of half precision, those of the views too
    assert "3 images of 4 × 8, 2 further views" in first.line()
    assert first.line().endswith(": small (conv3, grid); images in /photos and 1 more")
    assert "1 image of 8, written" in second.line() and second.line().endswith(": images in /photos")
    assert caches(place / "aa11") == [first]


def test_a_cache_goes_and_what_is_none_stays(place: Path) -> None:
    (place / "aa11" / "mine.txt").write_text("kept")
    for use in choose(caches(), ["aa"]):
        use.remove()
    assert [use.name for use in caches()] == ["bb22"]
    assert [path.name for path in (place / "aa11").rglob("*")] == ["mine.txt"]


def test_a_damaged_cache_is_told_and_goes(place: Path) -> None:
    (place / "bb22" / "cache.json").write_text("{")
    damaged = choose(caches(), ["bb22"])[0]
    assert damaged.images == 0 and damaged.bytes > 16
    damaged.remove()
    assert not (place / "bb22").exists()


def test_the_command(place: Path, tmp_path: Path) -> None:
    run = CliRunner().invoke
    assert run(app, ["data", "cache"]).stdout.splitlines()[-1].endswith(" in all")
    told = json.loads(run(app, ["data", "cache", "aa", "--json"]).stdout)
    assert [use["images"] for use in told["caches"]] == [3] and not told["removed"]
    assert (place / "aa11").exists()
    assert run(app, ["data", "cache", "--clear"]).stdout.splitlines()[-1].endswith(" removed")
    assert run(app, ["data", "cache"]).stdout == "nothing is cached\n"
    assert list(place.iterdir()) == []


def test_a_cache_without_a_description_is_still_used(place: Path) -> None:
    (place / "aa11" / "of.txt").unlink()
    assert caches()[0].of == ""
    assert len(FeatureCache(place / "aa11", fingerprint="aa11", regions=4, feature_size=8, of="a word")) == 3
    assert caches()[0].of == "a word"
    (place / "bb22" / "cache.json").write_text("[]")
    with pytest.raises(CacheError, match="another encoder"):
        FeatureCache(place / "bb22", fingerprint="bb22", regions=1, feature_size=8)
    with pytest.raises(CacheError, match="another encoder"):
        FeatureCache(place / "aa11", fingerprint="aa12", regions=4, feature_size=8)


def test_wrong_names_and_places(place: Path, tmp_path: Path) -> None:
    with pytest.raises(CacheError, match="no cache 'cc'; there are: aa11, bb22"):
        choose(caches(), ["aa", "cc"])
    with pytest.raises(CacheError, match="no folder"):
        caches(tmp_path / "nowhere")
    (tmp_path / "empty").mkdir()
    assert caches(tmp_path / "empty") == []
