"""`showtell evaluate`: score a bundle, or predictions, against the references of a split."""

from __future__ import annotations

import functools
from collections.abc import Callable, Sequence, Set
from dataclasses import replace
from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

from showtell.commands.several import (
    DIVERSE,
    DIVERSITY,
    SAMPLE,
    SEED,
    TEMPERATURE,
    TOP_P,
    N,
    spelt,
)
from showtell.commands.terminal import (
    BATCH,
    CONSENSUS,
    DEVICE,
    ENSEMBLE,
    VIEWS,
    WORKERS,
    given_options,
    need_bundle,
    need_data,
    need_file,
    note,
    print_json,
    progress,
)
from showtell.decoding import BATCH_SIZE, Wishes, sampling_asked
from showtell.errors import RecipeError

if TYPE_CHECKING:
    from showtell.against import Against
    from showtell.clip import ClipScorer
    from showtell.scores import Evaluation

_CLIP = "clip"
_CAPTIONING = (
    "consensus", "views", "ensemble", "diverse", "diversity", "sample", "temperature", "top_p", "seed", "batch", "workers"
)  # fmt: skip


def evaluate(
    context: typer.Context,
    data: Annotated[Path, typer.Option(metavar="PATH", help="The data set whose captions are the references.")],
    bundle: Annotated[
        Path | None, typer.Argument(help="A bundle, or user/name on the hub, to caption the split's images with.")
    ] = None,
    predictions: Annotated[
        Path | None,
        typer.Option(metavar="FILE", help="Captions made elsewhere: COCO results JSON, JSONL, CSV, or text."),
    ] = None,
    against: Annotated[
        Path | None,
        typer.Option(metavar="FILE", help="Predictions to compare with: each score's difference, its interval and p."),
    ] = None,
    images: Annotated[
        Path | None, typer.Option(metavar="FILE", help="With text: the images that its lines belong to, one per line.")
    ] = None,
    metrics: Annotated[
        str,
        typer.Option(
            metavar="NAMES",
            help="Further metrics, one or several with commas: meteor, spice (Java, extra 'java'), clip (the images, extra 'clip').",
        ),
    ] = "",
    clip: Annotated[
        str | None,
        typer.Option(
            metavar="MODEL",
            help="The CLIP model of --metrics clip: a folder, or user/name on the hub. [default: openai/clip-vit-base-patch32]",
            show_default=False,
        ),
    ] = None,
    split: Annotated[str, typer.Option(help="train, val (or dev, validation) or test.")] = "test",
    split_of: Annotated[
        Path | None,
        typer.Option(
            metavar="BUNDLE", help="With --predictions: split data without splits as this captioner's training did."
        ),
    ] = None,
    allow_missing: Annotated[
        bool,
        typer.Option(
            "--allow-missing",
            help="Score the predictions even if some images have none, or no file that --metrics clip needs.",
        ),
    ] = False,
    n: N = 1,
    diverse: DIVERSE = False,
    diversity: DIVERSITY = None,
    sample: SAMPLE = False,
    temperature: TEMPERATURE = None,
    top_p: TOP_P = None,
    seed: SEED = None,
    consensus: CONSENSUS = None,
    views: VIEWS = None,
    ensemble: ENSEMBLE = None,
    device: DEVICE = None,
    batch: BATCH = None,
    workers: WORKERS = None,
    confidence: Annotated[
        float | None,
        typer.Option(
            min=0, max=1, help="With a bundle: also score its captions of at least this confidence by themselves."
        ),
    ] = None,
    captions: Annotated[
        Path | None,
        typer.Option(
            metavar="FILE",
            help="Also write each image's caption and scores, as COCO results (.json) or a table (.csv); --predictions reads both.",
        ),
    ] = None,
    json: Annotated[bool, typer.Option("--json", help="One JSON object, for programs.")] = False,
) -> None:
    """Score captions: BLEU-1…4, ROUGE-L and CIDEr with their protocol; for a bundle also two floors; with --n also the
    best and the mean of several captions an image, and how much they differ."""
    more = _more(metrics)
    _refuse(given_options(context), clip=_CLIP in more)
    wishes = Wishes(diverse=diverse, diversity=diversity, consensus=consensus, views=views)
    sampling = sampling_asked(wishes, n=n, sample=sample, temperature=temperature, top_p=top_p, seed=seed, spelt=spelt)
    from showtell.data.splits import split_called

    split = split_called(split)
    need_data(data)
    from showtell.against import compare_evaluations
    from showtell.captioner import Captioner
    from showtell.evaluation import evaluate_captioner, evaluate_predictions
    from showtell.results import check_results, write_results

    if captions is not None:
        check_results(captions, n)
    given = [*_captions_in(predictions, "--predictions"), *_captions_in(against, "--against")]
    listed = None if images is None else _list_of(given, images)
    trained = split_of if bundle is None else bundle
    folder = None if trained is None else need_bundle(trained)

    scorer = _scorer(clip, device) if _CLIP in more else None
    more = [name for name in more if name != _CLIP]

    def score(file: Path, n: int = 1) -> Evaluation:
        with progress() as bar:
            return evaluate_predictions(
                file, data, n=n, split=split, listed=listed, allow_missing=allow_missing, more=more, clip=scorer,
                trained=folder, progress=bar,
            )  # fmt: skip

    other = None if against is None else score(against)  # first: a bad file fails before captioning
    if predictions is not None:
        result = score(predictions, n)
    else:
        assert folder is not None
        others = [need_bundle(name) for name in ensemble or ()]
        captioner = Captioner.load(folder, device, ensemble=others)
        with progress() as bar:
            result = evaluate_captioner(
                captioner, data, n=n, sampling=sampling, split=split, more=more, clip=scorer, progress=bar, note=note,
                wishes=wishes if wishes != Wishes() else None, batch_size=batch or BATCH_SIZE, workers=workers or 0,
            )  # fmt: skip
        result = replace(result, least=confidence)
    for failure in result.failures:
        note(f"left out: {failure}")
    for failure in () if other is None else other.failures:
        note(f"left out of {against}: {failure}")
    compared = None if other is None else compare_evaluations(result, other, name=str(against))
    _print(result, compared, json)
    if captions is not None:
        write_results(captions, result)
    if result.failures and bundle is not None:
        raise typer.Exit(1)


def _refuse(given: Set[str], *, clip: bool) -> None:
    """Raises `BadParameter` for options that do not go together: `given` are those on the command line; `clip`:
    --metrics has it."""
    bundle, predictions = "bundle" in given, "predictions" in given
    if bundle == predictions:
        raise typer.BadParameter("expected either a bundle or --predictions FILE")
    if "images" in given and not predictions and "against" not in given:
        raise typer.BadParameter("--images goes with --predictions or --against, which are missing")
    if "split_of" in given and bundle:
        raise typer.BadParameter(
            "--split-of goes with --predictions; a bundle's own data settings are those of its training anyway"
        )
    captioning = [spelt(option) for option in _CAPTIONING if option in given]
    if predictions and captioning:
        verb = "captions" if len(captioning) == 1 else "caption"
        raise typer.BadParameter(f"{', '.join(captioning)} {verb} with a bundle; --predictions are captions already")
    if predictions and "device" in given and not clip:
        raise typer.BadParameter("--device is for a bundle or --metrics clip; nothing here computes on one")
    if "confidence" in given and predictions:
        raise typer.BadParameter("--confidence goes with a bundle; --predictions are captions without one")
    if "clip" in given and not clip:
        raise typer.BadParameter("--clip names the model of --metrics clip, which is missing")


def _print(result: Evaluation, compared: Against | None, as_json: bool) -> None:
    if as_json:
        print_json(result.to_dict() | ({} if compared is None else {"against": compared.to_dict()}))
    else:
        typer.echo("\n".join([*result.lines(), *([] if compared is None else ["", *compared.lines()])]))


def _more(metrics: str) -> list[str]:
    """The metrics that --metrics lists; `RecipeError` for an unknown one."""
    from showtell.metrics.java import METRICS

    names = [name.strip().lower() for name in metrics.split(",") if name.strip()]
    known = (*METRICS, _CLIP)
    unknown = next((name for name in names if name not in known), None)
    if unknown is not None:
        raise RecipeError(
            f"--metrics: no metric '{unknown}'; expected {', '.join(known[:-1])} or {_CLIP} (the others always are there)"
        )
    return list(dict.fromkeys(names))


def _scorer(name: str | None, device: str | None) -> Callable[[], ClipScorer]:
    """Loads the CLIP model when it is asked for, once."""

    @functools.cache
    def load() -> ClipScorer:
        from showtell.clip import PAPERS, ClipScorer

        source = PAPERS if name is None else name
        note(f"loading the CLIP model {source}")
        return ClipScorer.load(source, device=device)

    return load


def _captions_in(file: Path | None, option: str) -> list[Path]:
    """The checked file of predictions in a list, empty if none is given."""
    if file is None:
        return []
    if (file / "config.json").is_file():
        raise RecipeError(
            f"{option} {file} is a captioner; expected captions, which  showtell evaluate {file} --captions FILE  writes"
        )
    return [need_file(file, option)]


def _list_of(predictions: Sequence[Path], images: Path) -> Path:
    """The file of --images, which only a text without image names needs."""
    from showtell.metrics.predictions import is_text, read_text

    if not any(is_text(file) and "\t" not in read_text(file) for file in predictions):
        named = " and ".join(map(str, predictions))
        raise RecipeError(f"--images goes with a text of one caption a line; found none in {named}")
    return need_file(images, "--images")
