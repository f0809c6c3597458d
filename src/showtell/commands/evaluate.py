"""`showtell evaluate`: a bundle, or anybody's predictions, against the references of a split."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

import typer

from showtell.commands.terminal import need_bundle, need_data, need_file, note, print_json, progress
from showtell.errors import DataError

SPLITS = ("train", "val", "dev", "test")


def evaluate(
    data: Annotated[Path, typer.Option(metavar="PATH", help="The data set whose captions are the references.")],
    bundle: Annotated[
        Path | None, typer.Argument(help="A bundle, or user/name on the hub, to caption the split's images with.")
    ] = None,
    predictions: Annotated[
        Path | None, typer.Option(metavar="FILE", help="Captions made elsewhere: COCO results JSON, JSONL or CSV.")
    ] = None,
    split: Annotated[str, typer.Option(help="train, val (or dev) or test.")] = "test",
    allow_missing: Annotated[
        bool, typer.Option("--allow-missing", help="Score predictions although some images have none.")
    ] = False,
    json: Annotated[bool, typer.Option("--json", help="One JSON object, for programs.")] = False,
) -> None:
    """Score captions: BLEU-1…4, ROUGE-L and CIDEr with their protocol; a bundle also beside two floors."""
    if (bundle is None) == (predictions is None):
        raise typer.BadParameter("expected either a bundle or --predictions FILE")
    if split not in SPLITS:
        raise DataError(f"no split '{split}'; expected one of {', '.join(SPLITS)}")
    need_data(data)
    from showtell.evaluation import evaluate_bundle, evaluate_predictions

    if predictions is not None:
        need_file(predictions, "--predictions")
        result = evaluate_predictions(predictions, data, split=split, allow_missing=allow_missing)
    else:
        assert bundle is not None
        with progress() as bar:
            result = evaluate_bundle(need_bundle(bundle), data, split=split, progress=bar, note=note)
    for failure in result.failures:
        note(f"left out: {failure}")
    if json:
        print_json(result.to_dict())
    else:
        typer.echo("\n".join(result.lines()))
    if result.failures and bundle is not None:
        raise typer.Exit(1)
