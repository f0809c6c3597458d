"""Captions for mirrored pictures: "left" and "right" change places."""

from __future__ import annotations

import functools
import re
from collections.abc import Sequence

_PAIRS = (
    ("left", "right"), ("leftmost", "rightmost"), ("leftward", "rightward"), ("leftwards", "rightwards"),
    ("lefthand", "righthand"), ("clockwise", "counterclockwise"),
    ("links", "rechts"), ("linke", "rechte"), ("linken", "rechten"), ("linker", "rechter"), ("linkes", "rechtes"),
    ("gauche", "droite"), ("izquierda", "derecha"), ("izquierdo", "derecho"), ("esquerda", "direita"), ("sinistra", "destra"),
    ("vänster", "höger"), ("слева", "справа"), ("왼쪽", "오른쪽"), ("左", "右"), ("ซ้าย", "ขวา"),
)  # fmt: skip
_SWAP = {a: b for pair in _PAIRS for a, b in (pair, pair[::-1])}
_WORD = re.compile(r"[^\W\d_]+")
# Where "right" or "left" may mean something else (right behind, all right, has left, left over), or the picture shows
# what cannot be mirrored (letters, numbers, east and west), the sample is not mirrored at all: rare, and never wrong.
# Nor is it in scripts without spaces, where the words cannot be told apart.
_UNSAFE = re.compile(
    r"\b(?:right (?:now|away|behind|before|after|next|beside|above|below|under|through|in front|at|up|into|there|here)"
    r"|all right|just right|(?:is|are|was|were|has|have|had|been|being) left\b(?!\s*(?:of|side))|left (?:over|behind|alone|out|open)"
    r"|leaves|leaving|letters?|numbers?|words?|(?:north|south)?-?(?:east|west)(?:ern|wards?)?|sign|signs|text|says|saying|reads|reading|written|logo|banner)\b"
    r"|[左右]|ซ้าย|ขวา",
    re.IGNORECASE,
)


@functools.cache  # training asks for the same captions every epoch
def mirrorable(caption: str) -> bool:
    """Whether `mirror_caption` can make the caption true of the mirrored picture."""
    return _UNSAFE.search(caption) is None


@functools.cache
def mirror_caption(caption: str) -> str:
    """The caption of the mirrored picture: words for left and right swapped, their case kept."""
    return _WORD.sub(lambda match: _swapped(match[0]), caption)


def mirror_ids(tokens: Sequence[str]) -> list[int]:
    """For each token of a vocabulary, the id of its mirrored token; its own id where there is none."""
    places = {token: i for i, token in enumerate(tokens)}
    return [places.get(mirror_caption(token), i) for i, token in enumerate(tokens)]


def _swapped(word: str) -> str:
    other = _SWAP.get(word.lower())
    if other is None:
        return word
    return other.upper() if word.isupper() else other.capitalize() if word[0].isupper() else other
