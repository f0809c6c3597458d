"""Markers around captions are found, named and removed; words that look like them stay."""

from __future__ import annotations

import json
import re
from pathlib import Path

import pytest

from showtell.data.annotations import Annotations, read_annotations
from showtell.data.check import check
from showtell.data.markers import find_markers, without_markers

PAIRS = [
    ("startseq ", " endseq"), ("<start> ", " <end>"), ("<start>", "<end>"), ("<s>", "</s>"), ("[CLS] ", " [SEP]"), ("", "<|endoftext|>"),
    ("<|endoftext|>", "<|endoftext|>"), ("<S> ", ""), ("<s> <s> ", " </s> </s>"),
    ("<start> ", " <end> <pad> <pad>"), ("<start> ", "<end>" + "<PAD>" * 30), ("[CLS] ", " [SEP] [PAD] [PAD]"), ("<s> ", " <pad> </s> <pad>"),
]  # fmt: skip


@pytest.mark.parametrize(("begin", "end"), PAIRS)
def test_what_stands_around_a_caption_is_removed(begin: str, end: str) -> None:
    marked = f"{begin}A dog runs, slowly .{end}"
    assert without_markers(marked) == "A dog runs, slowly ."
    assert set(find_markers([marked])) == {
        m.upper() if "[" in m else m.lower() for m in re.findall(r"startseq|endseq|<.+?>|\[.+?\]", begin + end)
    }
    assert not without_markers(begin + end)


def test_full_stops_behind_markers_go_and_those_of_the_caption_stay() -> None:
    for marked in (
        "startseq a dog . endseq .",
        "<s> a dog . </s> . ",
        "<start> a dog . <end>. <pad> . <pad>" + " . " * 20,
    ):
        assert without_markers(marked) == "a dog ."
    assert find_markers(["startseq a dog endseq ."]) == ("startseq", "endseq")


def test_words_stay() -> None:
    for caption in (
        "the end .",
        "a mat . . .",
        "the start of the end",
        "startseqs run",
        "an endseqish end",
        "a startseq endseq pair",
        "the end",
        "a > b",
        "",
    ):
        assert without_markers(caption) == caption
        assert not find_markers([caption])


def test_half_of_the_captions_decide() -> None:
    assert find_markers(["<s> a dog", "a cat"]) == ("<s>",)
    assert not find_markers(["<s> a dog", "a cat", "a cow </s>"])  # a third begins and a third ends with one
    assert find_markers(["a cat endseq", "a dog endseq", "[CLS] a cow"]) == ("endseq", "[CLS]")
    assert not find_markers([])


def data(root: Path, *captions: str) -> Annotations:
    rows = [{"image": f"photo-{i}.png", "caption": caption, "split": "test"} for i, caption in enumerate(captions)]
    (root / "captions.jsonl").write_text("".join(json.dumps(row) + "\n" for row in rows))
    for row in rows:
        (root / row["image"]).write_text(row["image"])
    return read_annotations(root)


def test_data_are_read_without_markers(tmp_path: Path) -> None:
    found = data(tmp_path, "startseq a dog endseq", "startseq a cat endseq", "a cow endseq", "a hen", "startseq endseq")
    assert [image.captions for image in found.images] == [("a dog",), ("a cat",), ("a cow",), ("a hen",)]
    assert [problem.kind for problem in found.problems] == ["empty-caption", "no-caption"]
    assert "photo-4.png" in found.problems[0].message and found.problems[0].line == 5
    assert "'startseq', 'endseq'" in "".join(found.summary())
    report = check(tmp_path, decode=False)
    assert any("'startseq', 'endseq'" in line for line in report.lines())
    assert "startseq" in report.to_dict()["notes"][0]


def test_a_few_markers_are_left_and_not_told(tmp_path: Path) -> None:
    found = data(tmp_path, "a dog", "a cat", "startseq a cow endseq")
    assert found.images[2].captions == ("startseq a cow endseq",)
    assert not found.notes
