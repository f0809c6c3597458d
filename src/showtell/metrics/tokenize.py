"""PTB tokenisation as in coco-caption: Stanford's PTBTokenizer, lower case, punctuation removed; without Java.

Stanford's rules apply to ASCII. Beyond it, tokens are a vocabulary's words: text is normalised (NFKC), marks belong to
their word, each character of a script without spaces is a token, and punctuation and emoji are dropped; only ASCII's
brackets and rows of exclamation or question marks, in scripts with spaces, stay as Stanford's tokens.
"""

from __future__ import annotations

import re
import unicodedata
from functools import cache, lru_cache

from showtell.writing import SPACELESS, is_spaceless, marks

# coco-caption removes these, but not "!!". Brackets stay, as "-lrb-": its list has them in upper case, but tokens are in
# lower case.
PUNCTUATION = frozenset(["''", "'", "``", "`", ".", "?", "!", ",", ":", "-", "--", "...", ";"])
_DROPPED = PUNCTUATION | {'"', "....", ".....", "---", "----"}  # Stanford writes these as "''", "..." and "--"
_BRACKETS = {"(": "-lrb-", ")": "-rrb-", "[": "-lsb-", "]": "-rsb-", "{": "-lcb-", "}": "-rcb-"}
_MOUTHS = str.maketrans({"(": "-lrb-", ")": "-rrb-"})
_OF_ASCII = re.compile(r"[()\[\]{}!?]")  # tokens there, or parts of one, but of no vocabulary
_ENTITIES = {"&lt;": "<", "&gt;": ">", "&quot;": '"', "&apos;": "'", "&nbsp;": " ", "&amp;": "&"}

# Their full stop is part of the token: months, days, states, titles, companies, streets, units and others.
_ABBREVIATIONS = r"""
    jan feb mar apr jun jul aug sept? oct nov dec mon tues? wed thu(?:rs)? fri
    ala ariz calif colo conn ct dak fla ga ind kans? ky md mich minn mo mont neb nev okla penn tenn va vt wisc? wyo
    mr mrs ms drs? profs? sens? reps? attys? lt col gen govs? adm rev maj sgt cpl pvt capt ste? pres lieut hon brig
    co?mdr pfc supts? det adj asst assoc jr sr bros esq (?:ph|ed)\.d
    inc cos? corp pty ltd plc assn univ intl dept mt ave blvd rd rt bldg tel est ext sq ft etc al vs cf wm
"""
_CAPITALISED = ["az", "ark", "del", "ill", "la", "mass", "miss", "ore", "pa", "tex", "wash"]  # words in lower case
_NUMBERED = ["nos?", "figs?", "pp", "art", "ca", "op", "prop"]  # words, unless a number follows: "no. 5"
_STOP_AND_NUMBER = re.compile(r"\. \d")
_PIECE = re.compile(rf"\S*\b(?:{'|'.join(_NUMBERED)})\.[ ]\d\S*|\S+", re.IGNORECASE)


def _pattern(letter: str, rest: str = "") -> re.Pattern[str]:
    """Matches one token. Stanford's lexer takes the longest of its rules' tokens, this pattern its first alternative's.

    `letter` matches a letter or digit of a word, `rest` what stays with a character outside words.
    """
    first = rf"(?:(?!\d){letter})"
    clitic = r"(?:s|m|d|ll|re|ve)\b"
    return re.compile(
        rf"""
          (?!cannot|go(?:nn|tt)a|wanna|[gl][ie]mme){first}+\Z           # most words, fast
        | (?:https?://|www\.|(?:{letter}+\.)+(?:com|net|org|edu)/)[^\s"<>|(){{}}]*[^\s"<>|(){{}}.,!?:;-]     # addresses
        | [a-z0-9][a-z0-9._%+-]*@[a-z0-9_-]+(?:\.[a-z0-9_-]+)*
        | @[a-z_][a-z0-9_]* | \#{first}+
        | </?[a-z][^\s<>]*> | &\#\d+;                                 # <unk>
        | -[lr][rsc]b-                                              # a bracket of tokens that are tokenised again
        | [<>]?[:;=][-o*']?[()DPO\[\]{{@|\\](?!{letter})              # :-)
        | {letter}+(?:-{first}+){{0,2}}(?:/{letter}+(?:-{first}+){{0,2}}){{1,2}} | \d+-\d+/\d+   # and/or, 1/2-inch
        | {letter}(?:{letter}|[.,]){{0,50}}(?:[-_–](?:(?:[a-z]\.){{2,}}|{letter}+))+   # t-shirt, 1.5-mile, non-u.s.
        | (?:[a-z]\.){{2,}}(?!{first})                                # u.s.
        | (?<!\w)[a-z]\.(?!{first})                                   # an initial
        | (?:{"|".join(_ABBREVIATIONS.split())})\.(?!{first})                 # mr.
        | (?-i:(?=[A-Z]))(?:{"|".join(_CAPITALISED)})\.(?!{first})
        | (?:{"|".join(_NUMBERED)})\.(?=[ ]?\d)
        | {letter}+\.(?=[,;:])
        | {first}{letter}*(?:[.!?]{first}{letter}*)+                 # flickr.com; the end.A dog
        | (?:can(?=not\b)|gon(?=na\b)|got(?=ta\b)|wan(?=na\b)|gim(?=me\b)|lem(?=me\b))
        | {letter}+(?=n['’]t\b)
        | n['’]t\b
        | ['’]{clitic}
        | (?-i:[A-Z]+(?:[&+][A-Z]+)+)                               # AT&T; in lower case it is three tokens
        | ['’](?:em|till?|cause|[2-9]0s) | ['’]\d\d(?!\S)             # '80s, '99
        | ['’]n(?:['’]|\b)                                          # rock 'n' roll
        | ['’]t(?=is|was) | y['’](?={first})                          # 'tis, y'all
        | (?:c['’](?:est|mon)|s['’]mores|li['’]l|e['’]er|ev['’]ry|nor['’]easter|cap['’]n)\b
        | (?:[dol]['’]|(?-i:[A-HJ-XZn])['’](?={first}{{2}}))(?!{clitic}){first}{letter}*(?:-{letter}+)*   # o'clock
        | {first}*[aeiouy]['’](?!{clitic})(?-i:[A-Zaeiou]){first}*    # ma'am
        | (?:ol|dunkin|somethin|[dlj](?!['’]{clitic}))['’]
        | (?-i:[A-Z]*)\$                                            # US$
        | [+-]?\d*(?:[.,:]\d+)+ | [+-]\d+
        | {letter}+
        | `` | '' | -{{2,}} | \.{{3,5}} | [!?]{{2,}} | \#+ | @+ | \*+ | _+ | << | >>
        | \S{rest}
        """,
        re.VERBOSE | re.IGNORECASE,
    )


_ASCII = _pattern("[a-z0-9]")


@cache
def _beyond_ascii() -> re.Pattern[str]:
    """The pattern for all scripts, built when a caption first needs it, as finding the marks takes a while."""
    return _pattern(rf"(?:(?!{SPACELESS}|_)[\w{marks()}])", f"[{marks()}]*")


@lru_cache(maxsize=200_000)
def _tokenize(piece: str) -> tuple[str, ...]:
    """The tokens of a piece between spaces, which no token spans; cached because captions share pieces.

    A piece may be two with one space between them, where a number follows an abbreviation.
    """
    if "&" in piece and ";" in piece:
        for entity, character in _ENTITIES.items():
            piece = piece.replace(entity, character)
    found = _ASCII.findall(piece) if piece.isascii() else _beyond_ascii().findall(_normal(piece))
    tokens = (_BRACKETS.get(token, token).translate(_MOUTHS).lower() for token in found if not _is_punctuation(token))
    return tuple(token.replace("’", "'") for token in tokens)


def _normal(piece: str) -> str:
    """A piece in NFKC, with spaces for the brackets and marks that NFKC makes, as from full-width ones.

    Scripts without spaces lose them all, since subwords write full-width ones as ASCII.
    """
    piece = piece.replace("\ufe0f", "")  # draws a character as an emoji
    normal = unicodedata.normalize("NFKC", piece)
    if is_spaceless(normal):
        return _OF_ASCII.sub(" ", normal)
    apart = (c if c.isascii() else _OF_ASCII.sub(" ", unicodedata.normalize("NFKC", c)) for c in piece)
    return unicodedata.normalize("NFKC", "".join(apart))


def _is_punctuation(text: str) -> bool:
    if text.isascii():
        return text in _DROPPED
    kind = unicodedata.category(text) if len(text) == 1 else ""
    if kind[:1] == "S":
        return text > "\uffff"  # emoji
    return kind[:1] == "P" or kind == "Cf"  # nor do words have invisible characters, such as Persian's joiners


def tokenize(caption: str) -> list[str]:
    """The words of a caption, in lower case."""
    pieces = _PIECE.findall(caption) if _STOP_AND_NUMBER.search(caption) else caption.split()
    return [token for piece in pieces for token in _tokenize(piece)]
