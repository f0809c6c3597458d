"""`data check`: the figures, and problems that only pixels show."""

from __future__ import annotations

import json
import shutil
from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st
from PIL import Image

from showtell.data.annotations import read_annotations
from showtell.data.check import _words, check
from showtell.data.scenes import draw_scenes
from showtell.data.splits import draw
from showtell.data.vocabulary import Vocabulary
from showtell.errors import DataError


def test_figures(scenes: Path) -> None:
    report = check(scenes)
    assert (report.images, report.captions, report.captions_per_image) == (40, 200, {5: 40})
    assert sum(report.splits.values()) == 40
    assert report.vocabulary[1] >= report.vocabulary[2] >= report.vocabulary[5] > 10
    assert all(0 <= rate <= 1 for rates in report.unknown_rate.values() for rate in rates.values())
    assert report.lengths["p1"] <= report.lengths["p50"] <= report.lengths["p99"]
    assert not report.problems
    assert json.loads(json.dumps(report.to_dict()))["images"] == 40
    assert any("40" in line for line in report.lines())


@pytest.mark.parametrize(
    "caption",
    [
        "A dog's T-shirt, red.",
        "穿T恤的3个人。",
        "サッカーをする",
        "हिन्दी बोलता है।",
        "cho\u0301 con",
        "ขี่ช้าง",
        "นำ้ใจ",
        "the dog 's ball is n't red",
        "the dog ’s 't",
        "snake_case _x_",
        "Ο ΣΚΥΛΟΣ",
        "½ m² ⅷ Ⅻ ①",
    ],
)
def test_words_are_those_of_a_vocabulary(caption: str) -> None:
    vocabulary = Vocabulary.train([caption], min_count=1)
    assert _words(caption) == vocabulary.tokens(vocabulary.encode(caption))


@given(
    st.text("aZ1_'’ns-tรำ้ำ狗カーสัéß\u0301ΣςİÅ½\t.", max_size=30)
    | st.text(st.characters(max_codepoint=0x2FF, exclude_characters="<"), max_size=30)
)
def test_any_text_has_a_vocabularys_words(caption: str) -> None:
    vocabulary = Vocabulary.train([caption, "word"], min_count=1)
    assert _words(caption) == [vocabulary.listed()[i] for i in vocabulary.encode(caption)[1:-1]]


def test_what_the_pixels_show(tmp_path: Path) -> None:
    root = draw_scenes(tmp_path / "scenes", images=24)
    train, val = (read_annotations(root).split(split) for split in ("train", "val"))
    shutil.copy(train[0].path, val[0].path)
    train[1].path.write_bytes(b"not a picture")
    found = {problem.kind: problem for problem in check(root).problems}
    assert train[1].path.name in str(next(p for k, p in found.items() if "decod" in k or "image" in k))
    twice = next(p for p in found.values() if train[0].path.name in str(p) and val[0].path.name in str(p))
    assert twice.kind == "same-picture"
    assert len(found) == 2
    assert not check(root, decode=False).problems


@pytest.mark.slow
def test_flickr8k_mis_keyed_row_and_missing_images_are_named(shared: Path) -> None:
    problems = check(shared / "data" / "flickr8k", decode=False).problems
    keyed = [p for p in problems if p.kind == "mis-keyed"]
    assert {p.message.split()[2] for p in keyed} == {"2258277193_586949ec62.jpg.1"}
    assert all(p.line is not None for p in keyed)
    assert sum(p.kind == "missing-image" for p in problems) >= 1000


def test_the_scenes_are_deterministic_and_true(tmp_path: Path) -> None:
    one, two = (draw_scenes(tmp_path / name, images=12) for name in ("one", "two"))
    for image in read_annotations(one).images:
        assert image.path.read_bytes() == (two / image.image_id).read_bytes()
        assert len(set(image.captions)) == 5
    assert (one / "captions.jsonl").read_text() == (two / "captions.jsonl").read_text()
    assert {image.split for image in read_annotations(one).images} == {"train", "val", "test"}
    with pytest.raises(Exception, match="at least 6"):
        draw_scenes(tmp_path / "few", images=5)


@pytest.mark.parametrize(("images", "splits"), [(4, (2, 1, 1)), (5, (2, 2, 1)), (14, (11, 2, 1)), (30, (24, 3, 3))])
def test_few_images_leave_two_to_validate_on(images: int, splits: tuple[int, int, int], tmp_path: Path) -> None:
    for number in range(images):
        Image.new("RGB", (8, 8), (9 * number, 0, 0)).save(tmp_path / f"{number}.png")
        (tmp_path / f"{number}.txt").write_text("a dog")
    report = check(tmp_path)
    assert tuple(report.splits.values()) == splits
    assert bool(report.notes) == (splits[1] < 2)


def test_data_that_cannot_be_trained_on_is_told_of(tmp_path: Path) -> None:
    for name in "abc":
        Image.new("RGB", (8, 8)).save(tmp_path / f"{name}.png")
    for splits, note in (("train val", "the val split has 1 image, and training needs two or more"),
                         ("test test", "no image is in the train split"), ("train test", "the data has no val split")):  # fmt: skip
        rows = (f"{name}.png,a dog,{split}\n" for name, split in zip("ab", splits.split(), strict=True))
        (tmp_path / "captions.csv").write_text("image,caption,split\n" + "".join(rows))
        assert any(said.startswith(note) for said in check(tmp_path).notes), splits


def test_what_is_no_data_set_is_told_by_its_table(tmp_path: Path) -> None:
    for number in range(9):
        Image.new("RGB", (8, 8)).save(tmp_path / f"{number}.png")
    (tmp_path / "z.csv").write_text("image name,caption text\n0.png,a dog\n")
    with pytest.raises(
        DataError, match=r"found z\.csv, 0\.png, .* \(z\.csv begins with 'image name,caption text'\); looked"
    ):
        check(tmp_path)


def test_a_large_share_for_tests_leaves_one_to_train_on() -> None:
    paths = {str(number): Path(f"{number}.png") for number in range(5)}
    splits = list(draw(paths, val=0.1, test=0.6, seed=0).splits.values())
    assert [splits.count(name) for name in ("train", "val", "test")] == [1, 1, 3]
