"""`showtell evaluate`: a bundle, or anybody's predictions, against the references of a split."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

import typer

from showtell.commands.terminal import (
    CONSENSUS,
    ENSEMBLE,
    VIEWS,
    need_bundle,
    need_data,
    need_file,
    note,
    print_json,
    progress,
)
from showtell.errors import DataError, RecipeError

SPLITS = ("train", "val", "dev", "test")


def evaluate(
    data: Annotated[Path, typer.Option(metavar="PATH", help="The data set whose captions are the references.")],
    bundle: Annotated[
        Path | None, typer.Argument(help="A bundle, or user/name on the hub, to caption the split's images with.")
    ] = None,
    predictions: Annotated[
        Path | None,
        typer.Option(metavar="FILE", help="Captions made elsewhere: COCO results JSON, JSONL, CSV, or text."),
    ] = None,
    images: Annotated[
        Path | None, typer.Option(metavar="FILE", help="With text: the images of its lines, one a line.")
    ] = None,
    metrics: Annotated[
        str,
        typer.Option(metavar="NAMES", help="Also these, by Java and the extra 'java': meteor, spice, or meteor,spice."),
    ] = "",
    split: Annotated[str, typer.Option(help="train, val (or dev) or test.")] = "test",
    split_of: Annotated[
        Path | None,
        typer.Option(
            metavar="BUNDLE", help="With --predictions: data that have no splits are split as for this captioner."
        ),
    ] = None,
    allow_missing: Annotated[
        bool, typer.Option("--allow-missing", help="Score predictions although some images have none.")
    ] = False,
    consensus: CONSENSUS = None,
    views: VIEWS = None,
    ensemble: ENSEMBLE = None,
    captions: Annotated[
        Path | None,
        typer.Option(
            metavar="FILE",
            help="Also write each image's caption and scores, as COCO results .json or as .csv; --predictions reads it.",
        ),
    ] = None,
    json: Annotated[bool, typer.Option("--json", help="One JSON object, for programs.")] = False,
) -> None:
    """Score captions: BLEU-1…4, ROUGE-L and CIDEr with their protocol; a bundle also beside two floors."""
    if (bundle is None) == (predictions is None):
        raise typer.BadParameter("expected either a bundle or --predictions FILE")
    if images is not None and predictions is None:
        raise typer.BadParameter("--images goes with --predictions, which is missing")
    if split_of is not None and predictions is None:
        raise typer.BadParameter(
            "--split-of goes with --predictions; a bundle's own data settings are those of its training anyway"
        )
    if predictions is not None and (consensus is not None or views is not None or ensemble):
        raise typer.BadParameter(
            "--consensus, --views and --ensemble caption with a bundle; --predictions are captions already"
        )
    if split not in SPLITS:
        raise DataError(f"no split '{split}'; expected one of {', '.join(SPLITS)}")
    need_data(data)
    more = _more(metrics)
    from showtell.evaluation import evaluate_bundle, evaluate_predictions
    from showtell.results import check_results, write_results

    if captions is not None:
        check_results(captions)

    if predictions is not None:
        need_file(predictions, "--predictions")
        listed = _list_of(predictions, images) if images is not None else None
        result = evaluate_predictions(
            predictions, data, split=split, listed=listed, allow_missing=allow_missing, more=more,
            trained=None if split_of is None else need_bundle(split_of),
        )  # fmt: skip
    else:
        assert bundle is not None
        from showtell.decoding import Wishes

        others = [need_bundle(folder) for folder in ensemble or ()]
        wishes = Wishes(consensus=consensus, views=views)
        with progress() as bar:
            result = evaluate_bundle(
                need_bundle(bundle), data, split=split, more=more, ensemble=others, progress=bar, note=note,
                wishes=wishes if wishes != Wishes() else None,
            )  # fmt: skip
    for failure in result.failures:
        note(f"left out: {failure}")
    if json:
        print_json(result.to_dict())
    else:
        typer.echo("\n".join(result.lines()))
    if captions is not None:
        write_results(captions, result)
    if result.failures and bundle is not None:
        raise typer.Exit(1)


def _more(metrics: str) -> list[str]:
    """The names of metrics that a user listed."""
    from showtell.metrics.java import METRICS

    names = [name.strip().lower() for name in metrics.split(",") if name.strip()]
    unknown = next((name for name in names if name not in METRICS), None)
    if unknown is not None:
        raise RecipeError(
            f"--metrics: no metric '{unknown}'; expected {' or '.join(METRICS)} (the others always are there)"
        )
    return list(dict.fromkeys(names))


def _list_of(predictions: Path, images: Path) -> Path:
    """The file of --images, which only a text of captions alone needs."""
    from showtell.metrics.predictions import is_text

    if not is_text(predictions) or b"\t" in predictions.read_bytes():
        raise RecipeError(f"--images goes with a text of one caption a line; {predictions} names its images itself")
    return need_file(images, "--images")
