"""Predictions find their images, and no image gets another one's caption."""

from __future__ import annotations

from pathlib import Path

from showtell.data.annotations import CaptionedImage
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
