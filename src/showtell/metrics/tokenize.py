"""PTB tokenisation as in coco-caption: Stanford's PTBTokenizer, lower case, punctuation removed; without Java.

Stanford's rules apply to ASCII. Beyond it, tokens are a vocabulary's words: text is normalised (NFKC), marks belong to
their word, each character of a script without spaces is a token, and punctuation is dropped; only ASCII brackets, in
scripts with spaces, stay as Stanford's tokens.
"""

from __future__ import annotations

import re
import unicodedata
from functools import cache, lru_cache

from showtell.writing import SPACELESS, is_spaceless, marks

# coco-caption removes these. Brackets stay, as "-lrb-": its list has them in upper case, but tokens are in lower case.
PUNCTUATION = frozenset(["''", "'", "``", "`", ".", "?", "!", ",", ":", "-", "--", "...", ";"])
_BRACKETS = {"(": "-lrb-", ")": "-rrb-", "[": "-lsb-", "]": "-rsb-", "{": "-lcb-", "}": "-rcb-"}
_BRACKET = re.compile(r"[()\[\]{}]")
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


def _pattern(letter: str, rest: str = "") -> re.Pattern[str]:
    """Matches one token. `letter` matches a character of a word, `rest` what stays with a character outside words."""
    return re.compile(
        rf"""
          (?:https?://|www\.)\S+                                  # addresses
        | [a-z0-9_.+-]+@[a-z0-9-]+(?:\.[a-z0-9-]+)+
        | [a-z0-9-]+(?:\.[a-z0-9-]+)*\.(?:com|org|net|edu|gov)\b   # example.com
        | (?:[a-z]\.){{2,}}                                         # u.s.
        | (?<!\w)[a-z]\.(?!\w)                                    # an initial
        | (?:{"|".join(_ABBREVIATIONS)})\.                                # mr.
        | \.{{2,}}
        | (?:can(?=not\b)|gon(?=na\b)|got(?=ta\b)|wan(?=na\b)|gim(?=me\b)|lem(?=me\b))
        | {letter}+(?=n['’]t\b)
        | n['’]t\b
        | ['’](?:s|m|d|ll|re|ve)\b
        | (?-i:[A-Z]+(?:&[A-Z]+)+)                                # AT&T; in lower case it is three tokens
        | ['’]n['’](?!\w)                                         # rock 'n' roll
        | [+-]?\d+(?:[.,:/]\d+)+ | \d+(?:st|nd|rd|th)\b
        | o['’]{letter}+                                          # o'clock
        | {letter}+(?:[-–]{letter}+)*
        | `` | '' | -{{2,}}
        | \S{rest}
        """,
        re.VERBOSE | re.IGNORECASE,
    )


_ASCII = _pattern(r"\w")


@cache
def _beyond_ascii() -> re.Pattern[str]:
    """The pattern for all scripts, built when a caption first needs it, as finding the marks takes a while."""
    return _pattern(rf"(?:(?!{SPACELESS})[\w{marks()}])", f"[{marks()}]*")


@lru_cache(maxsize=200_000)
def _tokenize(piece: str) -> tuple[str, ...]:
    """The tokens of a piece between spaces, which no token spans; cached because captions share pieces."""
    found = _ASCII.findall(piece) if piece.isascii() else _beyond_ascii().findall(_normal(piece))
    tokens = (_BRACKETS.get(token, token).lower() for token in found if not _is_punctuation(token))
    return tuple(token.replace("’", "'") for token in tokens)


def _normal(piece: str) -> str:
    """A piece in NFKC, with spaces for the brackets that NFKC makes, as from full-width ones.

    Scripts without spaces lose all brackets, since subwords write full-width ones as ASCII.
    """
    normal = unicodedata.normalize("NFKC", piece)
    if is_spaceless(normal):
        return _BRACKET.sub(" ", normal)
    apart = (c if c.isascii() else _BRACKET.sub(" ", unicodedata.normalize("NFKC", c)) for c in piece)
    return unicodedata.normalize("NFKC", "".join(apart))


def _is_punctuation(text: str) -> bool:
    if text.isascii():
        return text in PUNCTUATION or text == '"'
    kind = unicodedata.category(text) if len(text) == 1 else ""
    return kind[:1] == "P" or kind == "Cf"  # nor do words have invisible characters, such as Persian's joiners


def tokenize(caption: str) -> list[str]:
    """The words of a caption, in lower case."""
    return [token for piece in caption.split() for token in _tokenize(piece)]
