"""Markers that programs put around captions: no words, and a present to every score that counts them as such."""

from __future__ import annotations

import re
from collections.abc import Iterable

_BEGIN = r"startseq(?!\w)|<startseq>|<start>|<s>|<sos>|<bos>|\[CLS\]|\[SOS\]|\[BOS\]|<\|startoftext\|>|<\|endoftext\|>"
_END = r"(?<!\w)endseq|<endseq>|<end>|</s>|<eos>|\[SEP\]|\[EOS\]|<\|endoftext\|>"
_AT_THE_BEGINNING = re.compile(rf"\s*({_BEGIN})\s*", re.IGNORECASE)
_AT_THE_END = re.compile(rf"({_END})\s*\Z", re.IGNORECASE)
_LONGEST = 20  # letters


def find_markers(captions: Iterable[str]) -> tuple[str, ...]:
    """The markers that captions begin or end with, where at least half of the captions begin with one, or end with one; else none."""
    begun = ended = count = 0
    names: dict[str, None] = {}
    for caption in captions:
        first, last = _AT_THE_BEGINNING.match(caption), _last(caption)
        begun, ended, count = begun + (first is not None), ended + (last is not None), count + 1
        names |= {
            match[1].lower() if match[1][0] != "[" else match[1].upper(): None for match in (first, last) if match
        }
    return tuple(names) if count and 2 * max(begun, ended) >= count else ()


def without_markers(caption: str) -> str:
    """The caption without markers around it, however many there are; a caption of markers alone becomes empty."""
    while match := _AT_THE_BEGINNING.match(caption):
        caption = caption[match.end() :]
    while match := _last(caption):
        caption = caption[: match.start()]
    return caption.strip()


def _last(caption: str) -> re.Match[str] | None:
    return _AT_THE_END.search(
        caption, max(0, len(caption.rstrip()) - _LONGEST)
    )  # a tenth of the time that all of it takes
