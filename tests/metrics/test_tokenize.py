"""Tokens are PTBTokenizer's: examples, properties, and Stanford's own program on real captions."""

from __future__ import annotations

import re
import shutil
import subprocess
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


@given(st.text(max_size=60) | st.text("aAb .,'’-–()\"&3n\t\u2028", max_size=40))
def test_pieces_between_white_space_are_tokenised_by_themselves(text: str) -> None:
    if is_spaceless(unicodedata.normalize("NFKC", text)):
        text = re.sub(r"[()\[\]{}]", "", text)  # these alone ask which script their piece is in
    assert tokenize(text) == list(_tokenize.__wrapped__(text))


@given(st.text(max_size=60) | st.text("aé–’狗กี่ーでか\u3099\u0301 .،。", max_size=20))
def test_the_same_text_has_the_same_tokens_however_it_is_encoded(text: str) -> None:
    expected = tokenize(unicodedata.normalize("NFC", text))
    assert tokenize(text) == expected == tokenize(unicodedata.normalize("NFD", text))


@given(st.lists(st.text("abcdefghij", min_size=2, max_size=6), max_size=8))
def test_plain_words_stay_as_they_are(words: list[str]) -> None:
    plain = [word for word in words if word not in ("ft", "ii")]
    assert tokenize(" ".join(plain)) == plain


@pytest.mark.slow
def test_stanford_agrees_on_real_captions(shared: Path, tmp_path: Path) -> None:
    pycocoevalcap = pytest.importorskip("pycocoevalcap", reason="needs pycocoevalcap (the extra 'java')")
    if shutil.which("java") is None:
        pytest.skip("needs java")
    jar = next(path for root in pycocoevalcap.__path__ for path in Path(root).rglob("stanford-corenlp-*.jar"))
    found = [read_annotations(shared / "data" / name, require_images=False) for name in ("flickr8k", "ucm")]
    captions = [caption for annotations in found for image in annotations.images for caption in image.captions]
    assert len(captions) > 50_000
    (tmp_path / "captions.txt").write_text("\n".join(captions), encoding="utf-8")
    command = ["java", "-cp", str(jar), "edu.stanford.nlp.process.PTBTokenizer"]
    options = ["-preserveLines", "-lowerCase", "captions.txt"]
    done = subprocess.run([*command, *options], cwd=tmp_path, capture_output=True, text=True, check=True)
    theirs = done.stdout.removesuffix("\n").split("\n")
    assert len(theirs) == len(captions)
    dropped = PUNCTUATION | _BRACKETS
    differing = [
        (caption, line)
        for caption, line in zip(captions, theirs, strict=True)
        if tokenize(caption) != [token for token in line.split(" ") if token and token not in dropped]
    ]
    assert len(differing) <= 1e-4 * len(captions), differing[:5]
