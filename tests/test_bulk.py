"""`showtell caption --out` and `--shard`: many images, stopped and gone on with as if nothing had been."""

from __future__ import annotations

import csv
import io
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
from showtell.commands.rows import CaptionFile
from showtell.errors import DataError
from showtell.images import find_images

ENDINGS = ("jsonl", "csv")
ODD = ('a "quoted".png', "line\nbreak.png", os.fsdecode(b"\xff byte.png"), "ü, with a comma.png")


@pytest.fixture(scope="module")
def photos(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Nine pictures, some of whose names are hard to write."""
    folder = tmp_path_factory.mktemp("many")
    (folder / "deep").mkdir()
    for place, name in enumerate((*ODD, "b.png", "deep/c.png", "deep/d.png", "deep.png", "e.png")):
        Image.new("RGB", (40, 30), (25 * place, 90, 200 - 20 * place)).save(folder / name)
    return folder


def names(written: Path) -> list[str]:
    text = written.read_text(encoding="utf-8")
    if written.suffix == ".csv":
        return [row["image"] for row in csv.DictReader(io.StringIO(text, newline=""))]
    return [json.loads(line)["image"] for line in text.splitlines()]


@pytest.mark.parametrize("ending", ENDINGS)
def test_a_file_holds_what_is_printed(ending: str, tiny_bundle: Path, photos: Path, tmp_path: Path) -> None:
    out = tmp_path / f"own.{ending}"
    result = run("caption", tiny_bundle, photos, "--out", out, "--batch", 1, "--workers", 1, "--device", "cpu")
    assert (result.exit_code, result.stdout) == (0, f"{out}: 9 images captioned, 0 were there already\n"), result.output
    plain = [photos / name for name in ("b.png", "deep/c.png", "e.png")]
    printed = run(
        "caption", tiny_bundle, *plain, "--batch", 1, "--device", "cpu", "--format", ending
    ).stdout.splitlines()
    assert set(printed) <= set(out.read_text(encoding="utf-8").splitlines())


@pytest.mark.slow
@pytest.mark.parametrize("ending", ENDINGS)
def test_wherever_it_was_torn_it_ends_the_same(ending: str, tiny_bundle: Path, photos: Path, tmp_path: Path) -> None:
    out = tmp_path / f"own.{ending}"
    caption = ("caption", tiny_bundle, photos, "--out", out, "--batch", 1)  # the company changes a number's last digits
    assert run(*caption).exit_code == 0
    whole = out.read_bytes()
    assert len(set(names(out))) == 9
    before = [start for start in range(len(whole)) if whole[start : start + 1] in b'\n"']
    for end in (0, 1, 7, *before[:: max(1, len(before) // 5)], len(whole) - 1):
        out.write_bytes(whole[:end])
        again = run(*caption)
        assert again.exit_code == 0, again.output
        assert out.read_bytes() == whole, end
    assert "0 images captioned, 9 were there already" in run(*caption).stdout


def test_an_interruption_keeps_what_was_captioned(
    tiny_bundle: Path, photos: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    plain, out = Captioner.caption_each, tmp_path / "own.jsonl"

    def interrupted(self: Captioner, *arguments: Any, **options: Any) -> Iterator[Any]:
        for number, result in enumerate(plain(self, *arguments, **options)):
            if number == 4:
                raise KeyboardInterrupt
            yield result

    caption = ("caption", tiny_bundle, photos, "--out", out)
    with monkeypatch.context() as patch:
        patch.setattr(Captioner, "caption_each", interrupted)
        result = run(*caption)
    assert result.exit_code == 130 and "after 4 captioned images" in result.stderr
    assert len(names(out)) == 4
    assert "5 images captioned, 4 were there already" in run(*caption).stdout
    assert len(set(names(out))) == len(names(out)) == 9


def test_shards_are_the_whole(tiny_bundle: Path, photos: Path, tmp_path: Path) -> None:
    whole = tmp_path / "whole.jsonl"
    run("caption", tiny_bundle, photos, "--out", whole)
    outs = [tmp_path / f"{index}.jsonl" for index in range(4)]
    for index, out in enumerate(outs):
        assert run("caption", tiny_bundle, photos, "--shard", f"{index}/4", "--out", out).exit_code == 0
    assert [len(names(out)) for out in outs] == [3, 2, 2, 2]
    lines = [line for out in outs for line in out.read_text(encoding="utf-8").splitlines()]
    said = [[(row["image"], row["caption"]) for row in map(json.loads, rows)]
            for rows in (lines, whole.read_text(encoding="utf-8").splitlines())]  # fmt: skip
    assert sorted(said[0]) == sorted(said[1])
    printed = run("caption", tiny_bundle, photos, "--shard", "1/9").stdout
    assert len(printed.splitlines()) == 1
    for wrong in ("4/4", "1/0", "1", "-1/4", "a/b"):
        refused(run("caption", tiny_bundle, photos, "--shard", wrong), f"--shard {wrong}", "0/4")


def test_an_empty_shard_is_done(tiny_bundle: Path, photos: Path, tmp_path: Path) -> None:
    out = tmp_path / "last.jsonl"
    result = run("caption", tiny_bundle, photos, "--out", out, "--shard", "11/12")
    assert (result.exit_code, result.stdout) == (0, f"{out}: 0 images captioned, 0 were there already\n")


@pytest.mark.skipif(not hasattr(os, "mkfifo"), reason="needs files that are none")
def test_what_is_no_file_is_not_read(tiny_bundle: Path, photos: Path, tmp_path: Path) -> None:
    os.mkfifo(tmp_path / "pipe.csv")
    refused(run("caption", tiny_bundle, photos, "--out", tmp_path / "pipe.csv"), "pipe.csv is no file")


def test_a_broken_picture_is_told_of_and_passed_over(tiny_bundle: Path, photos: Path, tmp_path: Path) -> None:
    folder = shutil.copytree(photos, tmp_path / "photos")
    (folder / "broken.png").write_text("not an image")
    out = tmp_path / "own.csv"
    for count in (9, 0):
        result = run("caption", tiny_bundle, folder, "--out", out)
        assert result.exit_code == 1
        assert result.stdout.startswith(f"{out}: {count} images captioned, {9 - count} were there already")
        assert "broken.png" in result.stderr and f"{count} captioned, 1 failed" in result.stderr
    Image.new("RGB", (9, 9)).save(folder / "broken.png")
    assert run("caption", tiny_bundle, folder, "--out", out).exit_code == 0
    assert len(names(out)) == 10


@pytest.mark.parametrize(
    ("name", "content"),
    [
        ("captions.csv", "image,caption\na.png,a thing\n"),
        ("captions.csv", "a line without an end"),
        ("captions.csv", "image,rank,caption,log_prob,confidence\na.png,a thing\n"),
        ("captions.jsonl", '{"image": "a.png", "captions": ["a thing"]}\n'),
        ("captions.jsonl", "[1]\n"),
        ("captions.jsonl", "[1"),
        ("captions.jsonl", '{"image": "a.png", "captions": ["my only copy"]}'),
        ("captions.jsonl", '{"image": "a \\\\", "text": "it'),
        ("captions.csv", "image,rank,caption,log_prob,confidence,mine"),
        ("captions.jsonl", '{"image": "a.png", "caption": "x", "log_prob": -1}\n\n'),
    ],
)
def test_what_is_not_its_own_stays_as_it_is(
    name: str, content: str, tiny_bundle: Path, photos: Path, tmp_path: Path
) -> None:
    (tmp_path / name).write_text(content)
    refused(run("caption", tiny_bundle, photos, "--out", tmp_path / name), name, "record", "name another file")
    assert (tmp_path / name).read_text() == content


def test_a_table_of_an_earlier_version_goes_on_as_it_began(tiny_bundle: Path, photos: Path, tmp_path: Path) -> None:
    first = photos / "b.png"
    content = f"image,rank,caption,log_prob\n{first},1,a thing,-2.0\n"
    (tmp_path / "captions.csv").write_text(content)
    result = run("caption", tiny_bundle, photos, "--out", tmp_path / "captions.csv")
    assert result.exit_code == 0 and "1 were there already" in result.stdout
    written = (tmp_path / "captions.csv").read_text()
    assert written.startswith(content)
    rows = list(csv.reader(io.StringIO(written)))
    assert len(rows) > 2 and {len(row) for row in rows} == {4}


def test_one_process_writes_a_file(tiny_bundle: Path, photos: Path, tmp_path: Path) -> None:
    pytest.importorskip("fcntl", reason="needs locks on files")
    with CaptionFile(tmp_path / "own.csv", 1):
        refused(run("caption", tiny_bundle, photos, "--out", tmp_path / "own.csv"), "own.csv", "another process")
    assert run("caption", tiny_bundle, photos, "--out", tmp_path / "own.csv").exit_code == 0


def test_a_file_without_captions_is_removed_while_it_is_locked(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Nobody begins to write what is about to be removed, nor what has been since it was opened."""
    fcntl = pytest.importorskip("fcntl", reason="needs locks on files")
    own, unlink, tried = tmp_path / "own.csv", Path.unlink, []

    def removed(path: Path, missing_ok: bool = False) -> None:
        with pytest.raises(DataError, match="another process"):
            CaptionFile(path, 1)
        tried.append(path)
        unlink(path, missing_ok=missing_ok)

    with monkeypatch.context() as patch, CaptionFile(own, 1):
        patch.setattr(Path, "unlink", removed)
        # the file closes first, and then the patch ends
    assert tried == [own] and not own.exists()
    monkeypatch.setattr(fcntl, "flock", lambda *_: unlink(own))
    with pytest.raises(DataError, match="another process"):
        CaptionFile(own, 1)


def test_wrong_uses_are_sentences(tiny_bundle: Path, photos: Path, tmp_path: Path) -> None:
    caption = ("caption", tiny_bundle, photos, "--out")
    refused(run(*caption, tmp_path / "own.txt"), "own.txt", ".jsonl or .csv")
    refused(run(*caption, tmp_path / "nowhere" / "own.csv"), "nowhere", "a folder that exists")
    refused(run(*caption, tmp_path / "own.csv", "--n", 2), "--n 2", "name a .jsonl")
    refused(run(*caption, tmp_path / "own.csv", "--format", "csv"), "--out is a file")
    refused(run(*caption, tmp_path / "own.csv", "--sample"), "--sample draws by an image's place")
    assert list(tmp_path.iterdir()) == []
    for device in ("gpu", "cuda:99", "meta", "mps:7"):
        refused(run("caption", tiny_bundle, photos, "--device", device), f"device '{device}'", "expected cpu")
    assert not list(tmp_path.iterdir())
    refused(run(*caption, tmp_path / "own.csv", "--device", "gpu"), "device 'gpu'")
    assert not list(tmp_path.iterdir())
    for count in (0, 10**21):
        refused(run("caption", tiny_bundle, photos, "--batch", count), "--batch")
    refused(
        run("caption", tiny_bundle, "-", "--out", tmp_path / "own.csv", stdin=(photos / "b.png").read_bytes()),
        "standard input",
    )


def test_what_is_refused_leaves_nothing_behind(tiny_bundle: Path, photos: Path, tmp_path: Path) -> None:
    out, one = tmp_path / "own.jsonl", tmp_path / "one.png"
    refused(run("caption", tiny_bundle, "-", "--out", out, stdin=(photos / "b.png").read_bytes()), "standard input")
    assert run("caption", tiny_bundle, tmp_path / "gone.png", "--out", out).exit_code == 2
    refused(run("caption", tiny_bundle, photos, "--attention", one), "one.png holds one drawing", "second image")
    assert not list(tmp_path.iterdir())
    out.touch()
    assert run("caption", tiny_bundle, tmp_path / "gone.png", "--out", out).exit_code == 2
    assert out.exists(), "it was there before"


def test_addresses_are_not_fetched(tiny_bundle: Path) -> None:
    for address in ("https://example.com/a.jpg", "S3://bucket/a.jpg"):
        refused(run("caption", tiny_bundle, address), f"{address} is an address", "download it")


def test_images_are_decoded_two_batches_ahead_at_most(tiny_bundle: Path, photos: Path) -> None:
    opened = 0

    def sources() -> Iterator[Path]:
        nonlocal opened
        for _ in range(50):
            opened += 1
            yield photos / "b.png"

    captioner = Captioner.load(tiny_bundle)
    results = captioner.caption_each(sources(), batch_size=3, workers=4)
    for done, _ in enumerate(results):
        assert opened <= done + 6
    assert opened == 50
    with pytest.raises(DataError, match="workers is 0"):
        next(captioner.caption_each([photos / "b.png"], workers=0))


def test_a_folder_is_walked_as_its_images_are_asked_for(tmp_path: Path) -> None:
    for name in ("b/2.png", "b/1.png", "b.png", "a/1.png", "a/deep/1.png", "a-b.png", "c/1.png"):
        (tmp_path / name).parent.mkdir(parents=True, exist_ok=True)
        (tmp_path / name).touch()
    found = find_images([str(tmp_path)])
    first = next(found)
    (tmp_path / "c" / "0.png").touch()
    assert [first, *found] == sorted(tmp_path.rglob("*.png"))
