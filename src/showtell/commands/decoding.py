"""`showtell decoding`: keep the views, beam, length normalisation and consensus that score best on validation data."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

import typer

from showtell.commands.terminal import BATCH, DEVICE, WORKERS, need_bundle, need_data, note, progress
from showtell.decoding import BATCH_SIZE
from showtell.errors import BundleError, may_write


def decoding(
    bundle: Annotated[Path, typer.Argument(help="A bundle.")],
    data: Annotated[Path, typer.Option(metavar="PATH", help="The data set to choose on.")],
    split: Annotated[str, typer.Option(help="val (or dev, validation), train or test.")] = "val",
    views: Annotated[
        int | None,
        typer.Option(
            metavar="N",
            min=1,
            help="Also try 1, 2, 4 … N views of each image. [default: the bundle's own number]",
            show_default=False,
        ),
    ] = None,
    device: DEVICE = None,
    batch: BATCH = None,
    workers: WORKERS = None,
    dry_run: Annotated[
        bool, typer.Option("--dry-run", help="Say which decoding is best and leave the bundle unchanged.")
    ] = False,
) -> None:
    """Try some decodings on validation data and make the one with the best CIDEr the bundle's own."""
    from showtell.data.splits import split_called

    split = split_called(split)
    need_data(data)
    folder = need_bundle(bundle)
    if folder != bundle and not dry_run:
        raise BundleError(
            f"'{bundle}' is on the hub, and what was fetched stays as it was; add --dry-run, or copy {folder}"
        )
    if not dry_run and not may_write(folder):
        raise BundleError(f"nothing may be written into {folder}; add --dry-run, or change its permissions")
    from showtell.choosing import choose_bundle_decoding, keep_best_decoding

    find = choose_bundle_decoding if dry_run else keep_best_decoding
    with progress() as bar:
        choice, protocol = find(
            folder,
            data,
            split=split,
            most_views=views,
            device=device,
            batch_size=batch or BATCH_SIZE,
            workers=workers or 0,
            report=lambda tried: typer.echo(str(tried)),
            progress=bar,
            note=note,
        )
    typer.echo(f"best: {choice.search.describe()}")
    typer.echo(f"protocol: {protocol}")
    if not dry_run:
        note(f"{bundle}/config.json has it now")
