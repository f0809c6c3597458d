"""The model card, in a bundle and on the hub: what a captioner is, its training data, its scores and their protocol."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any

from showtell.config import Recipe
from showtell.errors import DataError
from showtell.metrics.evaluate import NAMES, Protocol

# Metrics that have another name on the hub.
_TYPES = {"rouge_l": "rouge", "clip_s": "clip_score", "ref_clip_s": "ref_clip_score"}


@dataclass(frozen=True)
class Scored:
    """Scores with the protocol that makes them comparable; intervals and floors where they are known."""

    scores: Mapping[str, float]
    protocol: Protocol
    intervals: Mapping[str, Sequence[float]] = field(default_factory=dict)
    floors: Mapping[str, Mapping[str, float]] = field(default_factory=dict)

    @classmethod
    def read(cls, value: Mapping[str, Any], *, where: str) -> Scored:
        """Reads what `showtell evaluate --json` printed. `DataError` for anything else; `where` names it."""
        try:
            protocol = Protocol.from_dict(value["protocol"])
            scores = {name: float(value[name]) for name in NAMES if name in value}
            intervals = {name: (float(low), float(high)) for name, (low, high) in value.get("intervals", {}).items()}
            floors = {
                str(kind): {name: float(score) for name, score in floor.items()}
                for kind, floor in value.get("floors", {}).items()
            }
        except (AttributeError, KeyError, TypeError, ValueError):
            scores = {}
        if not scores:
            raise DataError(
                f"{where} holds no scores with their protocol; expected what  showtell evaluate --json  prints"
            )
        return cls(scores, protocol, intervals, floors)


def model_card(
    recipe: Recipe,
    training: Mapping[str, Any],
    *,
    decoding: Mapping[str, Any] | None = None,
    evaluations: Sequence[Scored] = (),
    source: str = "path/to/this/folder",
    license: str = "",
    datasets: Sequence[str] = (),
    precision: str = "",
) -> str:
    """README.md of a captioner that `source` loads.

    `training` holds the data set's name, the epoch, what it was made with, and the validation scores with their
    protocol (nothing, where this was not recorded); `decoding` holds those of a decoding chosen later, if one was.
    `evaluations` are shown beside them. `precision` is that of an exported captioner.
    """
    known = [*evaluations]
    tables = [_table(scored) for scored in evaluations]
    for what, record in (("decoding", decoding or {}), ("epoch", training)):
        if record.get("scores"):
            chosen = Scored(record["scores"], Protocol.from_dict(record["protocol"]))
            if what == "epoch" and decoding and chosen.protocol == Protocol.from_dict(decoding["protocol"]):
                continue  # the chosen decoding is the one it had already
            known.append(chosen)
            tables.append(f"{_table(chosen)}\nThe {what} was chosen by these scores, so they flatter it a little.")
    separator = "\n\n"
    return f"""---
{_front_matter(recipe, known, license=license, datasets=datasets, onnx=bool(precision))}
---
# {_title(recipe, training)}

{_what(recipe, training, precision)}

```python
from showtell import Captioner

print(Captioner.load("{source}").caption(["photo.jpg"])[0].text)
```

## Scores

{separator.join(tables) or "Not recorded."}

## What it is for

First drafts of alternative texts, and captions to find photos by, for photos like those that it was trained on; a baseline
for research. Somebody reads a caption before it is published. It is not for decisions about people, nor for telling who they are.

## Limits

It says what its training captions taught it to say: names, numbers, text in pictures and rare things are beyond it, and what
those captions assumed about people, it assumes. A wrong caption reads as sure as a right one; of those
with a higher confidence more are right, and a single one may still be wrong. On photos of another kind than those of the
data set the scores above do not hold.
{_terms(license)}"""


def _title(recipe: Recipe, training: Mapping[str, Any]) -> str:
    """The recipe's name, and the data set's unless the former contains it."""
    dataset = str(training.get("dataset") or "")
    return recipe.name if dataset.lower() in ("", *recipe.name.split("-")) else f"{recipe.name}, trained on {dataset}"


def _what(recipe: Recipe, training: Mapping[str, Any], precision: str) -> str:
    encoder, decoder = recipe.encoder, recipe.decoder
    source = "timm's of that name" if encoder.pretrained else ""
    if training.get("encoder_weights"):
        source = f"those of the file `{training['encoder_weights']}`"
    if recipe.train.start:
        source = f"those of another captioner (`{recipe.train.start}`), as the decoder's did"
    weights = f"its weights began as {source}" if source else "trained from scratch"
    lines = [
        f"An image captioner: the encoder {encoder.describe('`')}, {weights}, and the decoder `{decoder.name}` "
        f"({decoder.hidden} hidden units)."
    ]
    if training.get("dataset"):
        lines.append(
            f"Trained on {training['train_images']} images of {training['dataset']}; epoch {training['epoch']}, kept for its "
            "CIDEr on the validation split."
            if training["epoch"]
            else f"No epoch of training on {training['train_images']} images of {training['dataset']} made the captioner that it began with better."
        )
    begun = recipe.train.phases[: training.get("phase", 0)]
    if any(phase.objective == "distillation" for phase in begun) and (names := recipe.train.teachers):
        whom = "another captioner says" if len(names) == 1 else f"{len(names)} captioners say together"
        public = ", ".join(f"`{name}`" for name in names if "/" in name)  # of a folder, only the last part is known
        lines.append(f"It learned to say what {whom}{public and f' ({public})'}.")
    if made := training.get("made_with"):
        several = f", {made['processes']} processes" * (made["processes"] > 1)
        lines.append(
            f"Made with showtell {made['showtell']}, torch {made['torch']} and timm {made['timm']}, on {made['device']}{several}."
        )
    if precision:
        lines.append(f"Exported as ONNX, the encoder in {precision}; it runs without torch.")
    return "\n".join(lines)


def _table(scored: Scored) -> str:
    """A table of scores, ×100, and their protocol."""
    columns = ["score ×100", "value"] + (["95 % interval"] if scored.intervals else [])
    columns += [f"{kind} floor" for kind in scored.floors]
    rows = [f"| {' | '.join(columns)} |", f"| --- |{' ---: |' * (len(columns) - 1)}"]
    for name, value in scored.scores.items():
        cells = [NAMES[name], f"{100 * value:.2f}"]
        if scored.intervals:
            cells.append(" – ".join(f"{100 * bound:.2f}" for bound in scored.intervals.get(name, ())) or "–")
        cells += [f"{100 * floor[name]:.2f}" if name in floor else "–" for floor in scored.floors.values()]
        rows.append(f"| {' | '.join(cells)} |")
    legend = [str(scored.protocol)]
    if scored.intervals:
        legend.append("The interval holds 95 % of the scores when the images are drawn again, with replacement.")
    if scored.floors:
        legend.append(
            "Floors: one caption for every image (constant), and its own captions on other images (shuffled)."
        )
    return "\n".join(rows) + "\n\n" + "\n".join(legend)


def _terms(license: str) -> str:
    if not license:
        return ""
    return f"""
## Terms

The licence of these files is `{license}`. The images and captions that it learnt from, and the encoder's first weights, have
terms of their own.
"""


def _front_matter(recipe: Recipe, known: Sequence[Scored], *, license: str, datasets: Sequence[str], onnx: bool) -> str:
    """The hub's metadata as YAML."""
    from huggingface_hub import EvalResult, ModelCardData

    results = [
        EvalResult(
            task_type="image-to-text", task_name="Image captioning", dataset_type=scored.protocol.dataset,
            dataset_name=scored.protocol.dataset, dataset_split=scored.protocol.split,
            metric_type=_TYPES.get(name, name.split("_")[0]), metric_name=f"{NAMES[name]} ×100",
            metric_value=round(100 * value, 2),
        )
        for scored in known
        for name, value in scored.scores.items()
    ]  # fmt: skip
    began_with = recipe.train.start.partition("@")[0]  # a folder's name, without its path, or user/name on the hub
    data = ModelCardData(
        base_model=began_with if "/" in began_with else None,
        library_name="showtell",
        pipeline_tag="image-to-text",
        license=license or None,
        datasets=list(datasets) or None,
        tags=["image-captioning", *recipe.encoder.names(), f"{recipe.decoder.name}-decoder", *["onnx"] * onnx],
        model_name=recipe.name if results else None,
        eval_results=results or None,
    )
    return data.to_yaml().strip()
