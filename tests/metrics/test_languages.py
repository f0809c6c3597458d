"""What people wrote, said by a captioner, has full scores in every script."""

from __future__ import annotations

import unicodedata
from typing import Literal

import numpy as np
import pytest

from showtell.data.vocabulary import Vocabulary
from showtell.errors import DataError
from showtell.metrics import Protocol, evaluate
from showtell.metrics.consensus import expected_utility
from showtell.metrics.reward import Reward

CAPTIONS = {
    "English": [
        ["A small dog's ball lies on the t-shirt.", "The ball of a dog, on green cloth!"],
        ["Two boats drift across the quiet lake.", "Boats cross a lake in the morning."],
    ],
    "Hindi": [
        ["एक छोटा कुत्ता हरी घास पर दौड़ रहा है।", "कुत्ता मैदान में गेंद के पीछे दौड़ता है।"],
        ["दो लड़कियाँ नदी के किनारे बैठी हैं।", "नदी के पास दो बच्चियाँ हँस रही हैं।"],
    ],
    "Vietnamese, marks apart": [
        ["Một con chó nhỏ đang chạy trên bãi cỏ.", "Con chó đuổi theo quả bóng màu đỏ."],
        ["Hai chiếc thuyền trôi trên mặt hồ yên tĩnh.", "Những chiếc thuyền đi qua hồ vào buổi sáng."],
    ],
    "Chinese": [
        ["一只穿着T恤的小狗，在草地上奔跑。", "小狗追着红色的球跑过草地。"],
        ["2艘（小）船漂在安静的湖面上。", "早晨，几艘小船划过“大湖”。"],
    ],
    "Japanese": [
        ["Tシャツを着た少年がサッカーをする。", "広場で少年たちがボールを追いかけている。"],
        ["静かな湖に二そうのボートが浮かんでいる。", "朝の湖を、ボートがゆっくりと渡る。"],
    ],
    "Thai": [
        ["สุนัขตัวเล็กกำลังวิ่งบนสนามหญ้าสีเขียว", "สุนัขวิ่งไล่ลูกบอลสีแดง"],
        ["เรือสองลำลอยอยู่ในทะเลสาบที่เงียบสงบ", "เรือแล่นข้ามน้ำในตอนเช้า 3 ลำ"],
    ],
}
CAPTIONS["Vietnamese, marks apart"] = [
    [unicodedata.normalize("NFD", caption) for caption in captions] for captions in CAPTIONS["Vietnamese, marks apart"]
]


@pytest.fixture(params=CAPTIONS)
def references(request: pytest.FixtureRequest) -> list[list[str]]:
    return CAPTIONS[request.param]


@pytest.fixture(params=["word", "bpe"])
def vocabulary(request: pytest.FixtureRequest, references: list[list[str]]) -> Vocabulary:
    kind: Literal["word", "bpe"] = request.param
    return Vocabulary.train([c for captions in references for c in captions], kind=kind, min_count=1, size=80)


@pytest.mark.parametrize("nth", [0, 1])
def test_references_said_by_a_captioner_have_full_scores(
    vocabulary: Vocabulary, references: list[list[str]], nth: int
) -> None:
    said = [vocabulary.decode(vocabulary.encode(captions[nth])) for captions in references]
    protocol = Protocol.of(references, dataset="made up", split="val", decoding="none", version="0")
    one_each = [[captions[nth]] for captions in references]
    for written in (references, one_each):
        scores = evaluate(said, written, protocol=protocol).scores
        for name in ("bleu_1", "bleu_2", "bleu_3", "bleu_4", "rouge_l"):
            assert scores[name] == pytest.approx(1, abs=1e-9), name
    assert scores["cider"] == pytest.approx(10)


@pytest.mark.parametrize("language", CAPTIONS)
def test_the_protocol_says_where_characters_are_tokens(language: str) -> None:
    protocol = Protocol.of(CAPTIONS[language], dataset="made up", split="val", decoding="beam 3", version="0")
    expected = "PTB and character" if language in ("Chinese", "Japanese", "Thai") else "PTB"
    assert f", 2 references each, {expected} tokens, beam 3" in str(protocol)


def test_the_reward_of_ids_is_full_for_a_reference_and_less_for_another_images(
    vocabulary: Vocabulary, references: list[list[str]]
) -> None:
    ids = [[caption[1:] for caption in vocabulary.encode_all(captions)] for captions in references]
    alone = Reward.from_references([captions[:1] for captions in ids], end=vocabulary.end_id)
    said = [captions[0] for captions in ids]
    np.testing.assert_allclose(alone.cider_d(said, [0, 1]), 10)
    np.testing.assert_allclose(alone.bleu_4(said, [0, 1]), 1)
    assert (alone.cider_d(said, [1, 0]) < 5).all()
    cut = [[*caption[: len(caption) // 2], vocabulary.end_id] for caption in said]
    assert (alone.cider_d(cut, [0, 1]) < 9).all()


def test_the_consensus_is_what_most_candidates_are_like(vocabulary: Vocabulary, references: list[list[str]]) -> None:
    first, other = (vocabulary.encode(captions[0])[1:] for captions in references)
    worth = expected_utility([first, first, other], [-1.0, -1.0, -1.0])
    assert worth[0] == worth[1] > worth[2]


def test_a_protocol_of_nothing_is_a_sentence() -> None:
    with pytest.raises(DataError, match="no references"):
        Protocol.of([])
