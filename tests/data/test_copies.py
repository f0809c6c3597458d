"""Equal files are found, and lie in one split wherever splits are drawn."""

from __future__ import annotations

import json
import os
from pathlib import Path

import pytest

from showtell.data.annotations import Annotations, read_annotations
from showtell.data.check import check
from showtell.data.copies import differ, first_equals


def test_equal_files_name_the_first_of_them(tmp_path: Path) -> None:
    end = os.urandom(8000)
    contents = {
        "a": b"1" + end,
        "b": b"2" + end,
        "c": b"1" + end,
        "d": b"",
        "e": b"",
        "f": b"1",
        "g": b"1" + end,
        "h": b"3",
    }
    for name, content in contents.items():
        (tmp_path / name).write_bytes(content)
    paths = [tmp_path / name for name in contents]
    assert first_equals(paths) == [0, 1, 0, 3, 4, 5, 0, 7]  # empty ones say nothing of each other
    nowhere = [tmp_path / "none", tmp_path, tmp_path, tmp_path / "\0"]
    assert first_equals([*nowhere, paths[2], *nowhere, paths[0]]) == [0, 1, 2, 3, 4, 5, 6, 7, 8, 4]
    assert first_equals([]) == []


def test_files_are_read_only_where_they_may_be_equal(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    paths = [tmp_path / str(number) for number in range(4)]
    for path, content in zip(paths, (b"one", b"three", b"seven", b"three"), strict=True):
        path.write_bytes(content)
    read: list[Path] = []
    monkeypatch.setattr("showtell.data.copies._digest", lambda path: read.append(path) or path.read_bytes())
    assert first_equals(paths) == [0, 1, 2, 1]
    assert read == [paths[1], paths[3]]


def test_files_differ_by_size_or_end(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    contents = {"a": b"one", "b": b"two", "c": b"three", "d": b"one", "e": b"", "f": b"", "g": b"one"}
    for name, content in contents.items():
        (tmp_path / name).write_bytes(content)
    paths = {name: tmp_path / name for name in (*contents, "none")}
    monkeypatch.setattr("showtell.data.copies._digest", lambda path: pytest.fail(f"{path} is read in full"))
    told = {names: differ([paths[name] for name in names]) for names in ("", "a", "ad", "adg", "ab", "ac", "adb", "ef")}
    assert told == {"": False, "a": False, "ad": False, "adg": False, "ab": True, "ac": True, "adb": True, "ef": True}
    assert differ([paths["a"], paths["none"]])


def pictures(root: Path, copies: dict[int, int], *, split: str = "") -> Annotations:
    """Sixty images, each other than the others but for `copies`, read with splits drawn; or with splits train and test."""
    root.mkdir(exist_ok=True)
    rows = []
    for number in range(60):
        name = f"{number:02d}.png"
        (root / name).write_bytes(f"picture {copies.get(number, number):02d}".encode())
        rows.append({"image": name, "caption": "a thing", "split": split if number < 50 else split and "test"})
    (root / "captions.jsonl").write_text("".join(json.dumps(row) + "\n" for row in rows))
    return read_annotations(root, val=0.2, test=0.2)


def splits(found: Annotations) -> dict[int, str | None]:
    return {int(image.path.stem): image.split for image in found.images}


@pytest.mark.parametrize("split", ["", "train"])
def test_copies_lie_in_one_split_and_move_no_other_image(split: str, tmp_path: Path) -> None:
    plain = splits(pictures(tmp_path / "plain", {}, split=split))
    copies = {number: number - 20 for number in range(20, 40)}
    found = pictures(tmp_path / "copies", copies, split=split)
    moved = {number for number, first in copies.items() if plain[number] != plain[first]}
    assert {plain[number] for number in moved} >= {"train", "val"}
    assert splits(found) == {number: plain[copies.get(number, number)] for number in plain}
    assert f"{len(moved)} images are copies of others" in found.notes[-1]
    assert not list(found.in_two_splits())
    (tmp_path / "copies" / "00.png").unlink()  # then 20 is the first of its name
    assert splits(read_annotations(tmp_path / "copies", val=0.2, test=0.2)) == {
        number: name for number, name in (splits(found) | {20: plain[20]}).items() if number
    }


def test_copies_in_splits_of_the_datas_own_are_told(tmp_path: Path) -> None:
    found = pictures(tmp_path, {50: 0, 51: 1, 2: 1}, split="train")
    assert splits(found)[50] == "test"
    pairs = [(int(image.path.stem), int(first.path.stem)) for image, first in found.in_two_splits()]
    assert {50, 51} <= {image for image, _ in pairs} and (50, 0) in pairs
    assert not [
        problem for problem in check(tmp_path).problems if problem.kind == "same-picture"
    ]  # they are no pictures


def of_contents(root: Path, contents: list[bytes], *, split: str = "") -> Annotations:
    rows = []
    for number, content in enumerate(contents):
        (root / f"{number:02d}.png").write_bytes(content)
        rows.append({"image": f"{number:02d}.png", "caption": "a thing", "split": split})
    (root / "captions.jsonl").write_text("".join(json.dumps(row) + "\n" for row in rows))
    return read_annotations(root)


@pytest.mark.parametrize(
    ("contents", "split"),
    [
        ([b"%d" % (number // 2) for number in range(10)], ""),
        ([b"the same"] * 30, ""),
        ([b"the same"] * 30, "train"),
    ],
)
def test_copies_empty_no_split(contents: list[bytes], split: str, tmp_path: Path) -> None:
    plain = of_contents(tmp_path, [b"picture %d" % number for number in range(len(contents))], split=split)
    found = of_contents(tmp_path, contents, split=split)
    assert splits(found) == splits(plain)
    assert "copies of others in another split" in found.notes[-1] and "would be empty" in found.notes[-1]
    assert list(found.in_two_splits())


def test_empty_files_are_no_copies(tmp_path: Path) -> None:
    plain = [b"picture %d" % number for number in range(40)]
    for_all = splits(of_contents(tmp_path, plain))
    found = of_contents(tmp_path, [b"" if number % 3 == 0 else content for number, content in enumerate(plain)])
    assert splits(found) == for_all
    assert not found.notes and not list(found.in_two_splits())
