"""Shared by the commands: notes and progress on stderr, arguments checked before torch is imported."""

from __future__ import annotations

import contextlib
import json
import os
import re
import sys
import unicodedata
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer

from showtell.decoding import BATCH_SIZE
from showtell.errors import DataError, RecipeError
from showtell.progress import Progress, silent

if TYPE_CHECKING:
    from showtell.config import Recipe

# Options shared by several commands.
CONSENSUS = Annotated[
    int | None,
    typer.Option(
        metavar="N", min=0, max=100,
        help="Rank N candidates by how well they agree; 10 is good, 0 turns it off [default: the bundle's].",
    ),
]  # fmt: skip
VIEWS = Annotated[
    int | None,
    typer.Option(
        min=1, max=8,
        help="Views of each image: 2 adds the mirror image, 4 another crop; captioners trained on pictures from above turn them instead, "
        "up to 8 views [default: the bundle's].",
    ),
]  # fmt: skip
ENSEMBLE = Annotated[
    list[Path] | None,
    typer.Option(metavar="BUNDLE", help="Another bundle with the same vocabulary; probabilities are averaged. May be repeated."),
]  # fmt: skip
DEVICE = Annotated[
    str | None, typer.Option(help="cpu, cuda, cuda:1 or mps [default: an accelerator if there is one].")
]  # fmt: skip
BATCH = Annotated[
    int | None,
    typer.Option(min=1, max=65536, help=f"Images captioned together [default: {BATCH_SIZE}].", show_default=False),
]  # fmt: skip
WORKERS = Annotated[
    int | None,
    typer.Option(
        min=0, help="Threads that decode images; 0: one per core, at most eight. [default: 0]", show_default=False
    ),
]  # fmt: skip


def given_options(context: typer.Context) -> set[str]:
    """The names of a command's parameters, as Python has them, that are on the command line."""
    return {name for name in context.params if getattr(context.get_parameter_source(name), "name", "") == "COMMANDLINE"}


def note(text: str) -> None:
    """Prints a sentence on stderr."""
    if speaks():
        typer.echo(escaped(text), err=True)


def escaped(text: str) -> str:
    """The text with its control characters, line breaks too, as `\\x1b` and the like: file names may have some."""
    return "".join(c.encode("unicode_escape").decode() if unicodedata.category(c) == "Cc" else c for c in text)


def padded(text: str, width: int) -> str:
    """The text with spaces behind it to so many columns of a terminal."""
    return text + " " * (width - columns(text))


def columns(text: str) -> int:
    """How many columns of a terminal the text takes: Chinese characters take two, marks on letters none."""
    return sum(
        0 if unicodedata.category(c) in ("Mn", "Me", "Cf") else 1 + (unicodedata.east_asian_width(c) in "WF")
        for c in text
    )


def speaks() -> bool:
    """Whether this is the only process, or the first that a launcher started."""
    return os.environ.get("RANK", "0") == "0"


def print_json(value: Any) -> None:
    """Prints one JSON object on stdout."""
    typer.echo(json_text(value, indent=2))


def json_text(value: Any, *, indent: int | None = None) -> str:
    """The value as JSON in which every control character is escaped: a standard one needs that of ASCII's first only."""
    text = json.dumps(value, indent=indent, ensure_ascii=False)
    return re.sub("[\x7f-\x9f]", lambda found: f"\\u{ord(found[0]):04x}", text)


@contextlib.contextmanager
def progress() -> Iterator[Progress]:
    """A function (what, done, total) that draws bars on stderr if that is a terminal, and is silent otherwise."""
    if not sys.stderr.isatty():
        yield silent
        return
    from rich import progress as rich
    from rich.console import Console

    with rich.Progress(console=Console(stderr=True), transient=True) as bars:
        current: tuple[str, rich.TaskID] | None = None

        def update(what: str, done: int, total: int) -> None:
            nonlocal current
            if current is None or current[0] != what:
                if current is not None:
                    bars.remove_task(current[1])
                current = (what, bars.add_task(what, total=total))
            bars.update(current[1], completed=done, total=total)

        yield update


def need_data(path: Path) -> Path:
    """The path, if it exists; else `DataError`."""
    if not path.exists():
        raise DataError(
            f"no data set at '{path}'; expected a folder of images and captions, or its caption file; see --data"
        )
    return path


def need_bundle(source: Path | str) -> Path:
    """The folder of a captioner, fetched if the name is one on the hub (`user/name`, `user/name@revision`)."""
    from showtell.hub import need_folder, resolve

    return need_folder(resolve(source))


def begun(recipe: Recipe, start: str, *, overrides: Sequence[str], encoder_weights: Path | None) -> Recipe:
    """The recipe of a training that starts from a captioner; a missing one fails before torch is imported."""
    need_bundle(start)
    from showtell.training.starting import begin_with

    changed = [override.partition("=")[0] for override in overrides]
    return begin_with(recipe, start, changed=changed, encoder_weights=encoder_weights)


def need_weights(path: Path | None) -> None:
    """Checks that the encoder's weights, if given, are a file or a folder."""
    if path is not None and not path.is_dir():
        need_file(path, "--encoder-weights")


def need_file(path: Path, option: str) -> Path:
    """The path, if it is a file; else `RecipeError`."""
    if not path.is_file():
        raise RecipeError(f"{option} {path}: {'is a folder; expected a file' if path.is_dir() else 'no such file'}")
    return path
