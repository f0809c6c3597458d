"""`showtell tune`: find the values of a recipe's keys that score best on validation data."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

import typer

from showtell.commands.terminal import begun, need_data, need_weights, note, progress
from showtell.errors import check_place


def tune(
    recipe: Annotated[str, typer.Argument(help="A recipe: a TOML file, or the name of a built-in one.")],
    overrides: Annotated[
        list[str] | None,
        typer.Argument(metavar="[SECTION.KEY=VALUE]...", help="Changes to the recipe, for all trials."),
    ] = None,
    vary: Annotated[
        list[str] | None,
        typer.Option(
            metavar="KEY=VALUES",
            help="What to search over: KEY=[A, B], KEY=LOW..HIGH (0..9: whole numbers, 0.0..9.0: any), or KEY=LOW..HIGH:log. May be repeated.",
        ),
    ] = None,
    trials: Annotated[
        int, typer.Option(min=1, help="Number of trainings, including those of an interrupted search.")
    ] = 20,
    seed: Annotated[int, typer.Option(min=0, max=10**6, help="Seed of the proposed values.")] = 0,
    data: Annotated[
        Path | None, typer.Option(metavar="PATH", help="The data set, instead of the recipe's data.path.")
    ] = None,
    encoder_weights: Annotated[
        Path | None, typer.Option(metavar="FILE", help="The encoder's weights, as in  showtell train.")
    ] = None,
    out: Annotated[
        Path | None, typer.Option(metavar="DIR", help="The search's folder [default: runs/<recipe>-tuned].")
    ] = None,
) -> None:
    """Search over keys of a recipe by validation CIDEr; the best values become a recipe. Called again, it continues."""
    from showtell.recipe import load_recipe
    from showtell.training.tune import parse_space
    from showtell.training.tune import tune as search

    resolved = load_recipe(recipe, overrides or [])
    space = parse_space(vary or [])
    need_data(data or Path(resolved.data.path))
    need_weights(encoder_weights)
    if begin := resolved.train.start:
        resolved = begun(resolved, begin, overrides=overrides or [], encoder_weights=encoder_weights)
    folder = out or Path("runs") / f"{resolved.name}-tuned"
    check_place(folder, option="--out")
    try:
        with progress() as bar:
            found = search(
                resolved, space, trials=trials, out=folder, data=data, encoder_weights=encoder_weights, seed=seed,
                report=lambda trial: typer.echo(str(trial)), note=note, progress=bar,
            )  # fmt: skip
    except KeyboardInterrupt:
        raise KeyboardInterrupt(f"interrupted; the same command goes on from {folder}") from None
    typer.echo(f"best: {found.best}")
    typer.echo(f"protocol: {found.protocol}")
    typer.echo(f"recipe: {found.recipe}")
