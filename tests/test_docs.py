"""README and docs keep their word: commands run, Python runs, what it prints is what is printed, files and links exist.

Commands run in this process, in a folder that has what the pages speak of: drawn scenes as photos, and a captioner that was never
trained. `user/name` is found on a stand-in of the hub, and what asks port 8000 is answered by a server of its own.
"""

from __future__ import annotations

import contextlib
import io
import json
import re
import shutil
import subprocess
import tomllib
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
import typer
from doc_pages import NAMES, ROOT, Block, Command, read_blocks, read_command, read_commands
from hub_server import hub
from packing import CAPTIONS, PICTURES, cells, parquet
from PIL import Image
from recipe_page import recipe_page
from serve_process import Running
from typer.testing import CliRunner

from showtell.cli import app
from showtell.recipe import load_recipe, parse_recipe

__all__ = ["hub"]  # a fixture

README = (ROOT / "README.md").read_text(encoding="utf-8")
SERVER = "localhost:8000"
ONE_SESSION = {"docs/tutorial.md"}  # its Python blocks go on from each other; everywhere else a block stands alone
LANGUAGES = {"sh", "python", "json", "toml", "nginx", ""}  # the last two hold no commands of ours and no Python

PARSED_ONLY = {
    "data get": "needs the network",
    "pip install": "needs the network; the extra it names is one of the project's",
    "train flickr8k": "needs the encoder's weights from the network",
    "train.py": "needs Flickr8k",
    "runs/flickr8k": "needs Flickr8k",
    "--metrics clip": "needs a CLIP model from the network",
    "--device cuda": "needs a GPU",
    "make ": "installs, or takes minutes; the Makefile has the target, and tests/test_demo.py runs the demo small",
    "showtell serve": "stays up; a server of the same captioner answers what the pages ask it",
}


def not_run(command: Command) -> bool:
    return any(part in command.line for part in PARSED_ONLY)


COMMANDS = [(name, command) for name in NAMES for command in read_commands(ROOT / name)]


def test_there_is_something_to_test() -> None:
    assert len(COMMANDS) >= 50
    assert sum(not not_run(command) for _, command in COMMANDS) >= 30
    for part in PARSED_ONLY:
        assert any(part in command.line for _, command in COMMANDS), f"no page has '{part}' any more"


def test_lines_are_taken_apart_outside_quotes() -> None:
    command = read_command("A=b ls 'x|y' | showtell caption b - --with 'red|green' < 'a > b' > out.txt")
    assert (command.feeder, command.stdin, command.stdout) == ("A=b ls 'x|y' ", "a > b", "out.txt")
    assert command.words == ("showtell", "caption", "b", "-", "--with", "red|green")
    assert read_command("A=b showtell --version").environment == {"A": "b"}
    assert Block("sh", "# not this\nls \\\n  -l  # nor this\n").lines() == ["ls   -l"]


@pytest.mark.parametrize("name", NAMES)
def test_commands_are_known(name: str) -> None:
    for command in read_commands(ROOT / name):
        parse(command)


def parse(command: Command) -> None:
    program, *arguments = command.words
    if program == "make":
        assert re.search(rf"^{arguments[0]}:", (ROOT / "Makefile").read_text(encoding="utf-8"), re.M), command.line
    elif program == "python":
        assert (ROOT / arguments[0]).is_file(), command.line
    elif program == "pip":
        extra = re.fullmatch(r"showtell\[(\w+)\]", arguments[-1])
        project = tomllib.loads((ROOT / "pyproject.toml").read_text(encoding="utf-8"))["project"]
        assert extra is not None and extra[1] in project["optional-dependencies"], command.line
    elif program == "curl":
        assert SERVER in command.line
    else:
        assert program == "showtell", command.line
        parse_ours(arguments)


def parse_ours(arguments: list[str]) -> None:
    """Known command, known options, allowed values; `train` with a recipe there is and keys that it has."""
    group: Any = typer.main.get_command(app)
    while hasattr(group, "commands"):
        group, arguments = group.commands[arguments[0]], arguments[1:]
    given = group.make_context(group.name, list(arguments)).params
    if group.name in ("train", "tune"):
        load_recipe(given["recipe"], given["overrides"] or [])


@pytest.mark.parametrize("name", NAMES)
def test_blocks_are_of_a_known_kind(name: str) -> None:
    for block in read_blocks(ROOT / name):
        assert block.language in LANGUAGES, block
        if block.language == "json":
            json.loads(block.text)
        elif block.language == "toml":
            parse_recipe(tomllib.loads(block.text), where=name)
        elif block.language != "sh":
            assert not re.search(r"^\s*(showtell|make|pip|python|curl) ", block.text, re.M), f"a command in {block}"


@pytest.mark.parametrize("name", NAMES)
def test_files_and_links_exist(name: str) -> None:
    text = (ROOT / name).read_text(encoding="utf-8")
    for link in re.findall(r"\]\(([^)#:]+)\)", text):
        assert ((ROOT / name).parent / link).exists(), link
    for file in re.findall(
        r"(?<![\w/.<-])(?:src|docs|tests|recipes|benchmarks|experiments)/[\w/.*-]+\.(?:py|md|toml)", text
    ):
        assert (ROOT / file).exists() or file.endswith("/gru.py"), file  # the tutorial's reader writes gru.py


def test_every_module_is_in_the_file_map() -> None:
    cells = re.findall(r"^\| (`[^|]+`) \|", README, re.M)
    named = {file for cell in cells for file in re.findall(r"`([^`]+)`", cell)}
    assert len(named) > 40
    for file in named:
        assert (ROOT / file).exists(), file
    for path in sorted((ROOT / "src" / "showtell").glob("*.py")):
        if path.name != "__main__.py":
            assert str(path.relative_to(ROOT)) in named


def test_every_page_is_linked_from_the_readme() -> None:
    for page in sorted((ROOT / "docs").glob("*.md")):
        assert f"](docs/{page.name})" in README, page.name


def test_python_prints_what_the_page_says() -> None:
    run_python("print(1)\nprint(2)  # → 2\nprint(3)  # → 3", {})
    for text in ("print(1)  # → 2", "print(1)  # → 1\nx = 1  # → 1"):
        with pytest.raises(AssertionError):
            run_python(text, {})


@pytest.fixture
def workspace(tmp_path: Path, scenes: Path, tiny_bundle: Path, hub: Any, monkeypatch: pytest.MonkeyPatch) -> Path:
    """A folder as a reader of the pages has it, who is logged in on the hub as ada."""
    shutil.copytree(scenes, tmp_path / "photos")
    shutil.copytree(scenes, tmp_path / "showtell-demo" / "scenes")
    for run in ("runs/photos", "runs/small", "showtell-demo/run"):
        shutil.copytree(tiny_bundle, tmp_path / run / "bundle")
    for photo in ("photo.jpg", "photo.png", "photos/images/one.jpg"):
        Image.new("RGB", (64, 48), "orange").save(tmp_path / photo)
    write_predictions(tmp_path)
    captions = {f"caption_{k}": [CAPTIONS[name][k] for name in PICTURES] for k in (0, 1)}
    parquet(tmp_path / "downloads" / "train-00000-of-00001.parquet", image=cells(*PICTURES), **captions)
    monkeypatch.chdir(tmp_path)
    monkeypatch.setenv("HF_TOKEN", "hf_ada")
    return tmp_path


def write_predictions(folder: Path) -> None:
    """Captions made elsewhere, of the test split, in the ways that pages name."""
    from showtell.data.annotations import read_annotations

    images = read_annotations(folder / "photos").split("test")
    results = [{"image_id": image.image_id, "caption": image.captions[0]} for image in images]
    (folder / "results.json").write_text(json.dumps(results))
    (folder / "captions.txt").write_text("".join(f"{result['caption']}\n" for result in results))


@pytest.fixture(scope="module")
def server(tiny_bundle: Path) -> Iterator[str]:
    """Where `showtell serve` listens."""
    pytest.importorskip("uvicorn", reason="needs the extra 'serve'")
    running = Running(tiny_bundle)
    yield f"127.0.0.1:{running.port}"
    assert running.stop() == 0


@pytest.mark.slow
@pytest.mark.parametrize(
    "name", [name for name in NAMES if any(b.language in ("sh", "python") for b in read_blocks(ROOT / name))]
)
def test_commands_and_python_run(name: str, workspace: Path, request: pytest.FixtureRequest) -> None:
    blocks = read_blocks(ROOT / name)
    address = request.getfixturevalue("server") if any(SERVER in block.text for block in blocks) else SERVER
    session: dict[str, Any] = {"__name__": "__main__"}
    for block in blocks:
        text = block.text.replace(SERVER, address)
        if block.language == "sh":
            for line in Block("sh", text).lines():
                command = read_command(line)
                if not not_run(command):
                    run(command)
        elif block.language == "python":
            run_python(text, session if name in ONE_SESSION else dict(session))


def run(command: Command) -> None:
    if command.words[0] == "curl":
        said = subprocess.run([command.words[0], "-sSf", *command.words[1:]], capture_output=True, text=True)
        assert said.returncode == 0 and said.stdout, (command.line, said.stderr)
        return
    stdin = Path(command.stdin).read_bytes() if command.stdin else None
    if command.feeder:
        stdin = subprocess.run(["bash", "-c", command.feeder], capture_output=True, check=True).stdout
    result = CliRunner().invoke(
        app, [*command.words[1:], *shortened(command)], input=stdin, env=command.environment, prog_name="showtell"
    )
    assert result.exit_code == 0, (command.line, result.output, result.exception)
    assert result.stdout, command.line
    if command.stdout:
        Path(command.stdout).write_text(result.stdout)


def test_the_page_of_keys_is_what_the_recipe_takes() -> None:
    page = (ROOT / "docs" / "recipe.md").read_text(encoding="utf-8")
    assert page == recipe_page(), "python tests/support/recipe_page.py > docs/recipe.md"


def shortened(command: Command) -> list[str]:
    """A training that ends after the first epochs, which on so few pictures are all alike; of several seeds, two."""
    fewer = ["--seeds", "2"] if "--seeds" in command.words else []
    return ["train.patience=1", *fewer] if command.words[1] in ("train", "tune") else []


def run_python(text: str, names: dict[str, Any]) -> None:
    """Runs a block. Where it says `# → text`, that is what the line prints."""
    printed = io.StringIO()
    with contextlib.redirect_stdout(printed):
        exec(compile(text, "<block>", "exec", dont_inherit=True), names)
    lines = printed.getvalue().splitlines()
    assert lines or "print(" not in text, text
    promised = iter(lines)
    for wanted in re.findall(r"# → (.*)$", text, re.M):
        assert wanted in promised, (wanted, lines)
