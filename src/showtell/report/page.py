"""A self-contained HTML page about a captioner: scores beside their floors, pictures with attention, the epochs."""

from __future__ import annotations

import base64
import mimetypes
from collections.abc import Iterable, Mapping, Sequence
from html import escape
from pathlib import Path

from showtell.evaluation import Evaluation
from showtell.metrics.evaluate import NAMES

Picture = tuple[Path, Path, str, Sequence[str]]  # image, attention drawing, caption, references
Epoch = tuple[int, float, Mapping[str, float], bool]  # number, loss, validation scores, best so far

_STYLE = """
:root { color-scheme: light dark; --line: #8884; --soft: #888; }
body { font: 16px/1.5 system-ui, sans-serif; max-width: 62rem; margin: 2rem auto; padding: 0 1rem; }
table { border-collapse: collapse; margin: 1rem 0; font-variant-numeric: tabular-nums; }
th, td { padding: .25rem .9rem; border-bottom: 1px solid var(--line); text-align: right; }
th:first-child, td:first-child { text-align: left; }
tr.best { font-weight: 600; }
figure { margin: 2rem 0; } figcaption { font-size: 1.1rem; } small, .soft { color: var(--soft); }
figure img { max-width: 100%; border-radius: 6px; vertical-align: top; }
.scroll { overflow-x: auto; }
"""


def write_page(
    path: Path, *, title: str, evaluation: Evaluation, pictures: Iterable[Picture], epochs: Iterable[Epoch]
) -> None:
    """Writes one HTML file that needs no other; every text in it is escaped."""
    body = (
        f"<h1>{escape(title)}</h1>"
        f"<h2>Scores</h2>{_scores(evaluation)}"
        f"<h2>Held-out pictures, and where the model looked for each word</h2>{''.join(map(_figure, pictures))}"
        f"<h2>Epochs</h2>{_epochs(epochs)}"
    )
    page = (
        '<!doctype html><html lang="en"><head><meta charset="utf-8">'
        '<meta name="viewport" content="width=device-width, initial-scale=1">'
        f"<title>{escape(title)}</title><style>{_STYLE}</style></head><body>{body}</body></html>\n"
    )
    path.write_text(page, encoding="utf-8")


def _scores(evaluation: Evaluation) -> str:
    columns = {"model": evaluation.report.scores, **{n: f.scores for n, f in evaluation.floors.items()}}
    head = "".join(f"<th>{escape(name)}</th>" for name in ["×100", *columns])
    rows = "".join(
        f"<tr><td>{NAMES[name]}</td>{''.join(f'<td>{100 * scores[name]:.1f}</td>' for scores in columns.values())}</tr>"
        for name in evaluation.report.scores
    )
    protocol = str(evaluation.report.protocol)
    constant = f"constant: “{escape(evaluation.constant)}” for every image. " if evaluation.constant else ""
    legend = f"{constant}shuffled: each caption given to another image. Protocol: {escape(protocol)}."
    return f'<div class="scroll"><table><tr>{head}</tr>{rows}</table></div><p class="soft">{legend}</p>'


def _figure(picture: Picture) -> str:
    image, drawing, caption, references = picture
    said = " · ".join(map(escape, references))
    return (
        f"<figure><figcaption>{escape(caption)}</figcaption>"
        f'<p><img src="{_inline(image)}" alt="{escape(image.name)}"></p>'
        f'<p class="scroll"><img src="{_inline(drawing)}" alt="where the model looked for each word"></p>'
        f"<small>people say: {said}</small></figure>"
    )


def _epochs(epochs: Iterable[Epoch]) -> str:
    epochs = list(epochs)
    if not epochs:
        return ""
    names = list(epochs[0][2])
    head = "".join(f"<th>{escape(name)}</th>" for name in ["epoch", "loss", *(NAMES[name] for name in names)])
    rows = "".join(
        f"<tr{' class=best' if best else ''}><td>{number}</td><td>{loss:.3f}</td>"
        f"{''.join(f'<td>{100 * scores[name]:.1f}</td>' for name in names)}</tr>"
        for number, loss, scores, best in epochs
    )
    return f'<div class="scroll"><table><tr>{head}</tr>{rows}</table></div><p class="soft">Bold: the best so far.</p>'


def _inline(path: Path) -> str:
    kind = mimetypes.guess_type(path.name)[0] or "image/png"
    return f"data:{kind};base64,{base64.b64encode(path.read_bytes()).decode('ascii')}"
