"""Every format tells the same: the same images, captions and splits, and what is wrong by file and line."""

from __future__ import annotations

import json
from collections.abc import Callable
from pathlib import Path

import pytest
from PIL import Image

from showtell.data.annotations import Annotations, read_annotations
from showtell.errors import DataError

CAPTIONS = {
    "one.jpg": ["A cat, on a mat.", "the cat sits"],
    "two.jpg": ["Ein Mädchen läuft.", "a girl runs"],
    "three.jpg": ["two boats at sea", "boats, and more boats"],
    "four.jpg": ["a red door", "the door is shut"],
}
SPLITS = {"one.jpg": "train", "two.jpg": "train", "three.jpg": "val", "four.jpg": "test"}
ROWS = [(name, index, caption) for name, captions in CAPTIONS.items() for index, caption in enumerate(captions)]


def images(folder: Path) -> None:
    folder.mkdir(parents=True, exist_ok=True)
    for index, name in enumerate(CAPTIONS):
        Image.new("RGB", (8, 8), (40 * index, 0, 0)).save(folder / name)


def write(path: Path, text: str, encoding: str = "utf-8") -> None:
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_text(text, encoding=encoding)


def tokens(path: Path) -> None:
    write(path, "".join(f"{name}#{index}\t{caption}\n" for name, index, caption in ROWS))


def lists(folder: Path, pattern: str) -> None:
    for split, word in (("train", "train"), ("val", "dev"), ("test", "test")):
        names = [name for name in CAPTIONS if SPLITS[name] == split]
        write(folder / pattern.format(word), "".join(f"{name}\n" for name in names))


def flickr8k(root: Path) -> None:
    images(root / "Flicker8k_Dataset")
    tokens(root / "Flickr8k_text" / "Flickr8k.token.txt")
    lists(root / "Flickr8k_text", "Flickr_8k.{}Images.txt")


def flat_flickr(root: Path) -> None:
    images(root / "images")
    tokens(root / "results.token")
    lists(root, "{}.txt")


def seed_layout(root: Path) -> None:
    images(root / "images")
    tokens(root / "captions" / "Flickr8k.token.txt")
    lists(root / "captions", "Flickr_8k.{}Images.txt")


def karpathy(root: Path) -> None:
    images(root / "images")
    entries = [
        {"filename": name, "split": SPLITS[name], "sentences": [{"raw": caption} for caption in CAPTIONS[name]]}
        for name in CAPTIONS
    ]
    write(root / "dataset.json", json.dumps({"images": entries, "dataset": "own"}))


def coco(root: Path) -> None:
    for split in ("train", "val", "test"):
        names = [name for name in CAPTIONS if SPLITS[name] == split]
        content = {
            "images": [{"id": list(CAPTIONS).index(name), "file_name": name} for name in names],
            "annotations": [
                {"image_id": list(CAPTIONS).index(name), "caption": caption}
                for name in names
                for caption in CAPTIONS[name]
            ],
        }
        write(root / "annotations" / f"captions_{split}2014.json", json.dumps(content))
    images(root / "all")


def own_csv(root: Path) -> None:
    images(root / "images")
    rows = "".join(f'{name},{SPLITS[name]},"{caption}"\n' for name, _, caption in ROWS)
    write(root / "captions.csv", "image,split,caption\n" + rows)


def own_tsv(root: Path) -> None:
    images(root)
    rows = "".join(f"{name}\t{caption}\t{SPLITS[name]}\n" for name, _, caption in ROWS)
    write(root / "captions.tsv", "filename\tcaption\tsplit\n" + rows)


def own_jsonl(root: Path) -> None:
    images(root / "pictures")
    rows = [{"image": name, "captions": CAPTIONS[name], "split": SPLITS[name]} for name in CAPTIONS]
    write(root / "captions.jsonl", "".join(json.dumps(row) + "\n" for row in rows))


def pairs(root: Path) -> None:
    for index, (name, captions) in enumerate(CAPTIONS.items()):
        folder = root / SPLITS[name]
        folder.mkdir(parents=True, exist_ok=True)
        Image.new("RGB", (8, 8), (40 * index, 0, 0)).save(folder / name)
        write((folder / name).with_suffix(".txt"), "\n".join(captions) + "\n")


def told(annotations: Annotations) -> dict[str, tuple[tuple[str, ...], str | None]]:
    return {image.path.name: (image.captions, image.split) for image in annotations.images}


WANTED = {name: (tuple(captions), SPLITS[name]) for name, captions in CAPTIONS.items()}


@pytest.mark.parametrize(
    "make", [flickr8k, flat_flickr, seed_layout, karpathy, coco, own_csv, own_tsv, own_jsonl, pairs], ids=lambda m: m.__name__
)  # fmt: skip
def test_every_format_tells_the_same(make: Callable[[Path], None], tmp_path: Path) -> None:
    make(tmp_path / "data")
    found = read_annotations(tmp_path / "data")
    assert told(found) == WANTED
    assert all(image.path.is_file() for image in found.images)
    assert not found.problems


def kaggle(root: Path) -> None:
    images(root / "Images")
    write(root / "captions.txt", "image,caption\n" + "".join(f"{name},{caption}\n" for name, _, caption in ROWS))


def test_kaggle_has_no_splits_and_gets_seeded_ones(tmp_path: Path) -> None:
    kaggle(tmp_path)
    found = read_annotations(tmp_path, val=0.25, test=0.25)
    assert {name: captions for name, (captions, _) in told(found).items()} == {k: v for k, (v, _) in WANTED.items()}
    assert sorted(split for _, split in told(found).values() if split) == ["test", "train", "train", "val"]
    lines = (tmp_path / "captions.txt").read_text(encoding="utf-8").splitlines()
    write(tmp_path / "captions.txt", "\n".join([lines[0], *reversed(lines[1:])]) + "\n")
    turned = read_annotations(tmp_path, val=0.25, test=0.25)
    assert {k: v[1] for k, v in told(turned).items()} == {k: v[1] for k, v in told(found).items()}
    assert len({tuple(told(read_annotations(tmp_path, seed=s)).items()) for s in range(8)}) > 1
    with pytest.raises(DataError, match="leave nothing"):
        read_annotations(tmp_path, val=0.5, test=0.5)


def test_what_is_wrong_is_named_by_file_and_line(tmp_path: Path) -> None:
    flickr8k(tmp_path)
    text = tmp_path / "Flickr8k_text" / "Flickr8k.token.txt"
    with text.open("ab") as file:
        file.write(b"one.jpg.1#2\ta third\ngone.jpg#0\tnobody knows\ntwo.jpg#2\t  \njunk\ntwo.jpg#3\tna\xefve\n")
    with (tmp_path / "Flickr8k_text" / "Flickr_8k.devImages.txt").open("a", encoding="utf-8") as file:
        file.write("one.jpg\n")
    Image.new("RGB", (8, 8)).save(tmp_path / "Flicker8k_Dataset" / "extra.jpg")
    found = read_annotations(tmp_path)
    said = {(problem.kind, Path(problem.file).name, problem.line) for problem in found.problems}
    name = "Flickr8k.token.txt"
    assert said == {
        ("mis-keyed", name, 9), ("missing-image", name, 10), ("empty-caption", name, 11), ("not-a-caption", name, 12),
        ("encoding", name, 13), ("two-splits", "Flickr_8k.trainImages.txt", 1), ("no-caption", "extra.jpg", None),
    }  # fmt: skip
    assert "a third" in told(found)["one.jpg"][0]
    assert "naïve" in told(found)["two.jpg"][0]


@pytest.mark.parametrize("encoding", ["utf-8-sig", "utf-16"])
def test_other_unicode_encodings_are_read(encoding: str, tmp_path: Path) -> None:
    own_csv(tmp_path)
    text = (tmp_path / "captions.csv").read_text(encoding="utf-8")
    write(tmp_path / "captions.csv", text, encoding)
    assert told(read_annotations(tmp_path)) == WANTED


def test_dev_is_val_and_unknown_splits_are_said(tmp_path: Path) -> None:
    own_jsonl(tmp_path)
    found = read_annotations(tmp_path)
    assert found.split("dev") == found.split("val")
    with pytest.raises(DataError, match=r"'tset'.*train \(2\), val \(1\), test \(1\)"):
        found.split("tset")


@pytest.mark.parametrize(
    ("make", "words"),
    [
        (lambda root: None, "no folder or file"),
        (lambda root: root.mkdir(), "found nothing"),
        (lambda root: write(root / "notes.md", "hello"), "notes.md"),
        (lambda root: write(root / "dataset.json", "{"), "not JSON"),
        (lambda root: write(root / "captions.csv", "image,caption\n"), "no captions"),
    ],
)
def test_what_is_no_data_set_is_one_sentence(make: Callable[[Path], None], words: str, tmp_path: Path) -> None:
    root = tmp_path / "data"
    make(root)
    with pytest.raises(DataError) as caught:
        read_annotations(root)
    assert "\n" not in str(caught.value)
    assert words in str(caught.value)


def test_a_neighbours_images_are_nobodys_problem(tmp_path: Path) -> None:
    """Captions alone in their folder, images in one beside it, in which one has no caption; and an unrelated folder."""
    tokens(tmp_path / "captions" / "captions.token")
    images(tmp_path / "images")
    for folder in ("images", "holidays"):
        (tmp_path / folder).mkdir(exist_ok=True)
        Image.new("RGB", (8, 8)).save(tmp_path / folder / f"{folder}.jpg")
    found = read_annotations(tmp_path / "captions")
    assert len(found.images) == len(CAPTIONS)
    assert [problem.message for problem in found.problems] == ["images.jpg has no caption; it is left out"]


def test_an_image_without_caption_below_the_data_set_is_told(tmp_path: Path) -> None:
    flat_flickr(tmp_path)
    (tmp_path / "more").mkdir()
    Image.new("RGB", (8, 8)).save(tmp_path / "more" / "five.jpg")
    assert [problem.message for problem in read_annotations(tmp_path).problems] == [
        "five.jpg has no caption; it is left out"
    ]
