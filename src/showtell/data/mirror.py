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
# Where "left" and "right" are sides. Anywhere else they may not be ("right outside", "all right", "has left", "food
# left"), and what follows decides whether they are here: nothing, or a word that no "right" of another meaning has after
# it ("the right whale", "the left overs", "to right her canoe").
_DONE = r"of(?!\s+way)|with|from|and|or|but|while|who|which|is|are|was|were|has|have|wearing|holding|watching"
_PLACE = (  # after "looks right", "kisses her right" or "the bottom right" these go with a "right" that means straight
    r"in|into|on|onto|at|near|next|by|beside|along|alongside|around|across|against|through|towards?|down|inside|outside"
    r"|above|below|beneath|under|between|before|after|during|as|when|where"
)
_THEN = rf"(?=\W*$|\s*[.,;:!?)]|\s+(?:{_DONE})\b)"
_THEN_OR_PLACE = rf"(?=\W*$|\s*[.,;:!?)]|\s+(?:{_DONE}|{_PLACE})\b)"
_SIDE = re.compile(
    rf"""\b(?:
        (?:left|right)[\s-]+(?:and|or|to)[\s-]+(?:left|right)
      | (?:the|his|their|its|my|your|our)\s+(?:left|right)\b{_THEN_OR_PLACE}
      | (?:her|far|top|bottom|upper|lower|center|centre)[\s-]+(?:left|right)\b(?:{_THEN}|(?=\s+ones?\b))
      | (?:(?:on|from|at)\s+(?:left|right)|to\s+left)\b{_THEN}
      | (?:look|glanc|fac|turn|lean|point|swerv|veer|lung|steer|mov|head)(?:e|s|es|ed|ing)?\s+(?:to\s+)?(?:left|right)\b{_THEN}
      | (?:left|right)[\s-]+(?:
            of(?!\s+way) | side(?!\s+up) | hand(?:s|ed)? | arms? | legs? | foot | feet | shoulders? | eyes? | ears? | wrists? | elbows?
          | knees? | ankles? | hips? | fists? | (?:index|pointer|ring)?\s*fingers? | thumbs? | paws? | (?:front|hind|rear)[\s-]+\w+
          | wings? | half | third | part | edge | end | corner | lane | turn | kick
        )
    )\b""",
    re.IGNORECASE | re.VERBOSE,
)
_LEFT_OR_RIGHT = re.compile(r"\b(?:left|right)\b", re.IGNORECASE)
# The picture shows what cannot be mirrored (letters, numbers, east and west), or another word has another meaning: what
# is left, links of a chain, a right angle in German, straight on in Spanish, a straight line in French. In scripts
# without spaces the words cannot be told apart.
_UNSAFE = re.compile(
    r"\b(?:(?:what|that|all)(?:['’]s|\s+(?:is|was))\s+left"
    r"|leaves|leaving|letters?|numbers?|words?|(?:north|south)?-?(?:east|west)(?:ern|wards?)?|sign|signs|text|says|saying|reads|reading|written|logo|banner"
    r"|(?:the|a|and|with|golf|chain|sausage|cuff|metal|steel)\b.*\blinks|links\b.*\b(?:the|a|and|with)|rechte[nrs]?\s+winkel"
    r"|(?:todo|recto|camina\w*|sigu?e\w*|siga)\s+derecho|derecho\s+(?:a|al|hacia)|(?:lignes?|routes?|pistes?|toute|bien|debout|tient|tenant)\s+droite)\b"
    r"|[左右]|ซ้าย|ขวา",
    re.IGNORECASE | re.DOTALL,
)


@functools.cache  # training asks for the same captions every epoch
def mirrorable(caption: str) -> bool:
    """Whether `mirror_caption` can make the caption true of the mirrored picture. Where that is in doubt, the sample is
    not mirrored at all. English is judged by the words beside a "left" or "right", which can be wrong."""
    return not _UNSAFE.search(caption) and not _LEFT_OR_RIGHT.search(_SIDE.sub(" ", caption))


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
