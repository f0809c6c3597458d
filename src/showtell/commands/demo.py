"""`showtell demo`: everything once, on drawn scenes, offline."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

import typer

from showtell.commands.terminal import note, progress


def demo(
    out: Annotated[Path, typer.Option(metavar="DIR", help="The folder to write.")] = Path("showtell-demo"),
) -> None:
    """Draw a data set, train on it, score, caption and explain: minutes on two cores, offline."""
    from showtell.demo import run_demo

    try:
        with progress() as bar:
            for line in run_demo(out, note=note, say=typer.echo, progress=bar).lines():
                typer.echo(line)
    except KeyboardInterrupt:
        raise KeyboardInterrupt(f"interrupted; what was made so far lies in {out}") from None
