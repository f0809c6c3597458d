"""Compares two evaluations on the same images: how far apart their scores are, and how certain that is."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import asdict, dataclass, replace
from typing import Any

from showtell.errors import DataError
from showtell.metrics import Comparison, Report, compare, evaluate, verdict
from showtell.metrics.evaluate import NAMES, OF_IMAGES
from showtell.metrics.java import METRICS
from showtell.scores import Evaluation


@dataclass(frozen=True)
class Against:
    """The scores of `own` minus those of `other`; both reports are on the same images."""

    name: str  # of the other one
    own: Report
    other: Report
    differences: Mapping[str, Comparison]
    alone: tuple[int, int]  # how many images each was scored on by itself

    def to_dict(self) -> dict[str, Any]:
        """For --json: the other one's scores, and the differences by score."""
        differences = {name: asdict(difference) for name, difference in self.differences.items()}
        return {
            "name": self.name, "images": self.other.images, "scores": dict(self.other.scores), "differences": differences,
        }  # fmt: skip

    def lines(self) -> list[str]:
        """For people: both scores, their difference, its interval and p; then what is significant."""
        head = f"{'(×100)':9s}{'this':>9s}{'other':>9s}{'difference':>12s}{'95 % of draws':>20s}{'p':>8s}"
        rows = [
            f"{NAMES[name]:9s}{100 * self.own.scores[name]:9.2f}{100 * self.other.scores[name]:9.2f}"
            f"{100 * found.difference:+12.2f}{f'{100 * found.low:+.2f} … {100 * found.high:+.2f}':>20s}{found.p:8.3f}"
            for name, found in self.differences.items()
        ]
        some = [f"on the {self.own.images} images that both have, of {' and '.join(map(str, self.alone))}"]
        return [
            f"against {self.name}",
            head,
            *rows,
            *some * (set(self.alone) != {self.own.images}),
            f"this: {verdict(self.differences)}",
        ]


def compare_evaluations(own: Evaluation, other: Evaluation, *, name: str) -> Against:
    """The difference of two evaluations of a split, on the images that both have; `DataError` where there is none."""
    places = {image.image_id: place for place, image in enumerate(other.images)}
    both = [image.image_id for image in own.images if image.image_id in places]
    if not both:
        raise DataError(f"{name} has captions of none of the images that are scored; expected the same split")
    this, that = _of(own, both), _of(other, both)
    return Against(name, this, that, compare(that, this), (len(own.images), len(other.images)))


def _of(evaluation: Evaluation, image_ids: list[str]) -> Report:
    """The report on some of an evaluation's images, in that order."""
    if [image.image_id for image in evaluation.images] == image_ids:
        return evaluation.report
    report = evaluation.report
    place = {image.image_id: number for number, image in enumerate(evaluation.images)}
    places = [place[image_id] for image_id in image_ids]
    return evaluate(
        [evaluation.candidates[i] for i in places], [evaluation.images[i].captions for i in places],
        protocol=replace(report.protocol, images=len(image_ids)), more=[name for name in METRICS if name in report.scores],
        further={name: [report.each[name][i] for i in places] for name in OF_IMAGES if name in report.each},
    )  # fmt: skip
