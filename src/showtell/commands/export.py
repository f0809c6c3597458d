"""`showtell export`: a bundle as ONNX, for machines without torch."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Literal

import typer

from showtell.commands.terminal import need_bundle, need_data, note, progress
from showtell.errors import check_place

if TYPE_CHECKING:
    from showtell.captioner import Captioner
    from showtell.scores import Evaluation


def export(
    bundle: Annotated[Path, typer.Argument(help="A bundle, or user/name on the hub.")],
    onnx: Annotated[Path, typer.Option("--onnx", metavar="DIR", help="The folder to write: new or empty.")],
    precision: Annotated[
        Literal["float32", "float16", "int8"],
        typer.Option(help="float16: half the size, as fast. int8: the encoder at a quarter of the size, and faster."),
    ] = "float32",
    calibrate: Annotated[
        Path | None,
        typer.Option(
            metavar="FOLDER",
            help="With int8: typical images, to measure ranges on [default: the train split of --data].",
        ),
    ] = None,
    reduced_range: Annotated[
        bool,
        typer.Option(
            "--reduced-range", help="With int8: for processors without VNNI (most before 2020), less exact elsewhere."
        ),
    ] = False,
    data: Annotated[
        Path | None, typer.Option(metavar="PATH", help="A data set on which to measure what the export costs in CIDEr.")
    ] = None,
    split: Annotated[str, typer.Option(help="The split of --data: train, val (or dev, validation) or test.")] = "test",
) -> None:
    """Write encoder and decoder as ONNX; `showtell caption DIR` runs them without torch."""
    folder = need_bundle(bundle)
    from showtell.data.splits import split_called

    split = split_called(split)
    if calibrate is not None and precision != "int8":
        raise typer.BadParameter(f"--calibrate goes with --precision int8, found {precision}")
    if reduced_range and precision != "int8":
        raise typer.BadParameter(f"--reduced-range goes with --precision int8, found {precision}")
    for place in (onnx.parent, onnx):  # it is written beside its place first
        check_place(place, option="--onnx")
    if data is not None:
        need_data(data)
    from showtell.images import find_images

    images = list(find_images([str(calibrate)])) if calibrate is not None else []
    from showtell.export import export_onnx

    whole = _load(folder) if data is not None else None
    if whole is not None and data is not None and precision == "int8" and not images:
        from showtell.evaluation import images_of

        images = [image.path for image in images_of(whole.recipe, data, "train")[1]]
    written = export_onnx(folder, onnx, precision=precision, calibration=images, reduced_range=reduced_range, note=note)
    typer.echo(str(written))
    if whole is not None and data is not None:
        for line in _measure(whole, onnx, data, split, precision):
            typer.echo(line)


def _load(bundle: Path) -> Captioner:
    from showtell.captioner import Captioner
    from showtell.inference import BundleEngine

    return Captioner(BundleEngine.load(bundle, "cpu", precision="float32"))


def _measure(whole: Captioner, exported: Path, data: Path, split: str, precision: str) -> list[str]:
    from showtell.captioner import Captioner
    from showtell.evaluation import evaluate_captioner

    with progress() as bar:
        before = evaluate_captioner(whole, data, split=split, progress=bar, note=note)
        after = evaluate_captioner(Captioner.load(exported), data, split=split, progress=bar)
    return _compared(before, after, precision)


def _compared(before: Evaluation, after: Evaluation, precision: str) -> list[str]:
    """What the export changed, as lines to print."""
    from showtell.metrics import compare

    cider = compare(before.report, after.report)["cider"]
    old, new = before.report.scores["cider"], after.report.scores["cider"]
    change = f"{100 * (new / old - 1):+.2f} %" if old else "–"
    same = sum(one == other for one, other in zip(before.candidates, after.candidates, strict=True))
    return [
        f"CIDEr ×100: {100 * old:.2f} with torch in float32, {100 * new:.2f} exported as {precision} ({change}; "
        f"difference {100 * cider.low:+.2f} … {100 * cider.high:+.2f} in 95 % of draws, p = {cider.p:.3f})",
        f"the same caption for {same} of {len(before.candidates)} images",
        f"protocol: {after.report.protocol}",
    ]
