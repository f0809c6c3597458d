"""What is there and not read: pictures of other kinds, misspelt columns, splits and suffixes. Each is named, and what to do."""

from __future__ import annotations

import json
from pathlib import Path

import pytest
from captioned import paint, write
from PIL import Image

from showtell.data.annotations import read_annotations
from showtell.data.check import check
from showtell.errors import DataError


def problems(root: Path) -> list[str]:
    return [str(problem) for problem in read_annotations(root).problems]


def refusal(root: Path) -> str:
    with pytest.raises(DataError) as told:
        read_annotations(root)
    assert "\n" not in str(told.value)
    return str(told.value)


def test_jpegs_are_read_under_all_their_suffixes(tmp_path: Path) -> None:
    for name in ("a.jfif", "b.jpe", "c.JPG"):
        Image.new("RGB", (8, 8), "red").save(tmp_path / name, "JPEG")
        write((tmp_path / name).with_suffix(".txt"), "a red thing")
    found = read_annotations(tmp_path)
    assert [image.image_id for image in found.images] == ["a.jfif", "b.jpe", "c.JPG"] and not found.problems


def test_a_picture_with_captions_that_is_not_read_is_named(tmp_path: Path) -> None:
    paint(tmp_path / "a.jpg", tmp_path / "both.jpg")
    for name in ("a.txt", "both.txt", "deep/c.txt", "README.txt", "both.heic", "alone.heic", "deep/c.HEIC"):
        write(tmp_path / name, "a thing")
    assert problems(tmp_path) == ["deep/c.HEIC: has captions, but showtell does not read .heic; convert it to JPEG"]
    for name in ("a.jpg", "both.jpg"):
        (tmp_path / name).unlink()
    assert "(alone.heic is a picture, and showtell does not read .heic; convert it to JPEG); looked" in refusal(
        tmp_path
    )


@pytest.mark.parametrize(
    ("said", "there", "told"),
    [
        ("b.heic", "b.heic", " (b.heic is there, but showtell does not read .heic; convert it to JPEG)"),
        ("b.jpg", "b.heic", " (b.heic is there, but showtell does not read .heic; convert it to JPEG)"),
        ("b.xyz", "b.xyz", " (b.xyz is there, but showtell does not read .xyz)"),
        ("b", "b", " (b is there, but showtell does not read names without a suffix)"),
        ("b.png", "b.jpg", " (b.jpg is there)"),
        ("b.v2", "b.jpg", ""),
        ("b.jpg", "b.json", ""),
        ("b.jpg", "c.txt", ""),
    ],
)
def test_what_lies_there_in_place_of_an_image(said: str, there: str, told: str, tmp_path: Path) -> None:
    paint(tmp_path / "images" / "a.jpg")
    write(tmp_path / "images" / there, "content")
    write(tmp_path / "captions.csv", f"image,caption\na.jpg,a thing\n{said},a thing\n")
    found = [p for p in problems(tmp_path) if "no image file" in p]
    assert found == [f"captions.csv:3: {said} has 1 caption and no image file{told}; it is left out"]


def test_where_images_are_looked_for_is_said_where_none_is_found(tmp_path: Path) -> None:
    root = tmp_path / "data"
    write(root / "captions.csv", "image,caption\na.jpg,a thing\na.jpg,a red thing\n")
    (root / "images").mkdir()
    told = refusal(root)
    assert "a.jpg has 2 captions and no image file; it is left out" in told
    assert told.endswith("; images are looked for by name in this folder and two levels below")


@pytest.mark.parametrize(
    ("name", "text", "told"),
    [
        ("c.csv", "image,captoin\na.jpg,a thing\n",
         "(c.csv has the column 'image' and none for the caption: its columns are image, captoin; did you mean 'caption'?)"),
        ("c.tsv", "imgae\tcaption\na.jpg\ta thing\n",
         "(c.tsv has the column 'caption' and none for the image: its columns are imgae, caption; did you mean 'image'?)"),
        ("c.csv", "image,url\na.jpg,x\n",
         "(c.csv has the column 'image' and none for the caption: its columns are image, url)"),
        ("c.jsonl", '{"image": "a.jpg", "captoin": "a thing"}\n',
         "(c.jsonl has the key 'image' and none for the caption: its keys are image, captoin; did you mean 'caption'?)"),
        ("c.jsonl", '{"picture": "a.jpg", "words": "a thing"}\n', "(c.jsonl has the keys picture, words)"),
        ("c.csv", "picture,words\na.jpg,a thing\n", "(c.csv begins with 'picture,words')"),
    ],
)  # fmt: skip
def test_a_misspelt_column_is_named(name: str, text: str, told: str, tmp_path: Path) -> None:
    paint(tmp_path / "a.jpg")
    write(tmp_path / name, text)
    assert told in refusal(tmp_path)


@pytest.mark.parametrize("column", ["split", "fold"])
def test_splits_of_which_none_is_known_are_refused(column: str, tmp_path: Path) -> None:
    names = [f"{number}.jpg" for number in range(6)]
    paint(*(tmp_path / name for name in names))
    rows = [{"image": name, "caption": "a thing", column: ("trian", "vall")[at % 2]} for at, name in enumerate(names)]
    write(tmp_path / "captions.jsonl", "".join(json.dumps(row) + "\n" for row in rows))
    if column == "fold":  # may be one of something else
        assert [problem.kind for problem in read_annotations(tmp_path).problems] == ["unknown-split"] * 6
        return
    told = refusal(tmp_path)
    assert "of its splits, 'trian', 'vall', none is known: expected train, training, " in told
    rows[0][column] = "train"
    write(tmp_path / "captions.jsonl", "".join(json.dumps(row) + "\n" for row in rows))
    assert [problem.kind for problem in read_annotations(tmp_path).problems] == ["unknown-split"] * 5


def test_a_problem_says_a_name_once(tmp_path: Path) -> None:
    paint(tmp_path / "a.jpg", tmp_path / "b.jpg", tmp_path / "c.jpg")
    Image.effect_noise((64, 64), 60).save(tmp_path / "a.jpg")
    (tmp_path / "a.jpg").write_bytes((tmp_path / "a.jpg").read_bytes()[:-200])
    (tmp_path / "b.jpg").write_bytes(b"")
    write(tmp_path / "captions.csv", "image,caption\na.jpg,a thing\nb.jpg,a thing\n")
    broken, empty, bare = sorted(str(problem) for problem in check(tmp_path).problems)
    assert broken.startswith("a.jpg: cannot be read as an image (image file is truncated")
    assert broken.count("a.jpg") == broken.count("cannot be") == 1
    assert empty == "b.jpg: cannot be read as an image (it is empty)"
    assert bare == "c.jpg: has no caption; it is left out"


def test_a_files_split_counts_where_its_rows_name_none(tmp_path: Path) -> None:
    """A column of something else that is called split; and a file that is told of by its own name."""
    paint(tmp_path / "a.png", tmp_path / "b.png")
    for split, name in (("train", "a.png"), ("val", "b.png")):
        write(tmp_path / f"{split}.csv", f"image,split,caption\n{name},web,a dog\n")
    assert {image.path.name: image.split for image in read_annotations(tmp_path).images} == {
        "a.png": "train", "b.png": "val"
    }  # fmt: skip
    write(tmp_path / "other.csv", "image,split,caption\na.png,web,a dog\n")
    with pytest.raises(DataError) as refused:
        read_annotations(tmp_path / "other.csv")
    assert str(refused.value).startswith(f"{tmp_path / 'other.csv'} was read as")
    assert "subset" in str(refused.value)
