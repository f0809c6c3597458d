"""`showtell explain`: which parts of a photo the words of a caption depend on."""

from __future__ import annotations

import io
import math
from collections.abc import Iterator
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer

from showtell.commands.terminal import DEVICE, need_bundle, print_json
from showtell.errors import DataError
from showtell.paths import write_whole

if TYPE_CHECKING:
    from showtell.explaining import Evidence, Explanation


def explain(
    bundle: Annotated[Path, typer.Argument(help="A bundle, or user/name on the hub.")],
    image: Annotated[Path, typer.Argument(help="An image.")],
    caption: Annotated[
        str | None, typer.Option(metavar="TEXT", help="Explain this caption [default: the model's own].")
    ] = None,
    out: Annotated[
        Path | None, typer.Option(metavar="FILE", help="Also draw it: a .png with the photo once for each word.")
    ] = None,
    device: DEVICE = None,
    json: Annotated[bool, typer.Option("--json", help="One JSON object with the maps, for programs.")] = False,
) -> None:
    """Say how likely each word of a caption is with the photo and without, and which part of the photo it needs most."""
    if out is not None and out.suffix.lower() != ".png":
        raise DataError(f"--out {out}: drawings are PNG files; name one .png")
    folder = need_bundle(bundle)
    from showtell.images import open_image

    picture = open_image(image)  # a bad image fails before torch is imported
    from showtell.explaining import explain as explain_caption
    from showtell.inference import Captioner

    captioner = Captioner.load(folder, device)
    found = explain_caption(captioner, image, caption)
    if json:
        print_json(_to_dict(found))
    else:
        typer.echo("\n".join(_lines(found)))
    if out is not None:
        from showtell.report.attention import draw_explanation

        drawn = io.BytesIO()
        draw_explanation(picture, found, captioner.transform).save(drawn, "PNG")
        out.parent.mkdir(parents=True, exist_ok=True)
        write_whole(out, drawn.getvalue())


def _lines(found: Explanation) -> Iterator[str]:
    """A table for people."""
    yield f"{found.text}  (log-probability {found.log_prob:.2f})"
    yield ""
    width = max(map(len, ["word", *(word.text for word in found.words)]))
    yield f"{'word':{width}}  probability  without photo  needs most"
    for word in found.words:
        percents = f"{100 * math.exp(word.log_prob):9.1f} %  {100 * math.exp(word.unseen):11.1f} %"
        yield f"{word.text:{width}}  {percents}  {_where(word)}"


def _where(word: Evidence) -> str:
    """The part of the photo without which the word loses most, and to what its probability falls there."""
    lost = float(word.cells.max())
    if lost < math.log(1.1):
        return "-"
    rows, columns = word.cells.shape
    row, column = divmod(int(word.cells.argmax()), columns)
    place = f"{_third(row, rows, ('top', 'middle', 'bottom'))} {_third(column, columns, ('left', 'centre', 'right'))}"
    return f"{place} ({100 * math.exp(word.log_prob - lost):.1f} % where that is covered)"


def _third(at: int, of: int, names: tuple[str, str, str]) -> str:
    return names[min(2, int(3 * (at + 0.5) / of))]


def _to_dict(found: Explanation) -> dict[str, Any]:
    return {
        "text": found.text,
        "log_prob": found.log_prob,
        "words": [
            {"text": word.text, "log_prob": word.log_prob, "unseen": word.unseen, "cells": word.cells.round(4).tolist()}
            for word in found.words
        ],
        "end": found.end,
    }
