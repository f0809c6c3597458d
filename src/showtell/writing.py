"""Scripts without spaces, combining marks, the pattern of a word, joining words into text, and tokens that are none."""

from __future__ import annotations

import itertools
import re
import unicodedata
from collections.abc import Sequence
from functools import cache

# The tokens of every vocabulary that are no words; their ids are their places here.
SPECIAL = ("<pad>", "<start>", "<end>", "<unk>")
PAD, START, END, UNK = range(len(SPECIAL))

# Letters, marks and digits, without punctuation. The prolonged sound mark "ー", which Unicode assigns to no single
# script, counts as Katakana.
_HAN_AND_KANA = (
    (0x3005, 0x3005), (0x3007, 0x3007), (0x3021, 0x3029), (0x3038, 0x303B), (0x3400, 0x4DBF),
    (0x4E00, 0x9FFF), (0xF900, 0xFAFF), (0x20000, 0x323AF),  # Han
    (0x3041, 0x3096), (0x309D, 0x309F), (0x30A1, 0x30FA), (0x30FC, 0x30FF), (0x31F0, 0x31FF), (0x1AFF0, 0x1B16F),
)  # fmt: skip
_SOUTH_EAST_ASIAN = (
    (0x0E01, 0x0E3A), (0x0E40, 0x0E4E), (0x0E50, 0x0E59),  # Thai
    (0x0E80, 0x0EFF),  # Lao
    (0x1780, 0x17D3), (0x17D7, 0x17D7), (0x17DC, 0x17F9),  # Khmer
    (0x1000, 0x1049), (0x1050, 0x109D), (0xA9E0, 0xA9FE), (0xAA60, 0xAA76), (0xAA7A, 0xAA7F),  # Myanmar
)  # fmt: skip

# The spaces to remove in captions that were tokenised beforehand ("dog 's", "is n't"), so that their words are those of
# other captions. A pattern for Python and for `tokenizers`.
APART = r"\s+(?=(?:['’](?:s|re|ve|ll|d|m)|n['’]t)(?:\s|$))"
# The vowel "am" of Thai and Lao, as NFKC splits it, and in one piece, as people write it.
AM = tuple((unicodedata.normalize("NFKC", vowel), vowel) for vowel in ("\u0e33", "\u0eb3"))


def _inside(ranges: Sequence[tuple[int, int]]) -> str:
    """The inside of a character class, for Python's patterns and those of `tokenizers`."""
    return "".join(f"{chr(first)}-{chr(last)}" for first, last in ranges)


SPACELESS = (
    f"[{_inside((*_HAN_AND_KANA, *_SOUTH_EAST_ASIAN))}]"  # one character of a script that is written without spaces
)
_IS_SPACELESS = re.compile(SPACELESS)
_IS_HAN_OR_KANA = re.compile(f"[{_inside(_HAN_AND_KANA)}]")


@cache
def marks() -> str:
    """All combining marks as the inside of a character class; Python's patterns have no name for them."""
    places = itertools.chain(range(0x20000), range(0xE0000, 0xE0200))  # only ideographs lie between
    found = [i for i in places if unicodedata.category(chr(i))[0] == "M"]
    starts = [i for i, before in zip(found, [-1, *found], strict=False) if i != before + 1]
    ends = [i for i, after in zip(found, [*found[1:], -1], strict=True) if i != after - 1]
    return _inside(list(zip(starts, ends, strict=True)))


def word_pattern(letter: str, mark: str) -> str:
    """A word's pattern: letters, marks and digits, with apostrophes or hyphens inside ("t-shirt", "man's", "l'été").

    In scripts without spaces each character, with its marks, is a word. `letter` and `mark` are patterns of one
    character; `letter` matches marks too.
    """
    spaced = f"(?:(?!{SPACELESS}){letter})"
    return rf"{SPACELESS}{mark}*|{spaced}+(?:['’\-]{spaced}+)*"


def is_spaceless(text: str) -> bool:
    """Whether a text has characters of a script that is written without spaces."""
    return not text.isascii() and _IS_SPACELESS.search(text) is not None


def join_words(words: Sequence[str]) -> str:
    """Joins words into text as people write it.

    Words are separated by a space, except between two of scripts without spaces, and beside Han and Kana, where words
    of other scripts are written close ("Tシャツ", "3个人"); beside Thai, Lao, Khmer and Burmese they stand apart.
    """
    text = " ".join(words)
    if text.isascii():
        return text
    return "".join(_space(before, word) + word for before, word in itertools.pairwise(["", *words]))


def shown(token: str) -> str:
    """A token as people see it: subwords lose their `▁`, and `▁` alone becomes `·`."""
    return token.replace("▁", " ").strip() or "·"


def _space(before: str, word: str) -> str:
    if not before or _IS_HAN_OR_KANA.match(before) or _IS_HAN_OR_KANA.match(word):
        return ""
    return "" if _IS_SPACELESS.match(before) and _IS_SPACELESS.match(word) else " "
