"""`showtell caption --beside`: a text file beside each image, which is a data set that showtell reads."""

from __future__ import annotations

import errno
import json
import os
import shutil
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
from command_line import refused, run
from PIL import Image

from showtell.captioner import Captioner
from showtell.captioning import Caption
from showtell.commands.beside import TextFiles, with_own_texts
from showtell.data.annotations import read_annotations
from showtell.errors import DataError

NAMES = ("a b.JPG", "ünder.way.png", "deep/a b.jpeg", "deep/c.webp", "d.png")
CAPTION = Caption("a dog", -1.0, -1.0, (), (Caption("two dogs", -2.0, -2.0, ()), Caption("a cat", -3.0, -3.0, ())))


@pytest.fixture
def photos(tmp_path: Path) -> Path:
    """Five pictures in two folders."""
    for place, name in enumerate(NAMES):
        path = tmp_path / "photos" / name
        path.parent.mkdir(parents=True, exist_ok=True)
        Image.new("RGB", (40, 30), (50 * place, 90, 200 - 40 * place)).save(path)
    return tmp_path / "photos"


def texts(photos: Path) -> dict[str, str]:
    return {p.relative_to(photos).as_posix(): p.read_bytes().decode() for p in photos.rglob("*.txt")}


def printed(bundle: Path, photos: Path, n: int = 1) -> dict[str, list[str]]:
    """What the command says without --beside: an image's captions, the best first."""
    lines = run("caption", bundle, photos, "--format", "jsonl", "--n", n).stdout.splitlines()
    rows = {Path(row["image"]).relative_to(photos).as_posix(): row for row in map(json.loads, lines)}
    return {name: [r["caption"] for r in (row, *row.get("alternatives", ()))] for name, row in rows.items()}


@pytest.mark.parametrize("n", [1, 3])
def test_what_lies_beside_is_what_is_printed_and_a_data_set(n: int, tiny_bundle: Path, photos: Path) -> None:
    said = printed(tiny_bundle, photos, n)
    assert sorted(said) == sorted(NAMES) and {len(captions) for captions in said.values()} == {n}
    result = run("caption", tiny_bundle, photos, "--beside", "--n", n)
    assert (result.exit_code, result.stdout) == (0, "5 images captioned, 0 images have captions already\n")
    assert texts(photos) == {
        Path(name).with_suffix(".txt").as_posix(): "".join(f"{caption}\n" for caption in said[name]) for name in said
    }
    found = read_annotations(photos)
    assert found.format.startswith("pairs") and not found.problems
    assert {image.image_id: list(image.captions) for image in found.images} == said
    assert sum(path.is_file() for path in photos.rglob("*")) == 2 * len(NAMES)  # no temporary file is left


def test_a_text_that_is_there_stays_and_its_image_is_not_captioned(
    tiny_bundle: Path, photos: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    own = {"a b.txt": "my own words", "deep/c.txt": ""}
    for name, text in own.items():
        (photos / name).write_text(text)
    seen: list[object] = []
    load = Captioner._load
    monkeypatch.setattr(
        Captioner, "_load", lambda self, source, *rest: seen.append(source) or load(self, source, *rest)
    )  # type: ignore[func-returns-value]
    result = run("caption", tiny_bundle, f"{photos}/**/*", "--beside")
    assert (result.exit_code, result.stdout) == (0, "3 images captioned, 2 images have captions already\n")
    assert sorted(map(str, seen)) == sorted(str(photos / n) for n in ("d.png", "deep/a b.jpeg", "ünder.way.png"))
    assert texts(photos).items() >= own.items() and len(texts(photos)) == 5


@pytest.mark.skipif(not hasattr(os, "symlink") or os.name == "nt", reason="needs links")
def test_a_link_to_a_text_that_is_gone_is_not_written_over(tiny_bundle: Path, photos: Path) -> None:
    (photos / "d.txt").symlink_to(photos / "gone.txt")
    assert "4 images captioned, 1 images have" in run("caption", tiny_bundle, photos, "--beside").stdout
    assert (photos / "d.txt").is_symlink() and not (photos / "gone.txt").exists()


def test_an_interrupted_run_goes_on_where_it_stopped(
    tiny_bundle: Path, photos: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    plain = Captioner.caption_each
    whole = shutil.copytree(photos, photos.parent / "whole")
    assert run("caption", tiny_bundle, whole, "--beside").exit_code == 0

    def interrupted(self: Captioner, *arguments: Any, **options: Any) -> Iterator[Any]:
        for number, result in enumerate(plain(self, *arguments, **options)):
            if number == 2:
                raise KeyboardInterrupt
            yield result

    with monkeypatch.context() as patch:
        patch.setattr(Captioner, "caption_each", interrupted)
        result = run("caption", tiny_bundle, photos, "--beside")
    assert result.exit_code == 130 and "after 2 captioned images" in result.stderr
    assert len(texts(photos)) == 2
    assert (
        "3 images captioned, 2 images have captions already" in run("caption", tiny_bundle, photos, "--beside").stdout
    )
    assert texts(photos) == texts(whole)


def test_with_nothing_left_to_do_no_captioner_is_loaded(
    tiny_bundle: Path, photos: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    assert run("caption", tiny_bundle, photos, "--beside").exit_code == 0
    before = {path: path.stat().st_mtime_ns for path in photos.rglob("*")}

    def load(*_: object, **__: object) -> None:
        raise AssertionError

    monkeypatch.setattr(Captioner, "load", load)
    result = run("caption", tiny_bundle, photos, "--beside")
    assert result.exit_code == 0
    assert result.stdout == "no image is left to caption, 5 images have captions already\n"
    assert {path: path.stat().st_mtime_ns for path in photos.rglob("*")} == before


def test_a_text_written_meanwhile_is_not_written_over(photos: Path) -> None:
    name = str(photos / "d.png")
    files = TextFiles([(name, Path(name))], 1)
    (photos / "d.txt").write_text("my own words")
    files.write(name, CAPTION)
    assert texts(photos) == {"d.txt": "my own words"}
    assert files.told() == "0 images captioned, 1 images have captions already"


def test_two_images_of_one_text_are_refused_before_any_work(tiny_bundle: Path, photos: Path) -> None:
    Image.new("RGB", (9, 9)).save(photos / "deep" / "c.png")
    for part in ((), ("--shard", "0/2")):  # the two would be in different shards
        refused(
            run("caption", tiny_bundle, photos, "--beside", *part), "deep/c.png and", "deep/c.webp", "would share", "c.txt"
        )  # fmt: skip
    assert texts(photos) == {}
    assert run("caption", tiny_bundle, photos / "deep" / "c.png", "--beside").exit_code == 0


def test_an_image_named_twice_is_captioned_once(
    tiny_bundle: Path, photos: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(photos)
    result = run("caption", tiny_bundle, "d.png", photos / "d.png", "../photos/d.png", "./d.png", "--beside")
    assert result.stdout == "1 images captioned, 0 images have captions already\n", result.output


def test_shards_are_the_whole_also_where_one_went_ahead(tiny_bundle: Path, photos: Path) -> None:
    told = [run("caption", tiny_bundle, photos, "--beside", "--shard", f"{i}/6") for i in (0, 1, 2, 3, 4, 5, 0)]
    assert [result.exit_code for result in told] == [0] * 7
    counts = [1, 1, 1, 1, 1, 0]
    assert [result.stdout for result in told[:6]] == [
        f"{count} images captioned, 0 images have captions already\n" for count in counts
    ]
    assert told[6].stdout == "no image is left to caption, 1 images have captions already\n"
    assert len(texts(photos)) == 5


def test_a_broken_picture_gets_no_text_and_the_rest_do(tiny_bundle: Path, photos: Path) -> None:
    (photos / "broken.png").write_text("not an image")
    for counts in ((5, 0), (0, 5)):
        result = run("caption", tiny_bundle, photos, "nowhere/x.png", "--beside")
        assert result.exit_code == 1
        assert result.stdout == "{} images captioned, {} images have captions already\n".format(*counts)
        assert "broken.png" in result.stderr and "x.png: no such file" in result.stderr
        assert f"{counts[0]} captioned, 2 failed" in result.stderr
    assert "broken.txt" not in texts(photos)
    (photos / "only").mkdir()
    shutil.move(photos / "broken.png", photos / "only" / "broken.png")
    result = run("caption", tiny_bundle, photos / "only", "--beside")
    assert result.exit_code == 2 and "the only one failed" in result.stderr


def test_a_folder_that_may_not_be_written_to_is_named_before_any_work(
    tiny_bundle: Path, photos: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    locked = photos / "deep"
    may = os.access
    monkeypatch.setattr(os, "access", lambda path, mode: Path(path) != locked and may(path, mode))  # root may write
    refused(run("caption", tiny_bundle, photos, "--beside"), f"--beside: nothing may be written into {locked}", "--out")
    assert texts(photos) == {}
    for name in ("a b", "c"):
        (locked / f"{name}.txt").touch()
    assert "3 images captioned, 2 images have" in run("caption", tiny_bundle, photos, "--beside").stdout


def test_a_full_disk_stops_with_whole_files(tiny_bundle: Path, photos: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    written: list[int] = []

    def full(descriptor: int) -> None:
        written.append(descriptor)
        if len(written) > 2:
            raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC))

    with monkeypatch.context() as patch:
        patch.setattr(os, "fsync", full)
        refused(run("caption", tiny_bundle, photos, "--beside"), ".txt: no space left on device")
    assert len(texts(photos)) == 2 and all(text.endswith("\n") for text in texts(photos).values())
    assert sum(path.is_file() for path in photos.rglob("*")) == len(NAMES) + 2
    assert "3 images captioned, 2 images have" in run("caption", tiny_bundle, photos, "--beside").stdout


def test_standard_input_may_name_images_and_not_be_one(tiny_bundle: Path, photos: Path) -> None:
    image = (photos / "d.png").read_bytes()
    refused(run("caption", tiny_bundle, "-", "--beside", stdin=image), "standard input", "leave out --beside")
    refused(run("caption", tiny_bundle, photos, "-", "--beside", stdin=image), "standard input")
    assert texts(photos) == {}
    listed = "".join(f"{photos / name}\n" for name in ("d.png", "deep/c.webp"))
    assert run("caption", tiny_bundle, "-", "--beside", stdin=listed).exit_code == 0
    assert sorted(texts(photos)) == ["d.txt", "deep/c.txt"]
    odd = run("caption", tiny_bundle, "-", "--beside", stdin="/\n.\nnowhere\n")
    assert odd.exit_code == 2 and "all 3 failed" in odd.stderr
    refused(run("caption", tiny_bundle, photos / "d.txt", "--beside"), "none was given")


def test_wrong_uses_are_sentences(tiny_bundle: Path, photos: Path, tmp_path: Path) -> None:
    caption = ("caption", tiny_bundle, photos, "--beside")
    refused(run(*caption, "--out", tmp_path / "own.csv"), "--out is one file", "--beside", "leave out one")
    for option in (("--format", "text"), ("--attention", tmp_path / "drawn")):
        refused(run(*caption, *option), "--beside writes files", "leave out one")
    refused(run(*caption, "--sample"), "--sample draws by an image's place", "--beside")
    assert texts(photos) == {} and [path.name for path in tmp_path.iterdir()] == ["photos"]


def test_names_that_are_no_text_are_told_in_one_line(tmp_path: Path) -> None:
    names = [str(tmp_path / f"line\nbreak{ending}") for ending in (".png", ".jpg")]
    with pytest.raises(DataError, match=r"line\\nbreak.png and .*line\\nbreak.jpg would share") as told:
        list(with_own_texts((name, Path(name)) for name in names))
    assert "\n" not in str(told.value)
    odd = str(tmp_path / os.fsdecode(b"\xff.png")) if os.name != "nt" else str(tmp_path / "odd.png")
    files = TextFiles(with_own_texts([(odd, Path(odd))]), 2)
    files.write(odd, CAPTION)
    assert Path(odd).with_suffix(".txt").read_text(encoding="utf-8") == "a dog\ntwo dogs\n"
