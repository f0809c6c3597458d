"""`showtell report`: one HTML file about a run, or several side by side."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

import typer

from showtell.commands.terminal import BATCH, DEVICE, WORKERS, need_bundle, need_data, note, progress
from showtell.decoding import BATCH_SIZE
from showtell.errors import check_target


def report(
    runs: Annotated[
        list[Path],
        typer.Argument(metavar="RUN...", help="Run folders or bundles; the first is compared with the others."),
    ],
    data: Annotated[Path | None, typer.Option(metavar="PATH", help="The data set [default: the recipe's].")] = None,
    split: Annotated[str, typer.Option(help="train, val (or dev, validation) or test.")] = "test",
    out: Annotated[
        Path | None,
        typer.Option(
            metavar="FILE",
            help="The page [default: report.html in the first run's folder, or beside the first bundle].",
        ),
    ] = None,
    device: DEVICE = None,
    batch: BATCH = None,
    workers: WORKERS = None,
) -> None:
    """Write one self-contained HTML file: scores, curves, captions, and where the model looked for each word."""
    from showtell.data.splits import split_called

    split = split_called(split)
    bundles = [need_bundle(run / "bundle" if _is_run(run) else run) for run in runs]
    if data is not None:
        need_data(data)
    # Not into a bundle, which holds the model and nothing else.
    folder = runs[0] if _is_run(runs[0]) else runs[0].resolve().parent
    page = out or (folder if runs[0].is_dir() else Path()) / "report.html"
    check_target(page, (".html", ".htm"), option="--out", what="the page is")
    from showtell.report.collect import collect
    from showtell.report.page import write_page

    with progress() as bar:
        reports = [
            collect(
                bundle,
                data,
                name=_name(run),
                split=split,
                device=device,
                batch_size=batch or BATCH_SIZE,
                workers=workers or 0,
                progress=bar,
                note=note,
            )
            for run, bundle in zip(runs, bundles, strict=True)
        ]
    write_page(page, reports, title=" · ".join(dict.fromkeys(report.name for report in reports)))
    typer.echo(str(page))
    left_out = dict.fromkeys(failure for report in reports for failure in report.evaluation.failures)
    for failure in left_out:
        note(f"left out: {failure}")
    if left_out:
        raise typer.Exit(1)


def _is_run(path: Path) -> bool:
    return not (path / "config.json").is_file() and (path / "bundle").is_dir()


def _name(run: Path) -> str:
    """What the page calls a run: its folder, or its name on the hub."""
    if not run.is_dir():
        return run.as_posix()
    return run.resolve().name if _is_run(run) else run.resolve().parent.name
