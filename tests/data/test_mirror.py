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
        ("He looks left down the street, to his right a car.", "He looks right down the street, to his left a car."),
        ("a ball in his right hand, trees on left", "a ball in his left hand, trees on right"),
        ("People look left and right.", "People look right and left."),
        ("on the right in front of a house", "on the left in front of a house"),
        ("the center left one, with right pointer finger up", "the center right one, with left pointer finger up"),
        ("links ein Hund, rechts eine Katze", "rechts ein Hund, links eine Katze"),
        ("le chien à droite, la main gauche", "le chien à gauche, la main droite"),
        ("la mano derecha, el lado derecho de la foto", "la mano izquierda, el lado izquierdo de la foto"),
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
        "Three people walking in a park right outside of the city .",
        "standing right where the waves stop",
        "a dog runs through the dirt right on the outside of a patch of grass",
        "a dog running through the water right toward the camera",
        "long hair stares right in the camera",
        "two horses are right alongside each other",
        "a cat jumps from right under the car",
        "a man trying to right the boat",
        "he looks right at her",
        "everything is all right",
        "it is eating right now",
        "a woman sitting right next to him",
        "right after the race",
        "the right way to hold a bat",
        "a sheet on the right side up",
        "boards at right angles",
        "the right whale jumps",
        "the right amount of snow",
        "a cyclist in the right gear",
        "he picks the right one",
        "a dog eats the left overs",
        "trying to right her canoe",
        "a boat that nobody tries to right .",
        "he moves to right his canoe",
        "he kisses her right on the cheek",
        "a trophy at the top right next to a flag",
        "a car has the right of way",
        "the boy has left the house",
        "the little bit of water left by the sprinklers",
        "no food left",
        "toys left behind",
        "a dog left to run",
        "what is left of a castle",
        "a golfer on the links",
        "a fence of chain links",
        "Golf links.",
        "links and hooks hang on a wall",
        "Bretter im rechten Winkel",
        "el hombre camina derecho hacia la casa",
        "une longue ligne droite",
        "une femme se tient droite",
        "trees in the north-east corner",
        "狗在猫的左边",
    ],
)
def test_what_could_become_wrong_is_not_mirrored(caption: str) -> None:
    assert not mirrorable(caption)


@pytest.mark.parametrize(
    "caption",
    [
        "a dog runs",
        "a red ball is left of a blue box",
        "a dog on the right .",
        "the man to his left is smiling, and another is on the right in a hat",
        "he looks to the right while she looks left",
        "a building to the right of them and a bag over her left shoulder",
        "the center left one, a tree at lower right",
        "looking to left with a blue sky behind",
    ],
)
def test_plain_sides_are_mirrorable(caption: str) -> None:
    assert mirrorable(caption)


def test_ids_change_places_where_both_words_are_known() -> None:
    assert mirror_ids(["a", "left", "▁right", "right", "links", "▁left"]) == [0, 3, 5, 1, 4, 2]
    assert mirror_ids(["左", "猫", "右"]) == [2, 1, 0]
