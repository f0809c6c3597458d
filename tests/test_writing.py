"""Scripts without spaces are whole, and words come together as people write them."""

from __future__ import annotations

import re
import unicodedata

import pytest
from hypothesis import given
from hypothesis import strategies as st

from showtell.writing import SPACELESS, is_spaceless, join_words, marks, shown

_NAMES = (
    "CJK UNIFIED IDEOGRAPH", "IDEOGRAPHIC ITERATION MARK", "HIRAGANA ", "KATAKANA ", "KATAKANA-HIRAGANA PROLONGED SOUND MARK",
    "THAI ", "LAO ", "KHMER ", "MYANMAR ",
)  # fmt: skip


def test_scripts_without_spaces_have_all_their_letters_and_nothing_else() -> None:
    one = re.compile(SPACELESS)
    for i in range(0x30000):
        character = chr(i)
        name, kind = unicodedata.name(character, ""), unicodedata.category(character)
        if name.startswith(_NAMES) and kind[0] in "LMN":
            assert one.fullmatch(character), name
        elif kind[0] in "PSZ" or name.startswith(("LATIN", "HANGUL", "DEVANAGARI", "ARABIC")):
            assert not one.fullmatch(character), name


def test_marks_are_all_combining_characters() -> None:
    mark = re.compile(f"[{marks()}]")
    for i in [*range(0x20000), *range(0xE0100, 0xE01F0), 0x10FFFF]:
        assert bool(mark.fullmatch(chr(i))) == (unicodedata.category(chr(i))[0] == "M"), hex(i)


@pytest.mark.parametrize(
    ("words", "text"),
    [
        (["a", "red", "dog"], "a red dog"),
        (["một", "con", "chó"], "một con chó"),
        (["一", "只", "狗"], "一只狗"),
        (["穿", "t", "恤", "的", "3", "个", "人"], "穿t恤的3个人"),
        (["a", "red", "犬", "の", "white", "t-shirt", "を"], "a red犬のwhite t-shirtを"),
        (["รถ", "3", "คั", "น"], "รถ 3 คัน"),
        (["강아지", "두", "마리"], "강아지 두 마리"),
        ([], ""),
    ],
)
def test_words_are_joined_as_people_write_them(words: list[str], text: str) -> None:
    assert join_words(words) == text


@given(st.lists(st.text("abcäé'-", min_size=1, max_size=5), max_size=6))
def test_a_script_with_spaces_has_one_between_two_words(words: list[str]) -> None:
    assert join_words(words) == " ".join(words)


def test_a_text_tells_whether_its_script_has_spaces() -> None:
    for text in ("一只狗", "a 狗", "ม้า", "ー"):
        assert is_spaceless(text), text
    for text in ("a dog", "chó", "घोड़ा", "강아지", "。", ""):
        assert not is_spaceless(text), text


def test_a_token_as_people_see_it() -> None:
    assert [shown(token) for token in ("dog", "▁dog", "▁", "house")] == ["dog", "dog", "·", "house"]
