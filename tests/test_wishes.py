"""Wishes against every caption that there could be: none is refused that one of them meets."""

from __future__ import annotations

import itertools
import random
from collections.abc import Collection
from pathlib import Path

import pytest
import torch
from PIL import Image

from showtell import Captioner, Wishes
from showtell.bundle import build_encoder, build_model, save_bundle
from showtell.data.vocabulary import Vocabulary
from showtell.errors import DataError
from showtell.generate import find_captions
from showtell.inference import bundle_engine
from showtell.recipe import load_recipe

Ids = tuple[int, ...]
WORDS = ("a", "red", "dog", "dogs", "doghouse")


@pytest.fixture(scope="module", params=["word", "bpe"])
def captioner(request: pytest.FixtureRequest, tmp_path_factory: pytest.TempPathFactory) -> Captioner:
    torch.manual_seed(0)
    recipe = load_recipe("scenes", ["search.max_length=4"])
    captions = ["a dog", "a doghouse", "a house", "houses", "dogs", "a red dog"]
    vocabulary = Vocabulary.train(captions, kind=request.param, size=26, min_count=1)
    model = build_model(recipe, build_encoder(recipe), len(vocabulary))
    folder = tmp_path_factory.mktemp(request.param) / "bundle"
    save_bundle(folder, model=model, vocabulary=vocabulary, recipe=recipe, training={})
    return Captioner.load(folder)


@pytest.fixture(scope="module")
def photo(scenes: Path) -> Path:
    return min(scenes.rglob("*.png"))


def says(caption: Ids, phrase: Ids, continuing: Collection[int]) -> bool:
    """Whether the phrase's words are in the caption, the last one whole."""
    ends = (i + len(phrase) for i in range(len(caption)) if caption[i : i + len(phrase)] == phrase)
    return any(caption[end : end + 1] == () or caption[end] not in continuing for end in ends)


def meets(caption: Ids, wishes: Wishes, vocabulary: Vocabulary) -> bool:
    continuing, ids = vocabulary.continuing, vocabulary.phrase
    begins = ids(wishes.begins) if wishes.begins else ()
    rest = caption[len(begins) :]
    return (
        caption[: len(begins)] == begins
        and not (begins and rest and rest[0] in continuing)
        and all(any(says(caption, ids(w), continuing) for w in words.split("|")) for words in wishes.required)
        and not any(says(caption, ids(w), continuing) for words in wishes.excluded for w in words.split("|"))
    )


def can_be_met(wishes: Wishes, vocabulary: Vocabulary, most: int) -> bool:
    """Looks through all captions; tokens that no wish names are alike, but for those that go on with a word."""
    named = {i for text in WORDS for i in vocabulary.phrase(text)}
    others = [i for i in range(4, len(vocabulary)) if i not in named]
    first = [next((i for i in others if (i in vocabulary.continuing) == goes_on), None) for goes_on in (True, False)]
    tokens = sorted(named | {i for i in first if i is not None})
    captions = (caption for length in range(most + 1) for caption in itertools.product(tokens, repeat=length))
    return any(meets(caption, wishes, vocabulary) for caption in captions)


def draw_wishes(draw: random.Random) -> Wishes:
    def phrase() -> str:
        return " ".join(draw.choices(WORDS, k=draw.choice((1, 1, 2))))

    def any_of() -> str:
        return "|".join(phrase() for _ in range(draw.choice((1, 1, 2))))

    return Wishes(
        required=tuple(any_of() for _ in range(draw.choice((1, 2, 2, 3)))),
        excluded=(any_of(),) if draw.random() < 0.3 else (),
        begins=phrase() if draw.random() < 0.4 else "",
        max_tokens=draw.choice((1, 2, 3, 3, None)),
    )


def outcome(captioner: Captioner, wishes: Wishes, photo: Path) -> Ids | str:
    """The best caption, or the sentence that says that there is none."""
    try:
        options = captioner.options(wishes=wishes, beam=30)
        engine = bundle_engine(captioner.engine)
        pixels = torch.from_numpy(captioner.transform(Image.open(photo)))[None]
        ((best, *_),) = find_captions(engine.decoder, engine.features(pixels), engine.bundle.vocabulary, options)
        return best.tokens
    except DataError as error:
        return str(error)


@pytest.mark.parametrize("seed", [0, 1])
def test_only_what_no_caption_meets_is_refused(seed: int, captioner: Captioner, photo: Path) -> None:
    draw, seen = random.Random(seed), {"met": 0, "refused": 0, "not found": 0}
    for _ in range(20):
        wishes, vocabulary = draw_wishes(draw), bundle_engine(captioner.engine).bundle.vocabulary
        possible = can_be_met(wishes, vocabulary, wishes.max_tokens or captioner.defaults.max_length)
        found = outcome(captioner, wishes, photo)
        if isinstance(found, str):
            assert not possible, (wishes, found)
            seen["not found" if "was found; ask for" in found else "refused"] += 1
        else:
            assert meets(found, wishes, vocabulary), (wishes, found)
            seen["met"] += 1
    assert all(seen.values()), seen


@pytest.mark.parametrize(
    "wishes",
    [
        Wishes(required=("dog|a red dog a",), max_tokens=2),
        Wishes(required=("dog", "dog|red"), max_tokens=1),
        Wishes(required=("dog|red dogs",), begins="a dog", max_tokens=2),
        Wishes(required=("red dog", "dog a"), max_tokens=3),
        Wishes(required=("a red dog a",)),  # of a captioner that stops after four, `<end>` or not
    ],
)
def test_alternatives_and_phrases_that_overlap_are_met(wishes: Wishes, captioner: Captioner, photo: Path) -> None:
    (best,) = captioner.caption(photo, wishes=wishes)
    assert all(any(phrase in best.text for phrase in words.split("|")) for words in wishes.required)


@pytest.mark.parametrize(
    ("wishes", "sentence"),
    [
        (Wishes(required=("a", "a red|red dog"), max_tokens=1), "^'a red|red dog' takes 2 tokens in all"),
        (Wishes(required=("dog|a dog a",), excluded=("dog",), max_tokens=1), "must occur and must not"),
        (Wishes(required=("dog|red a",), excluded=("dog",), max_tokens=1), "takes 2 tokens"),
    ],
)
def test_what_is_refused_is_named(wishes: Wishes, sentence: str, captioner: Captioner) -> None:
    with pytest.raises(DataError, match=sentence.replace("|", r"\|")):
        captioner.options(wishes=wishes)
