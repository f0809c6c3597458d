"""What an evaluation found: scores beside their floors, told to people as tables and to programs as JSON. No torch here."""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass, field
from functools import cached_property
from typing import Any

from showtell.data.annotations import CaptionedImage
from showtell.metrics import (
    Interval,
    Kept,
    Ranked,
    Report,
    Selection,
    SetScores,
    TextStatistics,
    bootstrap,
    keep_above,
    select_surest,
)
from showtell.metrics.confidence import SHARES
from showtell.metrics.evaluate import NAMES


@dataclass(frozen=True)
class Several:
    """What several captions an image are worth, and people's beside them."""

    own: SetScores
    people: SetScores | None  # None where no image has two references
    short: int = 0  # images with fewer captions, which were repeated from the first

    def to_dict(self) -> dict[str, Any]:
        """For --json."""
        people = {} if self.people is None else {"people": asdict(self.people)}
        return asdict(self.own) | {"images_with_fewer": self.short} | people

    def lines(self) -> list[str]:
        """For people: a table of the scores, and one of how much the captions differ."""
        own, people, n = self.own, self.people, self.own.n
        head = f"{f'of the {n} captions':24s}{'first':>9s}{'mean':>9s}{'best':>9s}"
        scores = [_cells(name, [score.first, score.mean, score.best]) for name, score in _scored(own).items()]
        differ = f"{'how they differ':24s}{'these':>9s}"
        spread = [_cells(name, [value]) for name, value in _spread(own).items()]
        legend = [
            "first, mean, best: of each image's captions, averaged over images; BLEU-4 too, so it is not the corpus's",
            "mBLEU-4 is low where captions differ, the others are high",
        ]
        legend += [f"{self.short} images have fewer than {n} captions, which count again from the first"] * (
            self.short > 0
        )
        if people is not None:
            head += f"{'people: mean':>16s}{'best':>9s}"
            ranked = zip(scores, _scored(people).values(), strict=True)
            scores = [f"{row}{100 * score.mean:16.2f}{100 * score.best:9.2f}" for row, score in ranked]
            differ += f"{'people':>9s}"
            spread = [f"{row}{100 * value:9.2f}" for row, value in zip(spread, _spread(people).values(), strict=True)]
            legend.append(f"people: {people.n} references of an image, each scored against its others")
        return [head, *scores, differ, *spread, *legend]


def _scored(scores: SetScores) -> dict[str, Ranked]:
    return {"CIDEr": scores.cider, "BLEU-4 of each image": scores.bleu_4}


def _spread(scores: SetScores) -> dict[str, float]:
    return {
        "distinct captions": scores.distinct, "Div-1": scores.div_1, "Div-2": scores.div_2,
        "mBLEU-4": scores.mbleu_4, "self-CIDEr": scores.self_cider,
    }  # fmt: skip


def _cells(name: str, values: Sequence[float]) -> str:
    return f"{name:24s}" + "".join(f"{100 * value:9.2f}" for value in values)


@dataclass(frozen=True)
class Evaluation:
    """A report and, for a bundle, the reports of its floors: "constant" and "shuffled"."""

    report: Report
    floors: Mapping[str, Report] = field(default_factory=dict)
    constant: str = ""  # the caption behind floors["constant"]
    failures: tuple[str, ...] = ()  # images of the split that were left out, and why
    images: tuple[CaptionedImage, ...] = ()
    candidates: tuple[str, ...] = ()  # one per image, in the order of `images`
    spoken: TextStatistics | None = None  # of the candidates; None without a train split to compare with
    written: TextStatistics | None = None  # of people's captions, the split's first references
    several: Several | None = None  # where there are several captions an image
    alternatives: tuple[tuple[str, ...], ...] = ()  # each image's captions after its candidate, if there are several
    confidences: tuple[float, ...] = ()  # of a captioner in its candidates
    least: float | None = None  # the captions of at least this confidence are also scored by themselves

    @cached_property
    def intervals(self) -> Mapping[str, Interval]:
        """Score name -> its 95 % bootstrap interval over the images."""
        return bootstrap(self.report)

    def selection(self, shares: Sequence[float] = SHARES) -> Selection | None:
        """What the captioner's confidence says of its captions' CIDEr, as `select_surest` does; None for predictions."""
        if not self.confidences:
            return None
        return select_surest(self.confidences, self.report.each["cider"], shares=shares)

    @property
    def confident(self) -> Kept | None:
        """The captions of at least the confidence `least`, if one is asked for."""
        if self.least is None or not self.confidences:
            return None
        return keep_above(self.confidences, self.report.each["cider"], self.least)

    def to_dict(self) -> dict[str, Any]:
        """For --json: the scores by name, with their 95 % intervals and the protocol."""
        result: dict[str, Any] = {**self.report.scores, "protocol": self.report.protocol.to_dict()}
        result["intervals"] = {name: [interval.low, interval.high] for name, interval in self.intervals.items()}
        if self.floors:
            result["floors"] = {name: dict(floor.scores) for name, floor in self.floors.items()}
        if self.constant:
            result["constant_caption"] = self.constant
        if self.report.notes:
            result["notes"] = list(self.report.notes)
        if self.spoken and self.written:
            result["captions"] = {"candidates": asdict(self.spoken), "people": asdict(self.written)}
        if self.several is not None:
            result["several"] = self.several.to_dict()
        if known := self.selection():
            between = {"rank_correlation": known.correlation, "interval": [known.low, known.high]}
            result["selection"] = {**between, "surest": [_told(kept) for kept in known.surest]}
        if asked := self.confident:
            result["confident"] = _told(asked)
        if self.failures:
            result["left_out"] = list(self.failures)
        return result

    def lines(self) -> list[str]:
        """For people: a table of the scores beside their floors, then the protocol."""
        columns = {"score": self.report, **{f"{name} floor": floor for name, floor in self.floors.items()}}
        first, *others = columns
        head = f"{'(×100)':9s}{first:>9s}{'95 % of draws':>18s}" + "".join(f"{name:>16s}" for name in others)
        table = [
            f"{NAMES[name]:9s}{100 * self.report.scores[name]:9.2f}{_between(self.intervals[name]):>18s}"
            + "".join(_cell(floor.scores.get(name)) for floor in self.floors.values())
            for name in self.report.scores
        ]
        legend = ["95 % of draws: where the score lies when the images are drawn again, with replacement"]
        legend += [f'constant floor: "{self.constant}" for every image'] if self.constant else []
        if "shuffled" in self.floors:
            legend.append("shuffled floor: each image's caption given to another image")
        said = _statistics(self.spoken, self.written) if self.spoken and self.written else []
        several = self.several.lines() if self.several is not None else []
        return [
            head,
            *table,
            *legend,
            *said,
            *self._surest(),
            *several,
            *self.report.notes,
            f"protocol: {self.report.protocol}",
        ]

    def _surest(self) -> list[str]:
        """A table of the CIDEr of the captions that the captioner is surest of."""
        known, asked = self.selection(), self.confident
        rows = [_row(f"surest {100 * kept.share:.0f} %", kept) for kept in (known.surest if known else ())]
        if asked and asked.images:
            rows.append(_row(f"as asked: {asked.images} of {len(self.images)}", asked))
        if rows:
            head = f"{'captions kept':24s}{'CIDEr':>9s}{'95 % of draws':>18s}{'confidence':>16s}"
            rows = [head, f"{'all':24s}{100 * self.report.scores['cider']:9.2f}", *rows]
        if asked and not asked.images:
            rows.append(
                f"no caption has a confidence of {asked.confidence:g} or more; the greatest is {max(self.confidences):.3f}"
            )
        if known:
            rows.append(
                "confidence: the geometric mean of the probabilities of a caption's words and end; rank correlation with "
                f"CIDEr {known.correlation:.2f} ({known.low:.2f} – {known.high:.2f})"
            )
        return rows


def _statistics(spoken: TextStatistics, written: TextStatistics) -> list[str]:
    """A table of the captions' statistics beside those of people's captions."""
    rows = {
        "end in half sentences": [f"{100 * s.unfinished:.1f} %" for s in (spoken, written)],
        "copy a training caption": [f"{100 * s.copies:.1f} %" for s in (spoken, written)],
        "distinct captions": [f"{100 * s.distinct:.1f} %" for s in (spoken, written)],
        "different words": [str(s.vocabulary) for s in (spoken, written)],
        "words a caption": [f"{s.mean_length:.1f}" for s in (spoken, written)],
    }
    head = f"{'captions':24s}{'these':>9s}{'people':>9s}"
    return [head, *(f"{name:24s}{own:>9s}{people:>9s}" for name, (own, people) in rows.items())]


def _row(name: str, kept: Kept) -> str:
    least = math.floor(1000 * kept.confidence + 1e-6) / 1000  # who takes this number keeps at least these captions
    return f"{name:24s}{100 * kept.score:9.2f}{_between(kept):>18s}{f'{least:.3f} or more':>16s}"


def _told(kept: Kept) -> dict[str, Any]:
    """For JSON."""
    told: dict[str, Any] = {"confidence": kept.confidence, "images": kept.images, "share": kept.share}
    return told | ({"cider": kept.score, "interval": [kept.low, kept.high]} if kept.images else {})


def _cell(score: float | None) -> str:
    return f"{'–' if score is None else f'{100 * score:.2f}':>16s}"


def _between(interval: Interval | Kept) -> str:
    return f"{100 * interval.low:.2f} – {100 * interval.high:.2f}"
