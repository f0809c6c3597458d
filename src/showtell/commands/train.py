"""`showtell train`: a recipe becomes a bundle."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

from showtell.commands.terminal import begun, need_bundle, need_data, need_weights, note, progress, speaks

if TYPE_CHECKING:
    from showtell.config import Recipe
    from showtell.training.run import TrainResult


def train(
    recipe: Annotated[str, typer.Argument(help="A recipe: a TOML file, or the name of a built-in one.")],
    overrides: Annotated[
        list[str] | None, typer.Argument(metavar="[SECTION.KEY=VALUE]...", help="Changes to the recipe.")
    ] = None,
    data: Annotated[
        Path | None, typer.Option(metavar="PATH", help="The data set, instead of the recipe's data.path.")
    ] = None,
    encoder_weights: Annotated[
        Path | None,
        typer.Option(
            metavar="FILE",
            help="The encoder's weights as .safetensors, instead of the hub's; or a folder with NAME.safetensors.",
        ),
    ] = None,
    out: Annotated[
        Path | None,
        typer.Option(metavar="DIR", help="The run's folder [default: runs/<recipe>]; its bundle is DIR/bundle."),
    ] = None,
    start: Annotated[
        str | None,
        typer.Option(
            metavar="BUNDLE",
            help="A captioner to start from, a bundle's folder or user/name on the hub: its CNN, decoder and words.",
        ),
    ] = None,
    teacher: Annotated[
        list[str] | None,
        typer.Option(
            metavar="BUNDLE",
            help="A captioner that a distillation phase imitates, a bundle's folder or user/name on the hub. May be repeated: "
            "their probabilities are averaged.",
        ),
    ] = None,
    resume: Annotated[bool, typer.Option("--resume", help="Continue an interrupted run exactly.")] = False,
) -> None:
    """Train a captioner; every epoch ends with BLEU-1…4, ROUGE-L and CIDEr on the validation split."""
    from showtell.recipe import load_recipe

    resolved = load_recipe(recipe, overrides or [])
    need_data(data or Path(resolved.data.path))
    need_weights(encoder_weights)
    if begin := start or resolved.train.start:
        resolved = begun(resolved, begin, overrides=overrides or [], encoder_weights=encoder_weights)
    if names := teacher or (resolved.train.teachers if resolved.distils() else ()):
        for name in names:
            need_bundle(name)
        from showtell.training.teachers import keep_vocabulary

        keep_vocabulary([override.partition("=")[0] for override in overrides or []], names[0])
    folder = out or Path("runs") / resolved.name
    result = _run(
        resolved, data=data, encoder_weights=encoder_weights, teachers=teacher or [], out=folder, resume=resume
    )
    if not speaks():
        return
    from showtell.metrics.evaluate import NAMES

    scores = ", ".join(f"{NAMES[name]} {100 * value:.1f}" for name, value in result.scores.items())
    best = f"best epoch {result.best_epoch} of {result.epochs}"
    if not result.best_epoch:
        best = f"none of {result.epochs} epochs was better than the captioner that training began with, which is kept"
    typer.echo(f"{best}; on the validation split, ×100: {scores}")
    typer.echo(f"protocol: {result.protocol}")
    typer.echo(f"bundle: {result.bundle}")


def _run(
    recipe: Recipe,
    *,
    data: Path | None,
    encoder_weights: Path | None,
    teachers: list[str],
    out: Path,
    resume: bool,
) -> TrainResult:
    note(f"recipe {recipe.name}; every key will be in {out / 'recipe.json'}")
    for line in recipe.lines():
        note(f"    {line}")
    if teachers:
        note(f"    teachers: {', '.join(teachers)}")
    from showtell.training.run import train as train_recipe
    from showtell.training.runlog import EpochReport

    def report(epoch: EpochReport) -> None:
        typer.echo(epoch.line())
        note(f"    {epoch.told()}")
        for sample in epoch.samples:
            note(f"    {sample}")

    try:
        with progress() as bar:
            return train_recipe(
                recipe, data=data, encoder_weights=encoder_weights, teachers=teachers, out=out, resume=resume,
                report=report, note=note, progress=bar,
            )  # fmt: skip
    except KeyboardInterrupt:
        raise KeyboardInterrupt(_left_behind(out)) from None


def _left_behind(out: Path) -> str:
    kept = [
        sentence
        for file, sentence in (
            ("checkpoint.safetensors", f"add --resume to continue from the checkpoint in {out}"),
            ("bundle/config.json", f"the best epoch so far is {out / 'bundle'}"),
        )
        if (out / file).is_file()
    ]
    return "interrupted; " + ("; ".join(kept) or "nothing was saved yet")
