"""Markers that programs put around captions: not words, and if counted as words they inflate every score."""

from __future__ import annotations

import re
import string
from collections.abc import Iterable, Sequence

_BEGIN = r"startseq(?!\w)|<startseq>|<start>|<s>|<sos>|<bos>|\[CLS\]|\[SOS\]|\[BOS\]|<\|startoftext\|>|<\|endoftext\|>"
_END = r"(?<!\w)endseq|<endseq>|<end>|</s>|<eos>|<pad>|\[SEP\]|\[EOS\]|\[PAD\]|<\|endoftext\|>"
_AT_THE_BEGINNING = re.compile(rf"\s*({_BEGIN})\s*", re.IGNORECASE)
_AT_THE_END = re.compile(rf"({_END})[\s.]*\Z", re.IGNORECASE)
_LONGEST = 20  # letters


def find_markers(captions: Iterable[str]) -> tuple[str, ...]:
    """The markers around captions, if at least half of the captions begin, or end, with one; else none."""
    begun = ended = count = 0
    names: dict[str, None] = {}
    for caption in captions:
        before, _, behind = _parted(caption)
        begun, ended, count = begun + bool(before), ended + bool(behind), count + 1
        names |= {name.lower() if name[0] != "[" else name.upper(): None for name in (*before, *behind)}
    return tuple(names) if count and 2 * max(begun, ended) >= count else ()


def without_markers(caption: str) -> str:
    """The caption without any markers around it and full stops after them; empty if there is nothing else."""
    return _parted(caption)[1]


def told(markers: Sequence[str], *, of: str) -> str:
    """A sentence that says which markers were removed, and `of` what, such as "the captions"."""
    names = ", ".join(f"'{marker}'" for marker in markers)
    return f"{of} begin or end with {names}: markers, no words, which would raise every score; they are removed"


def _parted(caption: str) -> tuple[list[str], str, list[str]]:
    """The markers before a caption, the caption, and the markers after it."""
    before, behind = list[str](), list[str]()
    while match := _AT_THE_BEGINNING.match(caption):
        before.append(match[1])
        caption = caption[match.end() :]
    while match := _last(caption):
        behind.insert(0, match[1])
        caption = caption[: match.start()]
    return before, caption.strip(), behind


def _last(caption: str) -> re.Match[str] | None:
    spoken = len(caption.rstrip(f"{string.whitespace}."))
    return _AT_THE_END.search(caption, max(0, spoken - _LONGEST))  # ten times faster than searching all of it
