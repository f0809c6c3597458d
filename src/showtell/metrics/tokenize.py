"""PTB tokenization as coco-caption has it: Stanford's PTBTokenizer, lower case, punctuation removed; without Java."""

from __future__ import annotations

import re
from functools import lru_cache

# coco-caption removes these; brackets stay, as "-lrb-" (its list has them in upper case, the tokens are in lower case).
PUNCTUATION = frozenset(["''", "'", "``", "`", ".", "?", "!", ",", ":", "-", "--", "...", ";"])
_BRACKETS = {"(": "-lrb-", ")": "-rrb-", "[": "-lsb-", "]": "-rsb-", "{": "-lcb-", "}": "-rcb-"}
_ABBREVIATIONS = [
    "mr",
    "mrs",
    "ms",
    "dr",
    "prof",
    "st",
    "jr",
    "sr",
    "vs",
    "etc",
    "inc",
    "ltd",
    "co",
    "corp",
    "mt",
    "ft",
    "gen",
    "col",
    "capt",
    "lt",
    "sgt",
    "rev",
    "hon",
    "no",
    "vol",
    "approx",
    "dept",
    "est",
    "ave",
    "blvd",
]

_TOKEN = re.compile(
    rf"""
      (?:https?://|www\.)\S+                                  # addresses
    | [a-z0-9_.+-]+@[a-z0-9-]+(?:\.[a-z0-9-]+)+
    | [a-z0-9-]+(?:\.[a-z0-9-]+)*\.(?:com|org|net|edu|gov)\b   # example.com
    | (?:[a-z]\.){{2,}}                                         # u.s.
    | (?<!\w)[a-z]\.(?!\w)                                    # an initial
    | (?:{"|".join(_ABBREVIATIONS)})\.                                # mr.
    | \.{{2,}}
    | (?:can(?=not\b)|gon(?=na\b)|got(?=ta\b)|wan(?=na\b)|gim(?=me\b)|lem(?=me\b))
    | \w+(?=n['’]t\b)
    | n['’]t\b
    | ['’](?:s|m|d|ll|re|ve)\b
    | (?-i:[A-Z]+(?:&[A-Z]+)+)                                # AT&T; in lower case it is three tokens
    | ['’]n['’](?!\w)                                         # rock 'n' roll
    | [+-]?\d+(?:[.,:/]\d+)+ | \d+(?:st|nd|rd|th)\b
    | o['’]\w+                                                # o'clock
    | \w+(?:[-–]\w+)+(?=['’]|\b) | \w+
    | `` | '' | -{{2,}}
    | \S
    """,
    re.VERBOSE | re.IGNORECASE,
)


@lru_cache(maxsize=200_000)
def _tokenize(piece: str) -> tuple[str, ...]:
    """The tokens of a piece between white space, which no token has or looks across: captions share their pieces."""
    tokens = (_BRACKETS.get(token, token).lower() for token in _TOKEN.findall(piece))
    return tuple(
        token.replace("’", "'") for token in tokens if token not in PUNCTUATION and token not in ('"', "“", "”")
    )


def tokenize(caption: str) -> list[str]:
    """The words of a caption, in lower case."""
    return [token for piece in caption.split() for token in _tokenize(piece)]
