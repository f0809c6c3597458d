"""`showtell export`: a bundle as ONNX, for machines without torch."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated, Literal

import typer

from showtell.commands.terminal import need_bundle, note


def export(
    bundle: Annotated[Path, typer.Argument(help="A bundle, or user/name on the hub.")],
    onnx: Annotated[Path, typer.Option("--onnx", metavar="DIR", help="The folder to write: new or empty.")],
    precision: Annotated[Literal["float32", "int8"], typer.Option(help="The encoder's numbers.")] = "float32",
    calibrate: Annotated[
        Path | None, typer.Option(metavar="FOLDER", help="With int8: typical images, to measure ranges on.")
    ] = None,
) -> None:
    """Write encoder and decoder as ONNX; `showtell caption DIR` runs them without torch."""
    folder = need_bundle(bundle)
    from showtell.images import find_images

    images = list(find_images([str(calibrate)])) if calibrate is not None else []
    from showtell.export import export_onnx

    typer.echo(str(export_onnx(folder, onnx, precision=precision, calibration=images, note=note)))
