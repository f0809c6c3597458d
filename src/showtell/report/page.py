"""One self-contained HTML file about one or more runs: no other file, no network."""

from __future__ import annotations

import base64
import io
import math
from collections.abc import Iterable, Mapping, Sequence
from pathlib import Path
from typing import Any

import jinja2
import numpy as np
from markupsafe import Markup
from numpy.typing import NDArray
from PIL import Image

import showtell
from showtell.errors import DataError
from showtell.images import ImageTransform, open_image
from showtell.metrics import Comparison, compare
from showtell.metrics.evaluate import NAMES
from showtell.report.charts import Band, Series, line_chart
from showtell.report.collect import Epoch, Example, RunReport

_SIDE = 360  # pixels of a photo's longer side, as it lies in the page
_BAND = 6  # colours that the page has


def write_page(path: Path, runs: Sequence[RunReport], *, title: str) -> None:
    """Writes the report of runs that were scored on the same images; `DataError` where they were not."""
    _check_same_images(runs)
    first = runs[0]
    people = first.people
    environment = jinja2.Environment(
        loader=jinja2.PackageLoader("showtell.report", "."), autoescape=True, undefined=jinja2.StrictUndefined
    )
    environment.filters["percent"] = lambda value: f"{100 * value:.1f}"
    page = environment.get_template("page.html.j2").render(
        title=title,
        runs=runs,
        scores=list(first.evaluation.report.scores),
        names=NAMES,
        floors=list(first.evaluation.floors),
        people=people,
        fewer=_one_fewer(first.evaluation.report.protocol.references_per_image),
        comparisons=_comparisons(runs),
        charts=[Markup(chart) for chart in _charts(runs) if chart],  # noqa: S704 (made by line_chart, which escapes)
        shaded=len(runs) == 1 and any(epoch.trains_encoder for epoch in first.epochs),
        texts=[*(run.spoken for run in runs), first.written],
        pictures=[_pictures(run) for run in runs],
        version=showtell.__version__,
    )
    temporary = path.with_name(path.name + ".tmp")
    temporary.write_text(page, encoding="utf-8")
    temporary.replace(path)


def _check_same_images(runs: Sequence[RunReport]) -> None:
    expected = [image.image_id for image in runs[0].evaluation.images]
    for run in runs[1:]:
        found = [image.image_id for image in run.evaluation.images]
        if found != expected:
            raise DataError(
                f"{run.name} was scored on {len(found)} images and {runs[0].name} on {len(expected)} others; only runs on "
                "the same images can share a report: give them the same --data, or one report each"
            )


def _one_fewer(references: str) -> str:
    return "–".join(str(int(count) - 1) for count in references.split("–"))


def _comparisons(runs: Sequence[RunReport]) -> list[tuple[str, Mapping[str, Comparison]]]:
    first = runs[0].evaluation.report
    return [(run.name, compare(first, run.evaluation.report)) for run in runs[1:]]


def _charts(runs: Sequence[RunReport]) -> list[str]:
    """Of one run: loss, CIDEr, BLEU and ROUGE-L, with its phases; of several: loss, CIDEr, BLEU-4, side by side."""
    if len(runs) == 1:
        epochs = runs[0].epochs
        bands = list(_bands(epochs))
        others = [name for name in NAMES if name != "cider" and epochs and name in epochs[0].scores]
        several = [_line(NAMES[name], epochs, name, colour) for colour, name in enumerate(others)]
        return [
            line_chart("loss in training", [Series("loss", [(e.number, e.loss) for e in epochs])], bands=bands),
            line_chart("CIDEr ×100", [_line("CIDEr", epochs, "cider", 0)], bands=bands),
            line_chart("BLEU and ROUGE-L ×100", several, bands=bands),
        ]
    losses = [Series(r.name, [(e.number, e.loss) for e in r.epochs], i % _BAND) for i, r in enumerate(runs)]
    return [
        line_chart("loss in training", losses),
        *(
            line_chart(f"{NAMES[name]} ×100", [_line(r.name, r.epochs, name, i % _BAND) for i, r in enumerate(runs)])
            for name in ("cider", "bleu_4")
        ),
    ]


def _line(label: str, epochs: Iterable[Epoch], score: str, colour: int) -> Series:
    return Series(label, [(e.number, 100 * e.scores[score]) for e in epochs if score in e.scores], colour)


def _bands(epochs: Sequence[Epoch]) -> Iterable[Band]:
    """The phases that train the CNN."""
    for phase in sorted({epoch.phase for epoch in epochs if epoch.trains_encoder}):
        numbers = [epoch.number for epoch in epochs if epoch.phase == phase]
        yield Band(min(numbers) - 0.5, max(numbers) + 0.5, f"phase {phase}: CNN + LSTM")


def _pictures(run: RunReport) -> dict[str, list[dict[str, Any]]]:
    return {name: [_card(example, run.transform) for example in part] for name, part in run.examples.items()}


def _card(example: Example, transform: ImageTransform) -> dict[str, Any]:
    image = open_image(example.image.path)
    left, top, right, bottom = transform.crop_box(*image.size)
    return {
        "source": _inline(image),
        "box": [
            f"{v:.4f}" for v in (left / image.width, top / image.height, right / image.width, bottom / image.height)
        ],
        "name": example.image.path.name,
        "text": example.caption.text,
        "cider": example.cider,
        "references": example.image.captions,
        "words": [
            {
                "text": word.text,
                "probability": math.exp(word.log_prob),
                "map": "" if word.attention is None else _bytes(word.attention),
                "columns": 0 if word.attention is None else word.attention.shape[1],
            }
            for word in example.caption.words
        ],
    }


def _bytes(attention: NDArray[np.float32]) -> str:
    """Weights (h,w) -> one byte each, in base64: the largest is 255 where they sum to one, less where to less."""
    scaled = (attention - attention.min()) / (float(np.ptp(attention)) or 1.0) * 255 * min(1.0, float(attention.sum()))
    return base64.b64encode(scaled.round().astype(np.uint8).tobytes()).decode("ascii")


def _inline(image: Image.Image) -> str:
    """A small JPEG as a data address."""
    small = image.copy()
    small.thumbnail((_SIDE, _SIDE), Image.Resampling.LANCZOS)
    buffer = io.BytesIO()
    small.save(buffer, "JPEG", quality=82, optimize=True)
    return f"data:image/jpeg;base64,{base64.b64encode(buffer.getvalue()).decode('ascii')}"
