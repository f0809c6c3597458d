"""`showtell data check`, `showtell data get`, `showtell data unpack` and `showtell data cache`."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

import typer

from showtell.commands.terminal import escaped, need_data, note, print_json, progress
from showtell.errors import check_place

app = typer.Typer(no_args_is_help=True, rich_markup_mode=None, help="Look at a data set, or get one.")


@app.command()
def check(
    path: Annotated[Path, typer.Argument(help="A folder of images and captions, or its caption file.")],
    json: Annotated[bool, typer.Option("--json", help="One JSON object, for programs.")] = False,
) -> None:
    """Say what a data set holds, and what is wrong in it by file and line: five of each kind, all with --json."""
    need_data(path)
    from showtell.data.check import check as check_data

    report = check_data(path)
    if json:
        print_json(report.to_dict())
        return
    for line in report.lines():
        typer.echo(escaped(line))


@app.command()
def get(
    name: Annotated[str, typer.Argument(help="The data set's name, e.g. flickr8k.")],
    to: Annotated[Path | None, typer.Option(metavar="DIR", help="Where to put it [default: ./NAME].")] = None,
    source: Annotated[
        Path | None,
        typer.Option(
            "--from",
            metavar="PATH",
            help="Archives that you already have, one or a folder of them; the rest is downloaded.",
        ),
    ] = None,
) -> None:
    """Download a data set from its mirrors, resuming and verifying, and unpack it."""
    from showtell.data.download import get as get_data

    check_place(to or Path(name), option="--to")
    with progress() as bar:
        folder = get_data(name, to=to or Path(name), source=source, progress=bar)
    note(f"check it with  showtell data check {folder}")
    typer.echo(str(folder))


@app.command()
def unpack(
    sources: Annotated[
        list[Path],
        typer.Argument(metavar="SOURCE...", help=".parquet, .tar or .tar.gz files, or folders of them."),
    ],
    to: Annotated[Path, typer.Option(metavar="DIR", help="The folder to write: a new one, or an empty one.")],
    image: Annotated[str, typer.Option(metavar="COLUMN", help="Parquet: the column of the images.")] = "",
    caption: Annotated[
        str,
        typer.Option(
            metavar="COLUMN[,COLUMN…]", help="Parquet: the columns of captions; tar: their keys in each .json."
        ),
    ] = "",
    split: Annotated[
        str, typer.Option(metavar="COLUMN", help="Parquet: the column of splits; tar: their key in each .json.")
    ] = "",
) -> None:
    """Unpack Parquet files as the Hugging Face Hub has them, or WebDataset's tars, into a folder of images and captions.
    A broken sample is left out and reported (exit code 1)."""
    from showtell.data.packed import Columns
    from showtell.data.unpack import unpack as unpack_data

    check_place(to.parent, option="--to")  # it is written beside its place first
    captions = tuple(name.strip() for name in caption.split(",") if name.strip())
    try:
        with progress() as bar:
            result = unpack_data(sources, to=to, columns=Columns(image, captions, split), progress=bar)
    except KeyboardInterrupt:
        raise KeyboardInterrupt(f"interrupted; nothing was written to {to}") from None
    typer.echo(result.line())
    for line in result.troubles():
        note(line)
    note(f"check it with  showtell data check {to}")
    if result.broken:
        raise typer.Exit(1)


@app.command()
def cache(
    names: Annotated[
        list[str] | None,
        typer.Argument(metavar="NAME", help="Caches whose names begin like this [default: all]."),
    ] = None,
    at: Annotated[
        Path | None, typer.Option(metavar="DIR", help="The folder that data.cache names, if it is set.")
    ] = None,
    clear: Annotated[bool, typer.Option("--clear", help="Remove them; not during a training.")] = False,
    json: Annotated[bool, typer.Option("--json", help="One JSON object, for programs.")] = False,
) -> None:
    """Say what the cached features of images take on disk, one folder per encoder, or remove them: a training that
    needs them again encodes its images anew."""
    from showtell.data.caches import caches, choose, size

    chosen = choose(caches(at), names or [])
    if clear:
        for use in chosen:
            use.remove()
    if json:
        print_json({"caches": [use.to_dict() for use in chosen], "removed": clear})
        return
    for use in chosen:
        typer.echo(use.line())
    total = size(sum(use.bytes for use in chosen))
    typer.echo("nothing is cached" if not chosen else f"{total} removed" if clear else f"{total} in all")
