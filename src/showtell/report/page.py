"""One self-contained HTML file about one or more runs: no other file, no network."""

from __future__ import annotations

import base64
import io
import math
from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any, Literal

import jinja2
import numpy as np
from markupsafe import Markup
from numpy.typing import NDArray
from PIL import Image

import showtell
from showtell.captioning import Caption
from showtell.config import EncoderConfig
from showtell.errors import DataError
from showtell.images import ImageTransform, open_image
from showtell.metrics import Comparison, Selection, TextStatistics, compare, verdict
from showtell.metrics.evaluate import NAMES
from showtell.paths import write_whole
from showtell.report.charts import COLOURS, Band, Series, line_chart
from showtell.report.collect import RANDOM, Epoch, Example, RunReport

_SIDE = 360  # pixels of an embedded photo's longer side
_KEPT = tuple(share / 10 for share in range(1, 11))  # shares of the captions, the surest first
_SHOWN = ("cider", "bleu_4", "rouge_l")  # the scores listed for each image


def write_page(path: Path, runs: Sequence[RunReport], *, title: str) -> None:
    """Writes the report of runs that were scored on the same images; `DataError` if they were not."""
    _check_same_images(runs)
    first = runs[0]
    people = first.people
    sure = [(_label(run, runs), run.evaluation.selection(_KEPT)) for run in runs]
    environment = jinja2.Environment(
        loader=jinja2.PackageLoader("showtell.report", "."), autoescape=True, undefined=jinja2.StrictUndefined
    )
    environment.filters["percent"] = lambda value: f"{100 * value:.1f}"
    environment.filters["signed"] = lambda value: f"{100 * value:+.2f}".replace("-", "−")
    environment.filters["verdict"] = verdict
    page = environment.get_template("page.html.j2").render(
        title=title,
        colours=COLOURS,
        runs=runs,
        scores=list(first.evaluation.report.scores),
        names=NAMES,
        floors=list(first.evaluation.floors),
        people=people,
        fewer=_one_fewer(first.evaluation.report.protocol.references_per_image),
        comparisons=_comparisons(runs),
        charts=[Markup(chart) for chart in _charts(runs) if chart],  # noqa: S704 (made by line_chart, which escapes)
        lengths=Markup(_lengths(runs)),  # noqa: S704 (the same)
        surest=Markup(_surest(sure)),  # noqa: S704 (the same)
        sure=[(name, known) for name, known in sure if known],
        protocols=_protocols(runs),
        made=[_made(run) for run in runs],
        texts=[*(run.spoken for run in runs), first.written],
        pictures=list(_pictures(runs)),
        looked=any(word.attention is not None for example in _examples(runs) for word in example.caption.words),
        version=showtell.__version__,
    )
    write_whole(path, page)


def _protocols(runs: Sequence[RunReport]) -> list[str]:
    """The protocol of all runs, or one for each if they differ."""
    said = [str(run.evaluation.report.protocol) for run in runs]
    if len(set(said)) == 1:
        return said[:1]
    return [f"{run.name}: {protocol}" for run, protocol in zip(runs, said, strict=True)]


def _check_same_images(runs: Sequence[RunReport]) -> None:
    expected = [image.image_id for image in runs[0].evaluation.images]
    for run in runs[1:]:
        found = [image.image_id for image in run.evaluation.images]
        if found != expected:
            raise DataError(
                f"{run.name} was scored on {len(found)} images and {runs[0].name} on {len(expected)} others; only runs on "
                "the same images can share a report: give them the same --data, or one report each"
            )


def _examples(runs: Sequence[RunReport]) -> Iterable[Example]:
    return (example for run in runs for part in run.examples.values() for example in part)


def _one_fewer(references: str) -> str:
    """How many references remain to score one of them by; an image with a single one is left out."""
    return "–".join(dict.fromkeys(str(max(1, int(count) - 1)) for count in references.split("–")))


def _comparisons(runs: Sequence[RunReport]) -> list[tuple[str, Mapping[str, Comparison]]]:
    first = runs[0].evaluation.report
    return [(run.name, compare(first, run.evaluation.report)) for run in runs[1:]]


def _charts(runs: Sequence[RunReport]) -> list[str]:
    """One run's loss, reward, CIDEr, BLEU and ROUGE-L, with its phases; several runs' loss, reward, CIDEr, BLEU-4."""
    if len(runs) == 1:
        epochs = runs[0].epochs
        bands = list(_bands(epochs))
        others = [name for name in NAMES if name != "cider" and epochs and name in epochs[0].scores]
        several = [_line(NAMES[name], epochs, name, colour) for colour, name in enumerate(others)]
        return [
            line_chart("loss in training", [_taught("loss", epochs, 0)], bands=bands),
            line_chart("reward in training", [_taught("reward", epochs, 0)], bands=bands),
            line_chart("CIDEr ×100", [_line("CIDEr", epochs, "cider", 0)], bands=bands),
            line_chart("BLEU and ROUGE-L ×100", several, bands=bands),
        ]
    losses = [replace(_taught("loss", r.epochs, i), name=r.name) for i, r in enumerate(runs)]
    rewards = [replace(_taught("reward", r.epochs, i), name=r.name) for i, r in enumerate(runs)]
    return [
        line_chart("loss in training", losses),
        line_chart("reward in training", rewards),
        *(
            line_chart(f"{NAMES[name]} ×100", [_line(r.name, r.epochs, name, i) for i, r in enumerate(runs)])
            for name in ("cider", "bleu_4")
        ),
    ]


def _taught(what: Literal["loss", "reward"], epochs: Sequence[Epoch], colour: int) -> Series:
    """Loss or reward of the epochs that have one: self-critical phases have a reward, others a loss."""
    points = [(e.number, value) for e in epochs if (value := getattr(e, what)) is not None]
    kept = _kept(epochs)
    return Series(what, points, colour, kept if any(number == kept for number, _ in points) else None)


def _line(label: str, epochs: Sequence[Epoch], score: str, colour: int) -> Series:
    points = [(e.number, 100 * e.scores[score]) for e in epochs if score in e.scores]
    return Series(label, points, colour, _kept(epochs))


def _kept(epochs: Sequence[Epoch]) -> int | None:
    """The epoch whose weights the bundle has: the last one that was better than all before it."""
    return max((epoch.number for epoch in epochs if epoch.best), default=None)


def _bands(epochs: Sequence[Epoch]) -> Iterable[Band]:
    """The phases; those that also train the CNN are darker."""
    for phase in sorted({epoch.phase for epoch in epochs}):
        inside = [epoch for epoch in epochs if epoch.phase == phase]
        whole = inside[0].trains_encoder
        label = "CNN + decoder" if whole else "decoder"
        yield Band(inside[0].number - 0.5, inside[-1].number + 0.5, f"phase {phase}: {label}", label, strong=whole)


def _lengths(runs: Sequence[RunReport]) -> str:
    """A chart of the captions' lengths: the share of each number of words."""
    texts: list[tuple[str, TextStatistics, int | None]]
    texts = [(_label(run, runs), run.spoken, i) for i, run in enumerate(runs)]
    texts.append(("people", runs[0].written, None))
    shortest, longest = (end(end(text.lengths) for _, text, _ in texts) for end in (min, max))
    series = [
        Series(name, [(n, 100 * text.lengths.get(n, 0.0)) for n in range(shortest, longest + 1)], colour)
        for name, text, colour in texts
    ]
    return line_chart("captions by length, %", series, x_label="words")


def _surest(known: Sequence[tuple[str, Selection | None]]) -> str:
    """A chart of the CIDEr of the captions that each captioner is surest of, by their share of all."""
    series = [
        Series(name, [(100 * kept.share, 100 * kept.score) for kept in selection.surest], i)
        for i, (name, selection) in enumerate(known)
        if selection
    ]
    return line_chart("CIDEr ×100 of the surest captions", series, x_label="% of the captions")


def _label(run: RunReport, runs: Sequence[RunReport]) -> str:
    return run.name if len(runs) > 1 else "model"


def _made(run: RunReport) -> str:
    """One line that describes the run."""
    encoder = EncoderConfig.model_validate(run.recipe["encoder"]).describe()
    trained = ""
    if run.epochs:
        phases, kept = len({epoch.phase for epoch in run.epochs}), _kept(run.epochs)
        trained = f", {len(run.epochs)} epochs in {phases} phase{'s' if phases > 1 else ''}, kept: epoch {kept}"
    return f"{run.name}: recipe {run.recipe['name']}, {encoder}, decoder {run.recipe['decoder']['name']}{trained}"


def _pictures(runs: Sequence[RunReport]) -> Iterable[tuple[str, list[dict[str, Any]]]]:
    """Headings and their cards: random images with each run's caption, then each run's best and worst."""
    parts = [run.examples.get(RANDOM, ()) for run in runs]
    yield RANDOM, [_card(same, runs) for same in zip(*parts, strict=True)]
    for run in runs:
        for name, part in run.examples.items():
            if name != RANDOM:
                heading = f"{name}: {run.name}" if len(runs) > 1 else name
                yield heading, [_card([example], [run]) for example in part]


def _card(examples: Sequence[Example], runs: Sequence[RunReport]) -> dict[str, Any]:
    """One image, and each run's caption of it."""
    image = open_image(examples[0].image.path)
    return {
        "source": _inline(image),
        "name": examples[0].image.path.name,
        "text": examples[0].caption.text,
        "references": examples[0].image.captions,
        "said": [
            {"run": run.name, **_said(example, run.transform, image.size)}
            for example, run in zip(examples, runs, strict=True)
        ],
    }


def _said(example: Example, transform: ImageTransform, size: tuple[int, int]) -> dict[str, Any]:
    left, top, right, bottom = transform.crop_box(*size)
    return {
        "box": [f"{v:.4f}" for v in (left / size[0], top / size[1], right / size[0], bottom / size[1])],
        "scores": {NAMES[name]: example.scores[name] for name in _SHOWN if name in example.scores},
        "confidence": example.caption.confidence,
        "words": [
            {
                "text": word.text,
                "probability": math.exp(word.log_prob),
                "map": "" if word.attention is None else _bytes(word.attention),
                "columns": 0 if word.attention is None else word.attention.shape[1],
                "behind": behind,
            }
            for word, behind in zip(example.caption.words, _behind(example.caption), strict=True)
        ],
    }


def _behind(caption: Caption) -> Iterator[str]:
    """What follows each word in the caption's text: a space, or nothing (inside words, in scripts without spaces)."""
    end = 0
    for word in caption.words:
        end = max(end, caption.text.find(word.text, end) + len(word.text))
        yield " " if caption.text[end : end + 1] == " " else ""


def _bytes(attention: NDArray[np.float32]) -> str:
    """Weights (h,w) as one byte each, in base64; the largest is 255 if they sum to one, less if to less."""
    scaled = (attention - attention.min()) / (float(np.ptp(attention)) or 1.0) * 255 * min(1.0, float(attention.sum()))
    return base64.b64encode(scaled.round().astype(np.uint8).tobytes()).decode("ascii")


def _inline(image: Image.Image) -> str:
    """A small JPEG as a data: URL."""
    small = image.copy()
    small.thumbnail((_SIDE, _SIDE), Image.Resampling.LANCZOS)
    buffer = io.BytesIO()
    small.save(buffer, "JPEG", quality=82, optimize=True)
    return f"data:image/jpeg;base64,{base64.b64encode(buffer.getvalue()).decode('ascii')}"
