"""Commands called in this process, and four captioned test images to call them with."""

from __future__ import annotations

import json
from pathlib import Path

from PIL import Image
from typer.testing import CliRunner, Result

from showtell.cli import app

IDS = ("a", "b", "c", "d")


def run(*arguments: object, stdin: bytes | str | None = None) -> Result:
    return CliRunner().invoke(app, [str(a) for a in arguments], input=stdin, prog_name="showtell")


def refused(result: Result, *words: str) -> None:
    """Exit code 2, nothing on stdout, one sentence on stderr that names the words."""
    assert result.exit_code == 2, (result.exit_code, result.output, result.exception)
    assert result.stdout == ""
    assert len(result.stderr.strip().splitlines()) == 1, result.stderr
    assert "Traceback" not in result.stderr
    for word in words:
        assert word in result.stderr, (word, result.stderr)


def make_captioned(root: Path) -> Path:
    """A data set of four captioned test images, without the image files' help in training."""
    (root / "images").mkdir()
    lines = []
    for index, name in enumerate(IDS):
        Image.new("RGB", (32, 24), (60 * index, 90, 20)).save(root / "images" / f"{name}.png")
        captions = [f"a {word} thing number {index}" for word in ("small", "plain", "flat")]
        lines.append({"image": f"images/{name}.png", "captions": captions, "split": "test"})
    (root / "captions.jsonl").write_text("".join(json.dumps(line) + "\n" for line in lines))
    return root


def write_predictions(path: Path, ids: tuple[str, ...] = IDS, suffix: str = ".png") -> Path:
    texts = [{"image_id": f"{i}{suffix}", "caption": f"a small thing number {IDS.index(i)}"} for i in ids]
    path.write_text(json.dumps(texts))
    return path
