"""Response models, and captions put into them."""

from __future__ import annotations

import math
from typing import Any

from pydantic import BaseModel, Field

from showtell.captioning import Caption, Word
from showtell.images import ImageTransform


class WordAnswer(BaseModel):
    """A word, and where the model looked for it."""

    text: str
    probability: float
    log_prob: float
    attention: list[list[float]] | None = Field(
        None, description="rows of a grid over view.box, summing to one or less"
    )


class CaptionAnswer(BaseModel):
    """A caption; its probability includes that of ending here."""

    text: str
    probability: float
    log_prob: float
    confidence: float = Field(
        description="the geometric mean of the words' probabilities and that of ending here, 0 to 1: comparable across lengths"
    )
    score: float = Field(
        description="what captions were ranked by: log_prob, normalised by the length, or what it is worth to the others of a consensus, 0 to 10"
    )
    words: list[WordAnswer]


class View(BaseModel):
    """The photo's size in pixels, upright, and the part of it that the model saw."""

    width: int
    height: int
    box: tuple[float, float, float, float] = Field(description="left, top, right, bottom")


class Problem(BaseModel):
    """Why something was refused; codes are stable, messages may change."""

    code: str
    message: str


class Result(BaseModel):
    """One image: its captions, best score first, or why it has none."""

    name: str
    captions: list[CaptionAnswer] | None = None
    view: View | None = None
    error: Problem | None = None


class Model(BaseModel):
    """The captioner: its recipe's name, showtell's version, and a hash of the folder's files."""

    name: str
    version: str
    digest: str


class Answer(BaseModel):
    """The captions of a request's images, in the same order."""

    model: Model
    results: list[Result]


class Refusal(BaseModel):
    """The body of any answer but a 200, unless it is an `AllRefused`."""

    error: Problem


class AllRefused(Refusal):
    """The answer where none of a request's images has captions; the request's error is that of the first."""

    model: Model
    results: list[Result]


def result_of(
    name: str, size: tuple[int, int], best: Caption, *, n: int, attention: bool, transform: ImageTransform
) -> dict[str, Any]:
    """The `Result`, as JSON, of an image of `size` (width, height), with at most `n` captions."""
    captions = [best, *best.alternatives][:n]
    view = {"width": size[0], "height": size[1], "box": list(transform.crop_box(*size))}
    return {"name": name, "captions": [_caption(caption, attention) for caption in captions], "view": view}


def _caption(caption: Caption, attention: bool) -> dict[str, Any]:
    return {
        "text": caption.text,
        **_sure(caption.log_prob),
        "confidence": float(f"{caption.confidence:.6g}"),
        "score": caption.score,
        "words": [_word(word, attention) for word in caption.words],
    }


def _word(word: Word, attention: bool) -> dict[str, Any]:
    value = {"text": word.text, **_sure(word.log_prob)}
    if attention and word.attention is not None:
        value["attention"] = [[round(float(x), 5) for x in row] for row in word.attention]
    return value


def _sure(log_prob: float) -> dict[str, float]:
    return {"probability": float(f"{math.exp(log_prob):.6g}"), "log_prob": log_prob}
