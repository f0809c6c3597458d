"""Predictions find their images, and no image gets another one's caption."""

from __future__ import annotations

import json
from pathlib import Path

import pytest

from showtell.data.annotations import CaptionedImage
from showtell.errors import DataError
from showtell.evaluation import evaluate_predictions
from showtell.matching import Predictions


def images(*ids: str) -> list[CaptionedImage]:
    return [CaptionedImage(name, Path("/data") / name, ("a thing",), "test") for name in ids]


def told(found: dict[str, str], *ids: str) -> list[str | None]:
    known = Predictions(found, images(*ids))
    return [known.of(image) for image in images(*ids)]


def test_ids_names_stems_and_paths_are_known() -> None:
    for key in ("cats/1.jpg", "1.jpg", "1", "/pictures/cats/1.jpg", "cats\\1.jpg", "elsewhere/1.jpg"):
        assert told({key: "a cat"}, "cats/1.jpg", "dogs/2.jpg") == ["a cat", None], key


def test_a_name_that_two_images_have_is_of_neither() -> None:
    for key in ("1.jpg", "1", "elsewhere/1.jpg"):
        assert told({key: "a cat"}, "cats/1.jpg", "dogs/1.jpg") == [None, None], key
    assert told({"cats/1.jpg": "a cat", "1.jpg": "a thing"}, "cats/1.jpg", "dogs/1.jpg") == ["a cat", None]
    assert told({"1.jpg": "a cat"}, "1.jpg", "dogs/1.jpg") == ["a cat", None]  # an id comes first


def test_cocos_numbers() -> None:
    assert told({"391895": "a man"}, "COCO_val2014_000000391895.jpg") == ["a man"]
    assert told({"COCO_val2014_000000391895.jpg": "a man"}, "391895") == ["a man"]
    assert told({"000000391895.jpg": "a man"}, "391895", "391896") == ["a man", None]
    assert told({"000000391895.jpg": "a man"}, "COCO_val2014_000000391895.jpg") == ["a man"]
    assert told({"COCO_val2014_000000391895.jpg": "a man"}, "000000391895.jpg") == ["a man"]


def test_other_names_of_twelve_digits_are_no_numbers_of_coco() -> None:
    found = {"cats/cam_202401011200.jpg": "a cat"}
    assert told(found, "cats/cam_202401011200.jpg", "dogs/cab_202401011200.jpg") == ["a cat", None]
    assert told(found, "dogs/cab_202401011200.jpg") == [None]


def test_numbers_that_files_count_anew_are_those_of_the_scored_split() -> None:
    train, val = images(*(f"train/{n}" for n in range(3)), "3"), images("val/0", "val/1", "val/2")

    def scored(*keys: str, split: list[CaptionedImage] = val) -> list[str | None]:
        known = Predictions({key: f"a {key}" for key in keys}, [*train, *val], split)
        return [known.of(image) for image in split]

    assert scored("0", "1", "2") == ["a 0", "a 1", "a 2"]
    assert scored("0", "2") == ["a 0", None, "a 2"]
    assert scored("0", "1", "2", "3", split=train) == ["a 0", "a 1", "a 2", "a 3"]
    assert scored("0", "1", "2", "3") == [None] * 3  # val has no 3: these are the train split's
    assert scored("val/0", "1") == ["a val/0", None, None]


def test_coco_results_of_files_that_count_from_0_are_scored(tmp_path: Path) -> None:
    for split in ("train", "valid"):
        listed = [{"id": n, "file_name": f"{split}{n}.jpg"} for n in range(4)]
        said = [{"image_id": n, "caption": f"a {split} picture of {n} dogs"} for n in range(4)]
        (tmp_path / split).mkdir()
        file = tmp_path / split / "_annotations.coco.json"
        file.write_text(json.dumps({"images": listed, "annotations": said}))
    results = tmp_path / "results.json"
    results.write_text(json.dumps(said))
    found = evaluate_predictions(results, tmp_path, split="val")
    assert [(image.captions[0], image.split) for image in found.images] == [(said, "val") for said in found.candidates]
    assert len(found.candidates) == 4
    results.write_text(json.dumps([*said, {"image_id": 4, "caption": "a dog"}]))
    with pytest.raises(DataError, match=r"'0'\) is an image of the val split .*file names"):
        evaluate_predictions(results, tmp_path, split="val")


def test_a_number_that_is_also_another_images_name_is_of_neither() -> None:
    split = [CaptionedImage(f"val/{n}", Path(f"/data/val/{n + 1}.jpg"), ("a thing",), "val") for n in range(2)]
    known = Predictions({"0": "a cat", "1": "a dog"}, [*split, *images("train/0", "train/1")], split)
    assert [known.of(image) for image in split] == [None, None]
    val = images("val/0", "val/1")
    known = Predictions({"0": "a cat", "1": "a dog"}, [*val, *images("0", "train/1")], val)
    assert [known.of(image) for image in val] == [None, None]
