"""Two hundred bad files among good ones: every good one is captioned, each bad one is one line."""

from __future__ import annotations

import csv
import io
import json
import os
import random
import sys
import unicodedata
from pathlib import Path

import pytest
from PIL import Image
from typer.testing import CliRunner

from showtell.captioning import Caption
from showtell.cli import app
from showtell.commands.rows import Printer

GOOD_MODES = ("RGB", "L", "1", "P", "CMYK", "RGBA", "LA", "I;16", "F", "I")


@pytest.fixture(scope="module")
def mixed(tmp_path_factory: pytest.TempPathFactory) -> tuple[Path, set[str], set[str]]:
    """A folder, the names of its good files and those of its bad ones."""
    folder, draw = tmp_path_factory.mktemp("bad") / "photos", random.Random(4)
    folder.mkdir()
    good, bad = set(), set()
    for mode in GOOD_MODES:
        name = f"good {mode} ünï.tif" if mode in ("CMYK", "LA", "F", "I", "I;16") else f"good {mode} 图.png"
        Image.new("RGB", (40, 30), "orange").convert("L" if mode in ("I;16", "I", "F") else mode).convert(
            "I;16" if mode == "I;16" else mode
        ).save(folder / name)
        good.add(name)
    jpeg, png = io.BytesIO(), io.BytesIO()
    noise = Image.effect_noise((80, 60), 80).convert("RGB")
    noise.save(jpeg, "JPEG")
    noise.save(png, "PNG")
    for index in range(198):
        kind = index % 6
        whole = (jpeg, png)[index % 2].getvalue()
        content = [
            whole[: draw.randrange(1, len(whole) * 2 // 3)], b"", bytes(draw.randrange(1, 3000)), b"text, not a picture\n",
            draw.randbytes(500), huge(index),
        ][kind]  # fmt: skip
        name = [f"bad {index}.jpg", f"bad\t{index}.png", f"böse {index}.gif", f"bad {index} 坏.webp"][index % 4]
        (folder / name).write_bytes(content)
        bad.add(name)
    (folder / "bad link.jpg").symlink_to("nowhere.jpg")
    (folder / "bad\nline.png").write_bytes(b"x")
    bad.add("bad\nline.png")
    return folder, good, bad


def huge(index: int) -> bytes:
    """The header of a BMP, or a PPM, of 20,000×20,000 pixels."""
    if index % 2:
        return b"P6 20000 20000 255\n" + bytes(100)
    head = io.BytesIO()
    Image.new("RGB", (2, 2)).save(head, "BMP")
    raw = bytearray(head.getvalue())
    raw[18:26] = (20_000).to_bytes(4, "little") * 2
    return bytes(raw)


@pytest.mark.parametrize("format", ["text", "jsonl", "csv"])
def test_the_good_are_captioned_and_the_bad_are_reported(
    format: str, mixed: tuple[Path, set[str], set[str]], tiny_bundle: Path
) -> None:
    folder, good, bad = mixed
    done = CliRunner().invoke(app, ["caption", str(tiny_bundle), str(folder), "--format", format], prog_name="showtell")
    assert done.exit_code == 1, done.exception
    lines = done.stdout.splitlines()
    if format == "jsonl":
        named = {Path(json.loads(line)["image"]).name for line in lines}
    elif format == "csv":
        named = {Path(row["image"]).name for row in csv.DictReader(io.StringIO(done.stdout))}
    else:
        named = {Path(line.rsplit(": ", 1)[0]).name for line in lines}
    assert named == good
    reports = [line for line in done.stderr.splitlines() if line.strip()]
    for name in bad:
        shown = name.replace("\n", "\\n").replace("\t", "\\t")
        assert sum(shown in line for line in reports) == 1, name
    assert len(reports) <= len(bad) + 2
    assert "Traceback" not in done.stderr


def controls(text: str) -> set[str]:
    return {letter for letter in text if unicodedata.category(letter) == "Cc"} - {"\n", "\r"}


@pytest.mark.skipif(os.name == "nt", reason="Windows has no such names")
@pytest.mark.parametrize("format", ["text", "jsonl", "csv"])
def test_names_that_speak_to_the_terminal_are_told_whole(format: str, tmp_path: Path, tiny_bundle: Path) -> None:
    """Programs get them as they are, so that the file can be opened; people get them escaped."""
    good, bad = {"\x1b[31mred\x1b[0m.png", "bell\a \x7f\x9b1m.png"}, "\x1b]0;title\a\x9b.png"
    for name in good:
        Image.new("RGB", (40, 40)).save(tmp_path / name)
    (tmp_path / bad).write_bytes(b"no image")
    done = CliRunner().invoke(app, ["caption", str(tiny_bundle), str(tmp_path), "--format", format])
    assert done.exit_code == 1, done.exception
    if format == "csv":
        assert {Path(row["image"]).name for row in csv.DictReader(io.StringIO(done.stdout))} == good
    else:
        assert not controls(done.stdout)
    if format == "jsonl":
        assert {Path(json.loads(line)["image"]).name for line in done.stdout.splitlines()} == good
    if format == "text":
        assert {"\\x1b[31mred\\x1b[0m.png", "bell\\x07 \\x7f\\x9b1m.png"} == {
            Path(line.rsplit(": ", 1)[0]).name for line in done.stdout.splitlines()
        }
    assert not controls(done.stderr) and "\\x1b]0;title\\x07\\x9b.png" in done.stderr
    refused = CliRunner().invoke(app, ["caption", str(tiny_bundle), str(tmp_path / "\x1b[2Jnone.png")])
    assert refused.exit_code == 2
    assert not controls(refused.stderr) and "\\x1b[2Jnone.png" in refused.stderr


@pytest.mark.parametrize("format", ["text", "jsonl", "csv"])
def test_no_format_sends_control_characters_to_a_terminal(
    format: str, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(sys.stdout, "isatty", lambda: True)
    Printer(format, 1).write("\x1b[2J\x9b.png", Caption("a dog", -2.0, -0.5, ()))
    shown = capsys.readouterr().out
    assert "2J" in shown and not controls(shown)
