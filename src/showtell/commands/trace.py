"""`showtell trace`: one image after every stage."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

import typer

from showtell.commands.terminal import DEVICE, need_bundle


def trace(
    bundle: Annotated[Path, typer.Argument(help="A bundle, or user/name on the hub.")],
    image: Annotated[Path, typer.Argument(help="An image.")],
    device: DEVICE = None,
) -> None:
    """Print one image after every stage: its shape, and the file and line that made it."""
    folder = need_bundle(bundle)
    from showtell.images import open_image

    open_image(image)  # a bad image fails before torch is imported
    from showtell.trace import trace_image

    for stage in trace_image(folder, image, device=device):
        typer.echo(stage.line())
