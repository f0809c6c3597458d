"""Which file an image's name means: other spellings of it, several files of one name, and files that no name means."""

from __future__ import annotations

import json
import os
import unicodedata
from pathlib import Path

import pytest
from PIL import Image

from showtell.data.annotations import Annotations, read_annotations
from showtell.data.pictures import Pictures, parts

DECOMPOSED = unicodedata.normalize("NFD", "é.jpg")


def read(root: Path, names: list[str], files: list[str]) -> Annotations:
    """A table of these images beside these files, each a picture of its own."""
    for place, file in enumerate(files):
        (root / file).parent.mkdir(parents=True, exist_ok=True)
        Image.new("RGB", (8, 8), (20 * place, 0, 0)).save(root / file, "PNG")
    rows = (f"{name},a dog number {place}\n" for place, name in enumerate(names))
    (root / "captions.csv").write_text("image,caption\n" + "".join(rows), encoding="utf-8")
    return read_annotations(root)


def files_of(annotations: Annotations) -> dict[str, str]:
    return {image.image_id: image.path.relative_to(annotations.root).as_posix() for image in annotations.images}


def problems_of(annotations: Annotations) -> list[str]:
    return [f"{problem.kind}: {problem.message}" for problem in annotations.problems]


def test_other_spellings_of_a_name_find_the_file(tmp_path: Path) -> None:
    names = ["é.jpg", "IMG_0.jpg", "sub/IMG_1", "b.jpg"]
    found = read(tmp_path, names, [DECOMPOSED, "IMG_0.JPG", "sub/img_1.png", "b.jpg"])
    assert files_of(found) == dict(zip(names, [DECOMPOSED, "IMG_0.JPG", "sub/img_1.png", "b.jpg"], strict=True))
    assert not found.problems


@pytest.mark.parametrize(
    ("names", "files", "left_out"),
    [
        (["A.jpg", "a.jpg", "b.jpg"], ["a.jpg", "b.jpg"], ["A.jpg"]),  # a.jpg is meant by its own name
        (["A.jpg", "á.jpg", "b.jpg"], ["a.jpg", "b.jpg"], ["á.jpg"]),  # accents tell names apart
        (["IMG.jpg", "Img.jpg", "b.jpg"], ["img.jpg", "b.jpg"], ["IMG.jpg", "Img.jpg"]),  # either may be meant
        (["IMG.jpg", "b.jpg"], ["img.jpg", "Img.JPG", "b.jpg"], ["IMG.jpg"]),  # either may mean it
        (["IMG.jpg", "img", "b.jpg"], ["img.png", "b.jpg"], ["IMG.jpg"]),
    ],
)
def test_other_spellings_that_may_be_wrong_are_not_taken(
    names: list[str], files: list[str], left_out: list[str], tmp_path: Path
) -> None:
    found = read(tmp_path, names, files)
    assert [name for name in names if name not in files_of(found)] == left_out
    assert all(any(name in problem for problem in problems_of(found)) for name in left_out)


def test_a_name_of_several_files_is_told_of_and_the_first_is_read(tmp_path: Path) -> None:
    found = read(tmp_path, ["0.jpg", "1", "b.jpg"], ["a/0.jpg", "b/0.jpg", "1.jpg", "1.png", "b.jpg"])
    assert files_of(found) == {"0.jpg": "a/0.jpg", "1": "1.jpg", "b.jpg": "b.jpg"}
    assert problems_of(found) == [
        "ambiguous-image: 0.jpg may be a/0.jpg, which is read, or b/0.jpg",
        "ambiguous-image: 1 may be 1.jpg, which is read, or 1.png",
    ]


def test_copies_of_one_file_are_not_ambiguous_and_not_read_in_full(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("showtell.data.copies._digest", lambda path: pytest.fail(f"{path} is read in full"))
    read(tmp_path, ["0.jpg", "b.jpg"], ["a/0.jpg", "b.jpg"])
    (tmp_path / "b").mkdir()
    (tmp_path / "b" / "0.jpg").write_bytes((tmp_path / "a" / "0.jpg").read_bytes())
    assert not read_annotations(tmp_path).problems


def test_a_name_that_ends_with_its_separator_is_respelt(tmp_path: Path) -> None:
    (tmp_path / "X.JPG").touch()
    names = {"1": "x.jpg/", "2": "a/x.jpg/", "3": "a\\x.jpg", "4": "x.jpg", "5": "/a/x.jpg"}
    found = Pictures(tmp_path).respelt(names)
    assert {image: parts(name)[-1] for image, name in found.items()} == dict.fromkeys(names, "X.JPG")
    assert [parts(name)[:-1] for name in found.values()] == [parts(name)[:-1] for name in names.values()]


def test_absolute_paths_are_captioned_images(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    root = tmp_path / "data"
    read(root, [os.fspath(root / f"{name}.jpg") for name in "abc"], [f"{name}.jpg" for name in "abcd"])
    monkeypatch.chdir(tmp_path)
    assert list(map(str, read_annotations(Path("data")).problems)) == ["d.jpg: has no caption; it is left out"]


def test_images_without_captions_are_named_in_every_format(tmp_path: Path) -> None:
    for name in "abcd":
        (tmp_path / "pairs").mkdir(exist_ok=True)
        Image.new("RGB", (8, 8)).save(tmp_path / "pairs" / f"{name}.png")
        if name != "d":
            (tmp_path / "pairs" / f"{name}.txt").write_text("a dog")
    coco = tmp_path / "coco"
    (coco / "images").mkdir(parents=True)
    listed = [{"id": place, "file_name": f"{name}.png"} for place, name in enumerate("abcd")]
    for image in listed:
        Image.new("RGB", (8, 8)).save(coco / "images" / str(image["file_name"]))
    said = [{"image_id": place, "caption": "a dog"} for place in range(3)]
    (coco / "captions_train.json").write_text(json.dumps({"images": listed, "annotations": said}))
    told = {"pairs": "has no caption; it is left out", "coco": "3 is in train and has no caption"}
    for folder, message in told.items():
        found = read_annotations(tmp_path / folder)
        assert len(found.images) == 3
        assert problems_of(found) == [f"no-caption: {message}"]
