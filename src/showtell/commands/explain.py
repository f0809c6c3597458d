"""`showtell explain`: which parts of a photo the words of a caption depend on."""

from __future__ import annotations

import io
import math
from collections.abc import Iterator
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer

from showtell.commands.terminal import DEVICE, columns, escaped, need_bundle, padded, print_json
from showtell.errors import check_target
from showtell.paths import write_whole

if TYPE_CHECKING:
    from showtell.explaining import Evidence, Explanation

_NOTICED = math.log(1.1)  # nats: a tenth of a probability


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
    if out is not None:
        check_target(out, (".png",), option="--out", what="drawings are")
    folder = need_bundle(bundle)
    from showtell.images import open_image

    picture = open_image(image)  # a bad image fails before torch is imported
    from showtell.captioner import Captioner
    from showtell.explaining import explain as explain_caption
    from showtell.inference import BundleEngine

    captioner = Captioner(BundleEngine.load(folder, device))
    found = explain_caption(captioner, image, caption)
    if json:
        print_json(_to_dict(found))
    else:
        typer.echo("\n".join(_lines(found)))
    if out is not None:
        from showtell.report.attention import draw_explanation

        drawn = io.BytesIO()
        draw_explanation(picture, found, captioner.transform).save(drawn, "PNG")
        write_whole(out, drawn.getvalue())


def _lines(found: Explanation) -> Iterator[str]:
    """A table for people."""
    yield f"{escaped(found.text)}  (log-probability {found.log_prob:.2f})"
    yield ""
    texts = [escaped(word.text) for word in found.words]
    width = max(map(columns, ["word", *texts]))
    yield f"{padded('word', width)}  probability  without photo  needs most"
    for text, word in zip(texts, found.words, strict=True):
        yield f"{padded(text, width)}  {_percent(word.log_prob):>11}  {_percent(word.unseen):>13}  {_where(word)}"


def _percent(log_prob: float) -> str:
    """A probability in percent, with one decimal, or two digits where that would be 0.0."""
    percent = 100 * math.exp(log_prob)
    return f"{percent:.1f} %" if percent >= 1 else f"{percent:.2g} %"


def _where(word: Evidence) -> str:
    """The part of the photo without which the word loses most, and to what its probability falls there."""
    lost = float(word.cells.max())
    if word.unseen - word.log_prob > _NOTICED:
        return "- (the photo speaks against it)"
    if lost < _NOTICED:
        return "-"
    rows, columns = word.cells.shape
    row, column = divmod(int(word.cells.argmax()), columns)
    place = f"{_third(row, rows, ('top', 'middle', 'bottom'))} {_third(column, columns, ('left', 'centre', 'right'))}"
    return f"{place} ({_percent(word.log_prob - lost)} where that is covered)"


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
