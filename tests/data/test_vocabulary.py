"""Captions to token ids and back."""

from __future__ import annotations

from pathlib import Path

import pytest

from showtell.data.vocabulary import Vocabulary
from showtell.errors import BundleError, DataError

CAPTIONS = ["A dog's T-shirt is red .", "a red dog, running!", "Ein Hund läuft über die Straße."] * 2


def words(**options: int) -> Vocabulary:
    return Vocabulary.train(CAPTIONS, min_count=options.get("min_count", 1))


def test_words_are_kept_whole_and_punctuation_is_not_a_word() -> None:
    vocabulary = words()
    ids = vocabulary.encode("A dog's T-shirt, red!")
    assert ids[0] == vocabulary.start_id and ids[-1] == vocabulary.end_id
    assert vocabulary.tokens(ids) == ["a", "dog's", "t-shirt", "red"]
    assert vocabulary.decode(ids) == "a dog's t-shirt red"


def test_decoding_stops_at_the_end_and_never_speaks_a_marker() -> None:
    vocabulary = words()
    red = vocabulary.encode("red")[1]
    assert vocabulary.decode([1, red, 3, 0, red, 2, red]) == "red red"


def test_unicode_words_survive() -> None:
    vocabulary = words()
    assert vocabulary.decode(vocabulary.encode("Ein Hund läuft über die Straße")) == "ein hund läuft über die straße"


def test_rare_words_become_unknown() -> None:
    vocabulary = words(min_count=3)
    assert vocabulary.unknown_rate(["a red hund"]) == pytest.approx(1 / 3)


@pytest.mark.parametrize("kind", ["word", "bpe"])
def test_saved_and_loaded_is_the_same(kind: str, tmp_path: Path) -> None:
    vocabulary = Vocabulary.train(CAPTIONS, kind=kind, min_count=1, size=60)  # type: ignore[arg-type]
    vocabulary.save(tmp_path / "tokenizer.json")
    loaded = Vocabulary.load(tmp_path / "tokenizer.json")
    assert len(loaded) == len(vocabulary)
    assert loaded.encode_all(CAPTIONS) == [vocabulary.encode(c) for c in CAPTIONS]


def test_subwords_give_back_a_language_without_spaces() -> None:
    captions = ["赤い車が道を走る", "青い車が走る", "赤い犬が走る"]
    vocabulary = Vocabulary.train(captions, kind="bpe", size=60)
    assert vocabulary.decode(vocabulary.encode("青い犬が道を走る")) == "青い犬が道を走る"


def test_subwords_that_go_on_with_a_word() -> None:
    captions = ["a dog at a doghouse", "the dog's house, 3 dog-houses", "läuft 一只狗", "a dog at the house"]
    vocabulary = Vocabulary.train(captions, kind="bpe", size=300)
    tokens = vocabulary.listed()
    going_on = {tokens[i] for i in vocabulary.continuing}
    assert {"o", "ä", "'", "-", "3"} & set(tokens) <= going_on and len(going_on) > 10
    assert not any(token.startswith("▁") for token in going_on)
    assert not {"<end>", ",", "狗", "只"} & going_on and {",", "狗"} <= set(tokens)
    assert words().continuing == ()


@pytest.mark.parametrize("kind", ["word", "bpe"])
@pytest.mark.parametrize(
    "caption",
    [
        "一只棕色的狗在草地上奔跑", "穿白色t恤的3个人", "少年がサッカーをする", "tシャツを着た人々",
        "ชายกำลังขี่ม้าในน้ำ", "ເດັກຫຼິ້ນນ້ຳ", "ក្មេងប្រុសរត់", "ကလေးပြေးနေသည်", "हिन्दी में दो लड़के", "một con chó nhỏ",
    ],
)  # fmt: skip
def test_what_people_wrote_comes_back(kind: str, caption: str) -> None:
    vocabulary = Vocabulary.train([caption], kind=kind, min_count=1, size=99)  # type: ignore[arg-type]
    assert vocabulary.decode(vocabulary.encode(caption)) == caption.replace("ड़", "ड\u093c")  # which NFKC always parts


def test_each_character_of_a_script_without_spaces_is_a_word() -> None:
    vocabulary = Vocabulary.train(["T恤的3个人", "サッカーを ขี่"], min_count=1)
    for text, words in (
        ("t恤3个人", ["t", "恤", "3", "个", "人"]),
        ("サッカーを", ["サ", "ッ", "カ", "ー", "を"]),
        ("ขี่", ["ขี่"]),
    ):
        assert vocabulary.tokens(vocabulary.encode(text)) == words


def test_words_of_a_script_without_spaces_are_asked_for_where_they_are_tokens() -> None:
    captions = ["一只小狗在跑", "小猫在睡"]
    words = Vocabulary.train(captions, min_count=1)
    assert words.phrase("小狗") == words.phrase("小 狗") == tuple(words.encode("小狗")[1:-1])
    with pytest.raises(DataError, match="does not have '马'"):
        words.phrase("马")
    subwords = Vocabulary.train([*captions, "a dog"], kind="bpe", size=60)
    assert subwords.decode(subwords.phrase("dog")) == "dog"
    with pytest.raises(DataError, match=r"'小狗' cannot be asked for or ruled out: .* data\.vocabulary = \"word\""):
        subwords.phrase("小狗")


def test_a_vocabulary_of_nothing_is_refused() -> None:
    with pytest.raises(DataError, match="min_count"):
        Vocabulary.train(["one two three"], min_count=9)


def test_a_broken_file_is_refused(tmp_path: Path) -> None:
    (tmp_path / "tokenizer.json").write_text("{}")
    with pytest.raises(BundleError, match=r"tokenizer\.json"):
        Vocabulary.load(tmp_path / "tokenizer.json")


def test_words_that_were_split_before_are_joined_again() -> None:
    vocabulary = words()
    assert vocabulary.tokens(vocabulary.encode("a dog 's t-shirt")) == ["a", "dog's", "t-shirt"]


def test_a_phrase_is_known_or_near_words_are_named() -> None:
    vocabulary = Vocabulary.train(["a red dog", "a dog house"], min_count=1)
    assert vocabulary.tokens(vocabulary.phrase("Red dog")) == ["red", "dog"]
    for text, near in (
        ("dogs", "dog"),
        ("hous", "house"),
        ("red cat", "red"),
        ("zzz", "it has 4 words"),
    ):
        with pytest.raises(DataError, match=f"does not have '{text}'; .*{near}"):
            vocabulary.phrase(text)
    for text in ("<end>", " "):
        with pytest.raises(DataError, match="is no word"):
            vocabulary.phrase(text)
    for text, left in (("red,dog", "a ','"), ("dog/house", "a '/'"), ("red\u200bdog", r"the invisible U\+200B")):
        with pytest.raises(DataError, match=f"has {left}, which no word has"):
            vocabulary.phrase(text)
    for text in ("red dog.", "'Red' dog", "red, dog"):  # as captions have it
        assert vocabulary.tokens(vocabulary.phrase(text)) == ["red", "dog"]
