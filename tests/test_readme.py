"""The README keeps its word: its commands run, its Python runs, its files exist."""

from __future__ import annotations

import re
import shlex
import shutil
import subprocess
import sys
from pathlib import Path

import pytest
import typer
from PIL import Image

from showtell.cli import app

ROOT = Path(__file__).parent.parent
README = (ROOT / "README.md").read_text(encoding="utf-8")
NETWORK = (
    "data get",
    "train flickr8k",
    "train.py",
    "runs/flickr8k",
    "runs/small",
)  # parsed only: they need the hub, or real data


def blocks(language: str) -> list[str]:
    return re.findall(rf"^```{language}\n(.*?)^```", README, re.M | re.S)


COMMANDS = [line for block in blocks("sh") for line in block.splitlines() if line]


def test_there_is_something_to_test() -> None:
    assert len(COMMANDS) >= 12
    assert len(blocks("python")) >= 2


@pytest.mark.parametrize("line", COMMANDS)
def test_commands_are_known(line: str) -> None:
    words = shlex.split(line.split("|")[-1].split("<")[0])
    if words[0] == "make":
        assert re.search(rf"^{words[1]}:", (ROOT / "Makefile").read_text(encoding="utf-8"), re.M)
    elif words[0] == "python":
        assert (ROOT / words[1]).is_file()
    else:
        assert words[0] == "showtell"
        parse(words[1:])


def parse(arguments: list[str]) -> None:
    command = typer.main.get_command(app)
    while hasattr(command, "commands"):
        command, arguments = command.commands[arguments[0]], arguments[1:]
    command.make_context(command.name, arguments)


def test_recipes_it_names_are_built_in() -> None:
    from showtell.config import load_recipe

    for line in COMMANDS:
        if line.startswith("showtell train"):
            words = shlex.split(line)
            load_recipe(words[2], [word for word in words[3:] if re.match(r"[a-z_]+\.[a-z_]+=", word)])


def test_files_and_links_exist() -> None:
    for name in re.findall(r"^\| `([^`]+)` \|", README, re.M) + re.findall(r"\]\(([^)#:]+)\)", README):
        assert (ROOT / name).exists(), name


def test_every_module_is_in_the_file_map() -> None:
    named = set(re.findall(r"^\| `([^`]+)` \|", README, re.M))
    for path in sorted((ROOT / "src" / "showtell").glob("*.py")):
        if path.name != "__main__.py":
            assert str(path.relative_to(ROOT)) in named


@pytest.mark.slow
def test_commands_and_python_run(tmp_path: Path, scenes: Path, tiny_bundle: Path) -> None:
    shutil.copytree(scenes, tmp_path / "photos")
    shutil.copytree(scenes, tmp_path / "showtell-demo" / "scenes")
    shutil.copytree(tiny_bundle, tmp_path / "runs" / "photos" / "bundle")
    Image.new("RGB", (64, 48), "orange").save(tmp_path / "photo.jpg")
    Image.new("RGB", (64, 48), "orange").save(tmp_path / "photos" / "images" / "one.jpg")
    write_results(tmp_path)
    path = f"{Path(sys.executable).parent}"
    for line in COMMANDS:
        if "showtell" in line and not any(word in line for word in NETWORK):
            done = subprocess.run(
                ["bash", "-c", f"PATH={shlex.quote(path)}:$PATH; {line}"], cwd=tmp_path, capture_output=True, text=True
            )
            assert done.returncode == 0, (line, done.stderr)
    for block in blocks("python"):
        done = subprocess.run([sys.executable, "-c", block], cwd=tmp_path, capture_output=True, text=True)
        assert done.returncode == 0, (block, done.stderr)
        assert done.stdout


def write_results(folder: Path) -> None:
    import json

    from showtell.data.annotations import read_annotations

    images = read_annotations(folder / "photos").split("test")
    results = [{"image_id": image.image_id, "caption": image.captions[0]} for image in images]
    (folder / "results.json").write_text(json.dumps(results))
