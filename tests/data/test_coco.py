"""Annotation files of COCO's kind: each image keeps its own file, captions and split, however the files count and name."""

from __future__ import annotations

import json
from collections.abc import Mapping
from pathlib import Path

import pytest
from captioned import paint, write

from showtell.data.annotations import read_annotations
from showtell.data.splits import split_in

Read = dict[str, tuple[str, tuple[str, ...], str | None]]


def annotate(file: Path, names: Mapping[int, str], *, said: str = "") -> None:
    listed = [{"id": number, "file_name": name} for number, name in names.items()]
    captions = [{"image_id": number, "caption": f"{said or file.stem} picture {number}"} for number in names]
    write(file, json.dumps({"images": listed, "annotations": captions}))


def read(root: Path) -> Read:
    """What is read, by id; no problem may be told."""
    found = read_annotations(root)
    assert not found.problems
    return {i.image_id: (i.path.relative_to(root).as_posix(), i.captions, i.split) for i in found.images}


@pytest.mark.parametrize("folder", ["{}/", "images/{}/", "{}2017/", "{}_images/"])
@pytest.mark.parametrize("before", ["", "{}/"])
def test_equal_names_in_folders_of_the_splits(folder: str, before: str, tmp_path: Path) -> None:
    first = {"train": 1, "val": 11, "test": 21}
    for split, number in first.items():
        paint(*(tmp_path / folder.format(split) / f"{n}.jpg" for n in (1, 2)))
        names = {number: f"{before}1.jpg", number + 1: f"{before}2.jpg"}
        annotate(tmp_path / f"{split}.json", {n: name.format(split) for n, name in names.items()})
    assert read(tmp_path) == {
        str(number + n): (f"{folder.format(split)}{n + 1}.jpg", (f"{split} picture {number + n}",), split)
        for split, number in first.items()
        for n in (0, 1)
    }


@pytest.mark.parametrize("name", ["{}-{}.jpg", "{1}.jpg"])
def test_files_that_count_from_one_have_images_of_their_own(name: str, tmp_path: Path) -> None:
    for split, numbers in (("train", (1, 2, 3)), ("val", (1, 2))):
        names = {n: name.format(split, n) for n in numbers}
        paint(*(tmp_path / split / file for file in names.values()))
        annotate(tmp_path / "annotations" / f"{split}.json", names)
    assert read(tmp_path) == {
        f"{place}{n}": (f"{split}/{name.format(split, n)}", (f"{split} picture {n}",), split)
        for split, n, place in (
            ("train", 1, "annotations/train/"), ("train", 2, "annotations/train/"), ("train", 3, ""),
            ("val", 1, "annotations/val/"), ("val", 2, "annotations/val/"),
        )
    }  # fmt: skip


def test_an_image_in_several_files_is_one(tmp_path: Path) -> None:
    """As where boxes or further captions of the same images lie beside, or one file's names have folders."""
    paint(tmp_path / "val2014" / "7.jpg", tmp_path / "val2014" / "8.jpg", tmp_path / "train2014" / "9.jpg")
    annotate(tmp_path / "captions_val2014.json", {7: "7.jpg", 8: "8.jpg"}, said="a")
    annotate(tmp_path / "more_val.json", {7: "val2014/7.jpg"}, said="one more")
    annotate(tmp_path / "train.json", {9: "9.jpg"}, said="a")
    assert read(tmp_path) == {
        "7": ("val2014/7.jpg", ("a picture 7", "one more picture 7"), "val"),
        "8": ("val2014/8.jpg", ("a picture 8",), "val"),
        "9": ("train2014/9.jpg", ("a picture 9",), "train"),
    }


def test_images_of_one_file_share_it(tmp_path: Path) -> None:
    paint(tmp_path / "images" / "1.jpg")
    annotate(tmp_path / "train.json", {1: "1.jpg", 2: "1.jpg"})
    annotate(tmp_path / "val.json", {3: "1.jpg"})
    assert {path for path, _, _ in read(tmp_path).values()} == {"images/1.jpg"}


def test_an_image_does_not_get_the_file_of_another_split(tmp_path: Path) -> None:
    paint(tmp_path / "train" / "1.jpg", tmp_path / "val" / "2.jpg")
    annotate(tmp_path / "train.json", {1: "1.jpg"})
    annotate(tmp_path / "val.json", {11: "1.jpg", 12: "2.jpg"})
    found = read_annotations(tmp_path)
    assert [(image.image_id, image.path.parent.name) for image in found.images] == [("1", "train"), ("12", "val")]
    assert [problem.kind for problem in found.problems] == ["ambiguous-image", "missing-image"]
    assert "11 (1.jpg)" in found.problems[0].message


def test_pictures_of_a_split_may_lie_in_the_folder_of_another(tmp_path: Path) -> None:
    """Karpathy's train split has pictures of COCO's val2014."""
    paint(tmp_path / "train2014" / "a1.jpg", tmp_path / "val2014" / "b2.jpg", tmp_path / "val2014" / "b3.jpg")
    annotate(tmp_path / "coco_karpathy_train.json", {1: "a1.jpg", 2: "b2.jpg"})
    annotate(tmp_path / "coco_karpathy_val.json", {3: "b3.jpg"})
    assert {image: path for image, (path, _, _) in read(tmp_path).items()} == {
        "1": "train2014/a1.jpg", "2": "val2014/b2.jpg", "3": "val2014/b3.jpg",
    }  # fmt: skip


def test_cocos_parts_of_val_and_train_are_splits(tmp_path: Path) -> None:
    files = {"minitrain2017": "train", "minival2014": "val", "valminusminival2014": "val"}
    for number, name in enumerate(files):
        paint(tmp_path / "images" / f"{number}.jpg")
        annotate(tmp_path / "annotations" / f"captions_{name}.json", {number: f"{number}.jpg"})
    assert [split for _, _, split in read(tmp_path).values()] == [*files.values()]


@pytest.mark.parametrize("name", ["latest_captions.json", "evaluated_strained.json"])
def test_letters_within_a_word_are_no_split(name: str, tmp_path: Path) -> None:
    names = {n: f"{n}.jpg" for n in range(6)}
    paint(*(tmp_path / "images" / file for file in names.values()))
    annotate(tmp_path / name, names)
    assert sorted(split or "" for _, _, split in read(tmp_path).values()) == ["test", *["train"] * 3, "val", "val"]


@pytest.mark.parametrize("called", ["{}", "{}2017", "{}_set", "partial-{}"])
def test_the_folder_of_an_annotation_file_is_its_split(called: str, tmp_path: Path) -> None:
    train, valid = called.format("train"), called.format("valid")
    for split in (train, valid):
        paint(tmp_path / split / "1.jpg")
        annotate(tmp_path / split / "_annotations.coco.json", {0: "1.jpg"}, said=split)
    assert read(tmp_path) == {
        f"{train}/_annotations.coco/0": (f"{train}/1.jpg", (f"{train} picture 0",), "train"),
        f"{valid}/_annotations.coco/0": (f"{valid}/1.jpg", (f"{valid} picture 0",), "val"),
    }


def test_karpathys_equal_filenames_of_several_folders_are_several_images(tmp_path: Path) -> None:
    entries = [
        {"filename": name, "filepath": split, "split": split, "sentences": [{"raw": f"{split} {name}"}]}
        for split, name in (("train", "1.jpg"), ("val", "1.jpg"), ("val", "2.jpg"))
    ]
    paint(*(tmp_path / entry["filepath"] / entry["filename"] for entry in entries))  # type: ignore[operator]
    write(tmp_path / "dataset.json", json.dumps({"images": entries}))
    assert read(tmp_path) == {
        "train/1.jpg": ("train/1.jpg", ("train 1.jpg",), "train"),
        "val/1.jpg": ("val/1.jpg", ("val 1.jpg",), "val"),
        "2.jpg": ("val/2.jpg", ("val 2.jpg",), "val"),
    }


@pytest.mark.parametrize(
    ("name", "split"),
    [
        ("captions_train2014", "train"), ("Flickr_8k.devImages", "dev"), ("flickr_val_images", "val"), ("trainimages", "train"),
        ("captionsVal", "val"), ("testset", "test"), ("TRAIN", "train"), ("restval", "restval"), ("data.validation.v2", "validation"),
        ("latest", ""), ("evaluated", ""), ("strained", ""), ("interval", ""), ("device_images", ""), ("trainval", ""),
        ("captions_minival2014", "val"), ("captions_valminusminival2014", "val"), ("instances_minitrain2017", "train"),
        ("trainvalminusminival2014", ""), ("miniature_valley", ""),
    ],
)  # fmt: skip
def test_a_split_is_a_word_of_a_name(name: str, split: str) -> None:
    assert split_in(name) == split
