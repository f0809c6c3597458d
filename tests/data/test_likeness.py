"""Pictures that are in two splits under other bytes: resized, squashed, compressed again."""

from __future__ import annotations

import io
from pathlib import Path

import numpy as np
import pytest
from PIL import Image

from showtell.data.annotations import read_annotations
from showtell.data.check import check
from showtell.data.likeness import ALIKE, most_alike, thumbnail
from showtell.data.scenes import draw_scenes


def photo(seed: int, size: int = 128) -> Image.Image:
    """Blurred noise: like a photo, it has light and dark, and colours, in places of its own."""
    noise = np.random.default_rng(seed).integers(0, 256, (6, 6, 3), dtype=np.uint8)
    return Image.fromarray(noise).resize((size, size), Image.Resampling.BICUBIC)


def compressed(image: Image.Image, quality: int = 30) -> Image.Image:
    written = io.BytesIO()
    image.save(written, "JPEG", quality=quality)
    return Image.open(written)


SAME = {
    "smaller": lambda image: image.resize((48, 48)),
    "squashed": lambda image: image.resize((200, 80)),
    "compressed": compressed,
    "smaller and compressed": lambda image: compressed(image.resize((64, 64)), 50),
    "darker": lambda image: image.point(lambda value: value // 2 + 20),
}
OTHER = {
    "mirrored": lambda image: image.transpose(Image.Transpose.FLIP_LEFT_RIGHT),
    "a part": lambda image: image.crop((0, 0, 96, 96)),
    "grey": lambda image: image.convert("L"),
    "another": lambda _: photo(1000),
}


@pytest.mark.parametrize("change", [*SAME, *OTHER])
def test_copies_are_alike_and_other_pictures_are_not(change: str) -> None:
    known = [small for seed in range(50) if (small := thumbnail(photo(seed))) is not None]
    changed = thumbnail({**SAME, **OTHER}[change](photo(7)))
    assert len(known) == 50 and changed is not None
    [(which, alike)] = most_alike([changed], known)
    assert (alike >= ALIKE and which == 7) == (change in SAME)


def test_many_pictures_are_compared_a_part_at_a_time(monkeypatch: pytest.MonkeyPatch) -> None:
    known = [small for seed in range(40) if (small := thumbnail(photo(seed))) is not None]
    monkeypatch.setattr("showtell.data.likeness._TOGETHER", 7)
    assert [which for which, _ in most_alike(known[::-1], known)] == list(range(39, -1, -1))
    assert most_alike([], known) == [] and most_alike(known[:2], []) == [(-1, -1.0)] * 2


def test_a_picture_of_one_colour_is_like_none() -> None:
    assert thumbnail(Image.new("RGB", (64, 64), "white")) is None
    assert thumbnail(compressed(Image.new("RGB", (64, 64), "teal"), 10)) is None


def test_check_names_pictures_of_two_splits_once(tmp_path: Path) -> None:
    root = draw_scenes(tmp_path / "scenes", images=40)
    train, val, test = (read_annotations(root).split(split) for split in ("train", "val", "test"))
    assert not check(root).problems
    for place, image in enumerate((train[0], train[1], val[0], test[0])):
        photo(place).save(image.path)
    photo(1).resize((50, 40)).save(val[1].path)  # of train
    photo(2).resize((60, 60)).save(test[1].path)  # of val
    photo(0).save(val[2].path)  # an exact copy of train's first
    photo(3).resize((48, 48)).save(test[2].path)  # within test: nothing leaks
    found = [(problem.kind, problem.file, problem.message) for problem in check(root).problems]
    exact = min(train[0].image_id, val[2].image_id) == train[0].image_id
    assert [(kind, file) for kind, file, _ in found] == [
        ("same-picture", val[2].image_id if exact else train[0].image_id),
        ("similar-picture", val[1].image_id),
        ("similar-picture", test[1].image_id),
    ]
    assert f"looks like {train[1].image_id} (" in found[1][2] and "one is in train, the other in val" in found[1][2]
    assert f"looks like {val[0].image_id} (" in found[2][2] and "one is in val, the other in test" in found[2][2]


@pytest.mark.slow
def test_published_photos_are_found_among_their_squashed_copies(shared: Path) -> None:
    folder = shared / "data" / "flickr8k"
    originals = sorted((folder / "originals").glob("*.jpg"))
    squashed = sorted((folder / "Flicker8k_Dataset").glob("*.jpg"))
    few = [(path.name, small) for path in squashed if (small := thumbnail(Image.open(path))) is not None]
    looks = [small for path in originals if (small := thumbnail(Image.open(path))) is not None]
    found = most_alike(looks, [small for _, small in few])
    assert [few[which][0] for which, _ in found] == [path.name for path in originals]
    assert min(alike for _, alike in found) > ALIKE
