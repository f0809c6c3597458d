"""`showtell train`: a recipe becomes a bundle."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

from showtell.commands.terminal import begun, need_bundle, need_data, need_weights, note, progress, speaks
from showtell.errors import check_place

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
    seeds: Annotated[
        int | None,
        typer.Option(
            metavar="N",
            min=2,
            max=100,
            help="Train N times, with the seeds from train.seed on, in DIR/seed-…, and print how far their scores lie apart.",
        ),
    ] = None,
    resume: Annotated[bool, typer.Option("--resume", help="Continue an interrupted run exactly.")] = False,
) -> None:
    """Train a captioner; every epoch ends with BLEU-1…4, ROUGE-L and CIDEr on the validation split."""
    from showtell.recipe import load_recipe
    from showtell.training.seeds import with_seeds

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
    check_place(folder, option="--out")
    runs = with_seeds(resolved, seeds, out=folder, resume=resume) if seeds else {folder: resolved}
    results = {}
    for place, each in runs.items():
        result = _run(
            each, data=data, encoder_weights=encoder_weights, teachers=teacher or [], out=place, resume=resume
        )
        results[each.train.seed] = result
        if speaks():
            _tell(result)
    if seeds and speaks():
        _tell_spreads(folder, results)


def _tell(result: TrainResult) -> None:
    """Prints a run's best epoch, its scores, and where its bundle is."""
    from showtell.metrics.evaluate import NAMES

    scores = ", ".join(f"{NAMES[name]} {100 * value:.1f}" for name, value in result.scores.items())
    best = f"best epoch {result.best_epoch} of {result.epochs}"
    if not result.best_epoch:
        best = f"none of {result.epochs} epochs was better than the captioner that training began with, which is kept"
    typer.echo(f"{best}; on the validation split, ×100: {scores}")
    typer.echo(f"protocol: {result.protocol}")
    typer.echo(f"bundle: {result.bundle}")


def _tell_spreads(out: Path, results: dict[int, TrainResult]) -> None:
    """Prints how far apart the scores of several seeds lie, and keeps them."""
    from showtell.metrics.evaluate import NAMES
    from showtell.training.seeds import keep_seeds, spreads

    kept = keep_seeds(out, results)
    typer.echo(f"{len(results)} seeds on the validation split, ×100:")
    typer.echo(f"{'':8}  {'mean':>6}  {'deviation':>9}  {'least – greatest':>18}")
    for name, spread in spreads(list(results.values())).items():
        mean, deviation, least, greatest = (
            100 * x for x in (spread.mean, spread.deviation, spread.least, spread.greatest)
        )
        typer.echo(f"{NAMES[name]:8}  {mean:6.1f}  {deviation:9.1f}  {least:8.1f} – {greatest:.1f}")
    typer.echo(f"each seed's: {kept}")


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
