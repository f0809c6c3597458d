"""Tokens are PTBTokenizer's: examples, properties, and Stanford's own program on real captions."""

from __future__ import annotations

import random
import re
import shutil
import subprocess
import time
import unicodedata
from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st

from showtell.data.annotations import read_annotations
from showtell.metrics import tokenize
from showtell.metrics.tokenize import PUNCTUATION, _tokenize
from showtell.writing import is_spaceless

_BRACKETS = {"-LRB-", "-RRB-", "-LCB-", "-RCB-"}  # in coco-caption's list; in lower case they pass


@pytest.mark.parametrize(
    ("caption", "tokens"),
    [
        ("A dog doesn't run.", ["a", "dog", "does", "n't", "run"]),
        ("The boy's red ball, mid-air!", ["the", "boy", "'s", "red", "ball", "mid-air"]),
        ("two men (one old) talk", ["two", "men", "-lrb-", "one", "old", "-rrb-", "talk"]),
        ("They cannot see; they'll go", ["they", "can", "not", "see", "they", "'ll", "go"]),
        ('a sign says "stop" ...', ["a", "sign", "says", "stop"]),
        ("Number 3,500 at 10:30", ["number", "3,500", "at", "10:30"]),
        ("Ein Mädchen läuft über Straße", ["ein", "mädchen", "läuft", "über", "straße"]),
        ("女孩 在 跑", ["女", "孩", "在", "跑"]),
        ("穿T恤的3个人，在跑。", ["穿", "t", "恤", "的", "3", "个", "人", "在", "跑"]),
        ("一只（红）狗。", ["一", "只", "红", "狗"]),
        ("ein Mädchen（３）［x］｛y｝ ⑴", ["ein", "mädchen", "3", "x", "y", "1"]),
        ("(ein Café)", ["-lrb-", "ein", "café", "-rrb-"]),
        ("一只(红)狗 (红)", ["一", "只", "红", "狗", "红"]),
        ("ｻｯｶｰをする「少年」", ["サ", "ッ", "カ", "ー", "を", "す", "る", "少", "年"]),
        ("ขี่ม้า", ["ขี่", "ม้", "า"]),
        ("हिन्दी बोलता है।", ["हिन्दी", "बोलता", "है"]),
        ("cho\u0301 co\u0301.", ["chó", "có"]),
        ("naïve boy’s — “mid–air”", ["naïve", "boy", "'s", "mid–air"]),
        ("می\u200cرود", ["می", "رود"]),
        ("", []),
        (" . , ", []),
        ("a dog.. runs.... A cat . . . sits ..", ["a", "dog", "runs", "a", "cat", "sits"]),
        ("one...... two --- three", ["one", "two", "three"]),
        ("A dog!! What?? Wow!?! Yes! No?", ["a", "dog", "!!", "what", "??", "wow", "!?!", "yes", "no"]),
        ("he says no. It is no. 5, not no.6", ["he", "says", "no", "it", "is", "no.", "5", "not", "no.", "6"]),
        ("No. 7-Eleven, figs. 3 and vol. 2", ["no.", "7-eleven", "figs.", "3", "and", "vol", "2"]),
        ("Jan. 5 in Calif., Sat. 6", ["jan.", "5", "in", "calif.", "sat", "6"]),
        ("Wash. and Ill. but wash. him, ill.", ["wash.", "and", "ill.", "but", "wash", "him", "ill"]),
        ("a Ph.D. from the U.S., at 5:30 p.m.", ["a", "ph.d.", "from", "the", "u.s.", "at", "5:30", "p.m."]),
        ("U.S.-made, J. Smith, Mr.Smith", ["u.s.-made", "j.", "smith", "mr.smith"]),
        ("a black/white dog and/or cat w/o leash", ["a", "black/white", "dog", "and/or", "cat", "w/o", "leash"]),
        ("w/ his/her/its/my own", ["w", "/", "his/her/its", "/", "my", "own"]),
        ("1/2-inch, 1-1/2, 1.5-mile", ["1/2-inch", "1-1/2", "1.5-mile"]),
        ("+1 -1 -5 .5 2+2", ["+1", "-1", "-5", ".5", "2", "+2"]),
        ("a dog.A cat, flickr.com", ["a", "dog.a", "cat", "flickr.com"]),
        ("c'mon y'all, 'tis ma'am 'til '99 ", ["c'mon", "y'", "all", "'t", "is", "ma'am", "'til", "'99"]),
        ("HE'S at O'Neil's 5'10\" 80's bar", ["he", "'s", "at", "o'neil", "'s", "5", "10", "80", "'s", "bar"]),
        ("rock'n'roll in the '50s ol' man", ["rock", "'n'", "roll", "in", "the", "'50s", "ol'", "man"]),
        ("l'eau d'été, qu'il", ["l'eau", "d'été", "qu'il"]),
        ("dog :) cat :-( man:dog", ["dog", ":-rrb-", "cat", ":--lrb-", "man", "dog"]),
        ("a <unk> dog -LRB- brown -rrb-", ["a", "<unk>", "dog", "-lrb-", "brown", "-rrb-"]),
        ("#dogs of @user, dog@park.", ["#dogs", "of", "@user", "dog@park"]),
        ("AT&amp;T &quot;dog&quot; &amp; cat., 1.", ["at&t", "dog", "&", "cat.", "1"]),
        ("see http://a.com/b, www.a.com.", ["see", "http://a.com/b", "www.a.com"]),
        ("_dog_ snake_case **bold** US$5", ["_", "dog", "_", "snake_case", "**", "bold", "**", "us$", "5"]),
        ("a dog🐶 and a ❤️ 👨‍👩‍👧", ["a", "dog", "and", "a", "❤"]),
        ("está!! 一只狗!! ！！ 狗？！", ["está", "!!", "一", "只", "狗", "狗"]),
    ],
)
def test_examples(caption: str, tokens: list[str]) -> None:
    assert tokenize(caption) == tokens


@given(st.text(max_size=60))
def test_any_text_becomes_clean_tokens(text: str) -> None:
    for token in tokenize(text):
        assert token not in PUNCTUATION
        assert not any(character.isspace() for character in token)
        assert token == token.lower()


@given(st.text(max_size=60) | st.text("aAbo .,'’-–()\"/!:@#+&3n\t\u2028", max_size=40))
def test_pieces_between_white_space_are_tokenised_by_themselves(text: str) -> None:
    if is_spaceless(unicodedata.normalize("NFKC", text)):
        text = re.sub(r"[()\[\]{}!?]", "", text)  # these alone ask which script their piece is in
    if "&" not in text:  # an entity may be a space
        assert tokenize(text) == list(_tokenize.__wrapped__(text))


@given(st.text(max_size=60) | st.text("aé–’狗กี่ーでか\u3099\u0301 .،。", max_size=20))
def test_the_same_text_has_the_same_tokens_however_it_is_encoded(text: str) -> None:
    expected = tokenize(unicodedata.normalize("NFC", text))
    assert tokenize(text) == expected == tokenize(unicodedata.normalize("NFD", text))


@given(st.lists(st.text("abcdefghij", min_size=2, max_size=6), max_size=8))
def test_plain_words_stay_as_they_are(words: list[str]) -> None:
    plain = [word for word in words if word not in ("ft", "ii")]
    assert tokenize(" ".join(plain)) == plain


def test_a_long_piece_takes_no_longer_than_its_length() -> None:
    for part in ("a,", "a.", "a-", "a/", "a'", "1.", "a@", "!", "<a"):
        started = time.process_time()
        _tokenize.__wrapped__(part * 5_000)
        assert time.process_time() - started < 2, part


_WORDS = """a the dog cat man no of in 2 10 1,000 3.5 red-haired T-shirt black/white and/or w/o w/ A/C 1/2 9/11 mid-air
boy's girls' men's isn't can't they're it's cannot gonna St. Mr. Dr. no. No. Ave. U.S. a.m. p.m. e.g. etc. vs. Jr. Jan.
Sept. Mon. Sat. Co. ft. in. lbs. 5th 1950s '50s 50's 5'10 6' $5 50% #1 @home #love 10:30 5pm 10-15 mother-in-law's AT&T
b&w Q&A & + = * o'clock rock'n'roll y'all ma'am 'em 'til ol' ... .. -- - , . ! ? !! ??? ?! (brown) [sic] "Stop" 'hello'
:) <unk> X-ray 4x4 B-52 7-Eleven O'Neil C'mon flickr.com IMG_1234.JPG +1 -5 1. A. (1) I'm Ph.D. calif. Wash. wash. ill.
20-30 two- ,and off. up. it. her. on."""
_AFTER = [""] * 25 + ["."] * 8 + [",", "!", "?", "...", "!!", "..", ";", ":", "'s", '"', ")", " .", '."']


def _drawn_captions(number: int) -> list[str]:
    """Captions of words and punctuation as people write them, though more of it."""
    draw, words = random.Random(1), _WORDS.split()
    return [
        " ".join(draw.choice(words) + draw.choice(_AFTER) for _ in range(draw.randint(3, 8))) for _ in range(number)
    ]


def _differing(captions: list[str], folder: Path) -> list[tuple[str, str]]:
    """Captions whose tokens are not Stanford's, with those."""
    pycocoevalcap = pytest.importorskip("pycocoevalcap", reason="needs pycocoevalcap (the extra 'java')")
    if shutil.which("java") is None:
        pytest.skip("needs java")
    jar = next(path for root in pycocoevalcap.__path__ for path in Path(root).rglob("stanford-corenlp-*.jar"))
    (folder / "captions.txt").write_text("\n".join(captions), encoding="utf-8")
    command = ["java", "-cp", str(jar), "edu.stanford.nlp.process.PTBTokenizer"]
    options = ["-preserveLines", "-lowerCase", "captions.txt"]
    done = subprocess.run([*command, *options], cwd=folder, capture_output=True, text=True, check=True)
    theirs = done.stdout.removesuffix("\n").split("\n")
    assert len(theirs) == len(captions)
    dropped = PUNCTUATION | _BRACKETS
    return [
        (caption, line)
        for caption, line in zip(captions, theirs, strict=True)
        if tokenize(caption) != [token for token in line.split() if token not in dropped]
    ]


@pytest.mark.slow
def test_stanford_agrees_on_real_captions(shared: Path, tmp_path: Path) -> None:
    found = [read_annotations(shared / "data" / name, require_images=False) for name in ("flickr8k", "ucm")]
    captions = [caption for annotations in found for image in annotations.images for caption in image.captions]
    assert len(captions) > 50_000
    assert not _differing(captions, tmp_path)


def test_stanford_agrees_on_captions_full_of_punctuation(tmp_path: Path) -> None:
    captions = _drawn_captions(5_000)
    differing = _differing(captions, tmp_path)
    assert len(differing) < 0.01 * len(captions), differing[:5]
