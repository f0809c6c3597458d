"""Data that is not as it should be: what is wrong is named, by file and line or entry, and the rest is read."""

from __future__ import annotations

import json
import os
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
from captioned import images, paint, told, write

from showtell.data.annotations import Annotations, read_annotations
from showtell.data.vocabulary import Vocabulary
from showtell.errors import DataError

NAMES = [f"{number}.png" for number in range(5)]


def jsonl(root: Path, *rows: object) -> Annotations:
    """What is read of a thing per image and of more rows, from line 6 on."""
    paint(*(root / name for name in NAMES))
    things = [{"image": name, "caption": f"thing {name[0]}"} for name in NAMES]
    lines = [row if isinstance(row, str) else json.dumps(row) for row in (*things, *rows)]
    write(root / "captions.jsonl", "".join(f"{line}\n" for line in lines))
    return read_annotations(root)


def captions(found: Annotations, name: str = "0.png") -> tuple[str, ...]:
    return told(found)[name][0]


def problems(found: Annotations) -> list[tuple[str, int | None, str]]:
    return [(problem.kind, problem.line, problem.message.split(";")[0]) for problem in found.problems]


@pytest.mark.parametrize("suffix", ["", ".png"])
@pytest.mark.parametrize("format", ["token", "description"])
def test_lists_may_name_images_with_spaces(format: str, suffix: str, tmp_path: Path) -> None:
    known = "" if format == "description" else ".jpg"  # a list without suffixes means these
    names = {f"my photo {n}": split for n, split in ((1, "train"), (2, "train"), (3, "val"), (4, "test"))}
    paint(*(tmp_path / "images" / f"{name}{suffix or known or '.png'}" for name in names))
    for split, word in (("train", "train"), ("val", "dev"), ("test", "test")):
        said = "".join(f"{name}{suffix}\n" for name, of in names.items() if of == split)
        write(tmp_path / f"list.{word}Images.txt", said)
    if format == "token":
        rows = "".join(f"{name}{suffix or known}#0\ta thing\n" for name in names)
        write(tmp_path / "own.token.txt", rows)
    else:
        write(tmp_path / "descriptions.txt", "".join(f"{name}{suffix}\ta thing\n" for name in names))
    write(tmp_path / "train_log.txt", "all went well.\n")
    found = read_annotations(tmp_path)
    assert {Path(name).stem: split for name, (_, split) in told(found).items()} == names
    assert not found.problems


def test_half_a_character_is_replaced(tmp_path: Path) -> None:
    found = jsonl(tmp_path, {"image": "0.png", "captions": ["a \ud800 dog", "a \U0001f415 \u732b"]})
    assert captions(found) == ("thing 0", "a \ufffd dog", "a \U0001f415 \u732b")
    said = "the caption of 0.png has half a character (a lone surrogate)"
    assert problems(found) == [("encoding", 6, said)]
    Vocabulary.train((caption for image in found.images for caption in image.captions), min_count=1)


def test_names_that_are_no_text_are_files_all_the_same(tmp_path: Path) -> None:
    name = os.fsdecode(b"caf\xe9.png")
    paint(tmp_path / name)
    found = jsonl(tmp_path, {"image": name, "caption": "a cup"}, {"image": "\ud800.png", "caption": "a thing"})
    assert captions(found, name) == ("a cup",)
    assert [(problem.kind, problem.line) for problem in found.problems] == [("missing-image", 7)]


@pytest.mark.parametrize("row", ["[1, 2]", '"x"', "5", "null", "[" * 100_000])
def test_a_line_that_is_no_object_is_told(row: str, tmp_path: Path) -> None:
    found = jsonl(tmp_path, row)
    assert [(problem.kind, problem.line) for problem in found.problems] == [("not-json", 6)]
    lines = (tmp_path / "captions.jsonl").read_text(encoding="utf-8").splitlines()
    write(tmp_path / "captions.jsonl", "\n".join([row, *lines[:-1]]))  # as the first row too
    assert len(read_annotations(tmp_path).images) == len(NAMES)


NO_TEXT = (None, True, 5, 2.5, ["a", "b"], {"raw": 5}, {"tokens": None}, {"tokens": [1, 2]}, {"of": "x"})


@pytest.mark.parametrize("wrong", NO_TEXT)
def test_a_caption_that_is_no_text_is_no_caption(wrong: object, tmp_path: Path) -> None:
    good = [{"raw": "raw"}, {"text": "text"}, {"raw": "", "tokens": ["two", "tokens"]}]
    found = jsonl(tmp_path, {"image": "0.png", "captions": ["a", wrong, *good]}, {"image": ["0.png"], "caption": "b"})
    assert captions(found) == ("thing 0", "a", "raw", "text", "two tokens")
    assert problems(found) == [
        ("not-a-caption", 6, "the caption of 0.png is no text"),
        ("not-a-caption", 7, "expected an image and a caption in this row"),
    ]


def test_numbers_in_a_table_are_text(tmp_path: Path) -> None:
    images(tmp_path)
    write(tmp_path / "captions.csv", "image,caption\none.jpg,None\ntwo.jpg,12\nthree.jpg,True\n")
    assert [image.captions for image in read_annotations(tmp_path).images] == [("None",), ("12",), ("True",)]


@pytest.mark.parametrize("caption", ["!!!", "\u200b", "\U0001f44d", "\u2764\ufe0f", "-", "\ud800"])
def test_a_caption_without_a_word_is_told(caption: str, tmp_path: Path) -> None:
    found = jsonl(tmp_path, {"image": "0.png", "caption": caption})
    assert captions(found) == ("thing 0",)
    assert problems(found) == [("empty-caption", 6, "the caption of 0.png has no word")]


@pytest.mark.parametrize("caption", ["5", "狗", "คน", "كلب", "कुत्ता", "한", "ខ្លា", "ㇰ", "™", "①", "!a"])
def test_a_word_of_any_script_is_one(caption: str, tmp_path: Path) -> None:
    found = jsonl(tmp_path, {"image": "0.png", "caption": caption})
    assert captions(found) == ("thing 0", caption) and not found.problems


def coco(root: Path, change: Callable[[dict[str, Any]], object]) -> Annotations:
    paint(*(root / "images" / name for name in NAMES))
    said: dict[str, Any] = {
        "images": [{"id": index, "file_name": name} for index, name in enumerate(NAMES)],
        "annotations": [{"image_id": i, "caption": f"{a} thing"} for a in ("a", "one") for i in range(len(NAMES))],
    }
    change(said)
    write(root / "captions_val2017.json", json.dumps(said))
    return read_annotations(root)


@pytest.mark.parametrize(
    ("change", "sentence"),
    [
        (lambda c: c["images"][3].pop("id"), "images[3] has no 'id' or no 'file_name'"),
        (lambda c: c["images"][3].pop("file_name"), "images[3] has no 'id' or no 'file_name'"),
        (lambda c: c["images"][3].update(file_name=None), "images[3] has no 'id' or no 'file_name'"),
        (lambda c: c["images"].insert(0, "x"), "images[0] has no 'id' or no 'file_name'"),
        (lambda c: c["annotations"][8].pop("image_id"), "annotations[8] has no 'image_id'"),
        (lambda c: c["annotations"].append("x"), "annotations[10] has no 'image_id'"),
        (lambda c: c["annotations"][8].update(caption=None), "the caption of 3 (annotations[8]) is no text"),
        (lambda c: c["annotations"][8].update(caption=12), "the caption of 3 (annotations[8]) is no text"),
    ],
)
def test_what_is_wrong_in_coco_is_named_by_entry(
    change: Callable[[dict[str, Any]], object], sentence: str, tmp_path: Path
) -> None:
    found = coco(tmp_path, change)
    assert sentence in [message for _, _, message in problems(found)]
    assert {name for name, (said, _) in told(found).items() if len(said) == 2} >= {*NAMES} - {"3.png"}


def karpathy(root: Path, change: Callable[[list[Any]], object]) -> Annotations:
    paint(*(root / "images" / name for name in NAMES))
    entries: list[Any] = [{"filename": n, "split": "val", "sentences": [{"raw": f"thing {n[0]}"}]} for n in NAMES]
    change(entries)
    write(root / "dataset.json", json.dumps({"images": entries}))
    return read_annotations(root)


@pytest.mark.parametrize(
    ("change", "said", "sentences"),
    [
        ({"sentences": ["a dog"]}, "a dog", []),
        ({"sentences": "a dog"}, "a dog", []),
        ({"sentences": {"raw": "a dog"}}, "a dog", []),
        ({"filepath": 5}, "thing 0", []),
        ({"filepath": "x" * 300}, "thing 0", []),
        ({"sentences": None}, "", ["0.png is in val and has no caption"]),
        ({"sentences": 5}, "", ["the caption of 0.png (images[0].sentences[0]) is no text"]),
        ({"sentences": [{"tokens": None}]}, "", ["the caption of 0.png (images[0].sentences[0]) is no text"]),
        ({"sentences": [{"tokens": [1]}]}, "", ["the caption of 0.png (images[0].sentences[0]) is no text"]),
        ({"sentences": [{"raw": " "}]}, "", ["the caption of 0.png (images[0].sentences[0]) is empty"]),
        ({"filename": None}, "", ["images[0] has no 'filename'"]),
        ({"filename": ["0.png"]}, "", ["images[0] has no 'filename'"]),
        ({"split": ["val"]}, "thing 0", ["'['val']' of 0.png is no split"]),
    ],
)
def test_what_is_wrong_in_karpathys_json_is_named_by_entry(
    change: dict[str, Any], said: str, sentences: list[str], tmp_path: Path
) -> None:
    found = karpathy(tmp_path, lambda entries: entries[0].update(change))
    assert {*sentences} <= {message for _, _, message in problems(found)} and bool(sentences) == bool(found.problems)
    assert told(found).get("0.png", (("",), None))[0] == (said,)
    assert {*NAMES[1:]} <= told(found).keys()


def test_a_first_entry_that_is_no_image_hides_none(tmp_path: Path) -> None:
    found = karpathy(tmp_path, lambda entries: entries.insert(0, "hello"))
    assert told(found).keys() == {*NAMES}
    assert problems(found) == [("not-an-image", None, "images[0] has no 'filename'")]


def test_a_name_too_long_for_a_file_is_a_missing_image(tmp_path: Path) -> None:
    found = jsonl(tmp_path, {"image": "x" * 300 + ".jpg", "caption": "a thing"})
    assert [(problem.kind, problem.line) for problem in found.problems] == [("missing-image", 6)]
    assert told(found).keys() == {*NAMES}


def test_utf16_cut_within_a_character_is_read(tmp_path: Path) -> None:
    paint(*(tmp_path / name for name in NAMES))
    rows = "\n".join(f"{name},a red door" for name in NAMES)
    (tmp_path / "captions.csv").write_bytes(f"image,caption\n{rows}".encode("utf-16")[:-1])
    found = read_annotations(tmp_path)
    assert captions(found, NAMES[-1]) == ("a red doo\ufffd",)
    ((kind, line, message),) = [(p.kind, p.line, p.message) for p in found.problems]
    assert (kind, line) == ("encoding", None) and "broken characters" in message


def test_a_json_nested_too_deeply_is_one_sentence(tmp_path: Path) -> None:
    write(tmp_path / "dataset.json", "[" * 100_000)
    with pytest.raises(DataError, match=r"dataset\.json is not JSON \(nested too deeply\)"):
        read_annotations(tmp_path)
