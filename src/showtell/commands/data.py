"""`showtell data check` and `showtell data get`."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

import typer

from showtell.commands.terminal import need_data, note, print_json, progress

app = typer.Typer(no_args_is_help=True, rich_markup_mode=None, help="Look at a data set, or get one.")


@app.command()
def check(
    path: Annotated[Path, typer.Argument(help="A folder of images and captions, or its caption file.")],
    json: Annotated[bool, typer.Option("--json", help="One JSON object, for programs.")] = False,
) -> None:
    """Say what a data set holds, and every problem in it by file and line."""
    need_data(path)
    from showtell.data.check import check as check_data

    report = check_data(path)
    if json:
        print_json(report.to_dict())
        return
    for line in report.lines():
        typer.echo(line)


@app.command()
def get(
    name: Annotated[str, typer.Argument(help="The data set's name, e.g. flickr8k.")],
    to: Annotated[Path | None, typer.Option(metavar="DIR", help="Where it goes [default: ./NAME].")] = None,
    source: Annotated[
        Path | None,
        typer.Option("--from", metavar="PATH", help="Archives that you already have; nothing is downloaded."),
    ] = None,
) -> None:
    """Download a data set from its mirrors, resuming and verifying, and unpack it."""
    from showtell.data.download import get as get_data

    with progress() as bar:
        folder = get_data(name, to=to or Path(name), source=source, progress=bar)
    note(f"check it with  showtell data check {folder}")
    typer.echo(str(folder))
