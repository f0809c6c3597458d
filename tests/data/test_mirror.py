"""Left and right change places."""

from __future__ import annotations

import pytest

from showtell.data.mirror import mirror_caption, mirror_ids, mirrorable


@pytest.mark.parametrize(
    ("before", "after"),
    [
        ("A dog left of a cat.", "A dog right of a cat."),
        ("The Right hand, the leftmost ball", "The Left hand, the rightmost ball"),
        ("ein Hund links neben einer Katze", "ein Hund rechts neben einer Katze"),
        ("собака слева от кошки", "собака справа от кошки"),
        ("en hund till vänster", "en hund till höger"),
        ("a bright light", "a bright light"),
    ],
)
def test_words_change_places_and_back(before: str, after: str) -> None:
    assert mirror_caption(before) == after
    assert mirror_caption(after) == before


@pytest.mark.parametrize(
    "caption",
    [
        "he stands right behind her",
        "a sign that says stop",
        "two balls are left",
        "trees in the north-east corner",
        "狗在猫的左边",
    ],
)
def test_what_could_become_wrong_is_not_mirrored(caption: str) -> None:
    assert not mirrorable(caption)


def test_plain_sides_are_mirrorable() -> None:
    assert mirrorable("a red ball is left of a blue box") and mirrorable("a dog runs")


def test_ids_change_places_where_both_words_are_known() -> None:
    assert mirror_ids(["a", "left", "▁right", "right", "links", "▁left"]) == [0, 3, 5, 1, 4, 2]
    assert mirror_ids(["左", "猫", "右"]) == [2, 1, 0]
