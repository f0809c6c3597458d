"""`Captioner`: the same caption whatever the batch, the order and the kind of source."""

from __future__ import annotations

import itertools
import json
import re
import shutil
from dataclasses import replace
from pathlib import Path
from typing import Any, Literal

import numpy as np
import pytest
import torch
from PIL import Image, ImageOps

from showtell import Caption, Captioner, Sampling, Wishes
from showtell.bundle import build_encoder, build_model, load_bundle, save_bundle
from showtell.captioning import Word
from showtell.config import SearchConfig
from showtell.data.annotations import read_annotations
from showtell.data.mirror import mirror_caption
from showtell.data.vocabulary import Vocabulary
from showtell.errors import BundleError, DataError, ImageError
from showtell.evaluation import evaluate_captioner
from showtell.images import views_of
from showtell.recipe import load_recipe


@pytest.fixture(scope="module")
def captioner(tiny_bundle: Path) -> Captioner:
    return Captioner.load(tiny_bundle)


@pytest.fixture(scope="module")
def photos(scenes: Path) -> list[Path]:
    return [image.path for image in read_annotations(scenes).images[:9]]


@pytest.mark.parametrize(
    ("precision", "nats"),
    [
        ("float32", 2e-5),  # the same sums in another order: 4e-6 was the most seen, a caption having 3.5
        ("auto", 5e-2),  # bfloat16, where the encoder computes in it, has 8 bits
    ],
)
def test_batch_and_order_change_nothing(
    precision: Literal["auto", "float32"], nats: float, tiny_bundle: Path, photos: list[Path]
) -> None:
    captioner = Captioner.load(tiny_bundle, precision=precision)
    alone = [captioner.caption([photo])[0] for photo in photos]
    for size in (2, 4, 32):
        together = captioner.caption(photos, batch_size=size)
        assert [c.text for c in together] == [c.text for c in alone]
        assert [c.log_prob for c in together] == pytest.approx([c.log_prob for c in alone], abs=nats, rel=0)
    backwards = captioner.caption(photos[::-1])
    assert [c.text for c in backwards[::-1]] == [c.text for c in alone]


def test_confidence_is_the_mean_of_all_that_the_model_said(captioner: Captioner, photos: list[Path]) -> None:
    searched = captioner.caption(photos, beam=5, n=5)
    drawn = captioner.caption(photos, n=5, sampling=Sampling(seed=2))
    several = [caption for best in (*searched, *drawn) for caption in (best, *best.alternatives)]
    assert {caption.finished for caption in several} == {True, False}
    for caption in several:
        said = [word.log_prob for word in caption.words]
        end = caption.log_prob - sum(said)
        assert caption.finished == (end < -1e-3)  # nobody is sure of an end here
        said += [end] if caption.finished else []
        assert caption.confidence == pytest.approx(np.exp(np.mean(said)), rel=1e-4)


def test_a_caption_is_printed_as_people_read_it() -> None:
    words = tuple(Word(text, -0.5, np.full((8, 8), 1 / 64, dtype=np.float32)) for text in ("a", "dog"))
    caption = Caption("a dog", -1.5, -0.5, words)
    assert str(caption) == "a dog"
    assert repr(caption) == "Caption(text='a dog', log_prob=-1.5, score=-0.5, alternatives=(), finished=True)"
    assert repr(caption.words[0]) == "Word(text='a', log_prob=-0.5)"


def test_n_best(captioner: Captioner, photos: list[Path]) -> None:
    for best in captioner.caption(photos, beam=4, n=4):
        ranked = [best, *best.alternatives]
        assert len({caption.text for caption in ranked}) == 4
        ended = [caption for caption in ranked if len(caption.words) < 6]  # those cut off at max_length follow behind
        assert ranked[: len(ended)] == ended
        assert all(one.score >= other.score for one, other in itertools.pairwise(ended))
        for caption in ranked:
            assert all(word.log_prob <= 0 for word in caption.words)
            assert caption.log_prob <= sum(word.log_prob for word in caption.words) + 1e-4
            for word in caption.words:
                assert word.attention is not None
                assert word.attention.shape == captioner.engine.bundle.grid
                assert float(np.sum(word.attention)) == pytest.approx(1.0, abs=1e-4)


def test_samples_depend_on_the_seed(captioner: Captioner, photos: list[Path]) -> None:
    def texts(seed: int) -> list[list[str]]:
        sampling = Sampling(temperature=3.0, top_p=1.0, seed=seed)
        drawn = captioner.caption(photos, n=3, sampling=sampling)
        return [[best.text, *(other.text for other in best.alternatives)] for best in drawn]

    first = texts(1)
    assert [len(row) for row in first] == [3] * len(photos)
    assert texts(1) == first != texts(2)


@pytest.mark.parametrize(
    "wrong", [{"temperature": 0.0}, {"temperature": 1e-40}, {"top_p": 0.0}, {"top_p": 1.5}, {"seed": -1}]
)
def test_sampling_refuses_nonsense(wrong: dict[str, float]) -> None:
    with pytest.raises(DataError, match=f"{next(iter(wrong))} is"):
        Sampling(**wrong)  # type: ignore[arg-type]


def test_every_kind_of_source(captioner: Captioner, photos: list[Path]) -> None:
    path = photos[0]
    with path.open("rb") as stream:
        texts = {captioner.caption(s)[0].text for s in (path, str(path), path.read_bytes(), stream, Image.open(path))}
    assert len(texts) == 1


def test_a_broken_image(captioner: Captioner, photos: list[Path], tmp_path: Path) -> None:
    broken = tmp_path / "broken.png"
    broken.write_bytes(b"no")
    with pytest.raises(ImageError, match="broken"):
        captioner.caption([photos[0], broken])
    results = list(captioner.caption_each([photos[0], broken, photos[1]]))
    assert [isinstance(result, ImageError) for result in results] == [False, True, False]


def every(best: Caption) -> list[str]:
    return [best.text, *(other.text for other in best.alternatives)]


def test_words_must_and_must_not_occur(captioner: Captioner, photos: list[Path]) -> None:
    usual = " ".join(text for best in captioner.caption(photos, n=4) for text in every(best)).split()
    unsaid = next(word for word in captioner.engine.bundle.vocabulary.listed()[4:] if word not in usual)
    wishes = Wishes(required=(f"{unsaid}|{usual[0]}", unsaid), excluded=(usual[0],))
    for best in captioner.caption(photos, n=2, wishes=wishes):
        for text in every(best):
            assert unsaid in text.split() and usual[0] not in text.split()
    others = list(dict.fromkeys(usual))[:2]
    for best in captioner.caption(photos, n=2, wishes=Wishes(excluded=("|".join(others),))):
        assert not any(word in text.split() for text in every(best) for word in others)


def test_a_part_of_a_word_is_not_the_word(photos: list[Path], tmp_path: Path) -> None:
    torch.manual_seed(0)
    recipe = load_recipe("scenes", ["search.max_length=6"])
    captions = ["a dog", "a doghouse", "a house", "houses", "dogs", "a red dog"]
    vocabulary = Vocabulary.train(captions, kind="bpe", size=26)
    model = build_model(recipe, build_encoder(recipe), len(vocabulary))
    with torch.no_grad():  # it likes to say "house"
        model.decoder.output.bias[vocabulary.phrase("doghouse")[1]] += 3
    save_bundle(tmp_path / "b", model=model, vocabulary=vocabulary, recipe=recipe, training={})
    captioner, word = Captioner.load(tmp_path / "b"), re.compile(r"(?<!\w)dog(?![\w'-])")
    (dog,) = vocabulary.phrase("dog")
    assert len(vocabulary.phrase("doghouse")) > 1 and vocabulary.phrase("doghouse")[0] == dog
    said = [text for best in captioner.caption(photos, n=4, wishes=Wishes(required=("dog",))) for text in every(best)]
    assert all(word.search(text) for text in said)
    free = [text for best in captioner.caption(photos, n=4, wishes=Wishes(excluded=("dog",))) for text in every(best)]
    assert not any(word.search(text) for text in free)
    both = Wishes(required=("doghouse",), excluded=("dog",))
    for best in captioner.caption(photos, n=2, wishes=both):
        assert all("doghouse" in text and not word.search(text) for text in every(best))
    with pytest.raises(DataError, match="'red dog' must occur and must not"):
        captioner.caption(photos, wishes=Wishes(required=("red dog",), excluded=("dog",)))
    vars(captioner.engine.bundle.vocabulary)["continuing"] = ()  # as if it knew nothing of parts
    said = [text for best in captioner.caption(photos, n=4, wishes=Wishes(required=("dog",))) for text in every(best)]
    assert not all(word.search(text) for text in said)


def test_wishes_that_only_a_repetition_would_meet(tiny_bundle: Path, photos: list[Path]) -> None:
    strict = Captioner.load(tiny_bundle)
    strict.engine.defaults = replace(strict.defaults, no_repeat_ngram=1, max_length=9)
    for consensus in (0, 10):
        with pytest.raises(DataError, match="without the same word twice was found"):
            strict.caption(photos[:1], wishes=Wishes(required=("a red", "a blue"), consensus=consensus))


@pytest.mark.parametrize(
    ("wishes", "sentence"),
    [
        (Wishes(required=("sircle",)), "does not have 'sircle'; near it are .*circle"),
        (Wishes(excluded=("",)), "'' is no word"),
        (Wishes(required=("circle",), excluded=("circle",)), "'circle' must occur and must not"),
        (Wishes(required=("circle red square blue left of the",)), "takes 7 tokens in all, and captions end after 6"),
        (Wishes(required=("circle red square blue", "left of the")), "with all that must occur .* was found"),
    ],
)
def test_wishes_that_cannot_be_met(captioner: Captioner, photos: list[Path], wishes: Wishes, sentence: str) -> None:
    with pytest.raises(DataError, match=sentence):
        captioner.caption(photos[:1], wishes=wishes)


@pytest.mark.parametrize(
    ("values", "sentence"),
    [
        ({"required": ("a",) * 5}, "5 words are required"),
        ({"views": 9}, "9 views"),
        ({"consensus": 101}, "101 candidates"),
        ({"diversity": -1.0}, "diversity is -1"),
        ({"diverse": True, "excluded": ("a",)}, "do not go together"),
        ({"diverse": True, "consensus": 5}, "how much they agree"),
    ],
)
def test_wishes_are_checked(values: dict[str, Any], sentence: str) -> None:
    with pytest.raises(DataError, match=sentence):
        Wishes(**values)


def test_diverse_captions_differ(tiny_bundle: Path, captioner: Captioner, photos: list[Path]) -> None:
    diverse = captioner.caption(photos, n=3, wishes=Wishes(diverse=True))
    for best in diverse:
        assert len(set(every(best))) == 3
    consensual = Captioner.load(tiny_bundle)
    consensual.engine.defaults = replace(consensual.defaults, consensus=10)
    again = consensual.caption(photos, n=3, wishes=Wishes(diverse=True))
    assert [every(best) for best in again] == [every(best) for best in diverse]


def test_the_consensus_is_a_candidate_and_the_best_by_its_score(captioner: Captioner, photos: list[Path]) -> None:
    candidates = captioner.caption(photos, n=8)
    for chosen, of in zip(captioner.caption(photos, n=3, wishes=Wishes(consensus=8)), candidates, strict=True):
        assert set(every(chosen)) <= set(every(of))
        scores = [chosen.score, *(other.score for other in chosen.alternatives)]
        assert scores == sorted(scores, reverse=True)
        assert 0 < scores[0] <= 10


def test_a_bundle_beside_itself_says_the_same(tiny_bundle: Path, captioner: Captioner, photos: list[Path]) -> None:
    twice = Captioner.load(tiny_bundle, ensemble=[tiny_bundle])
    assert len({id(encoder) for encoder in twice.engine._encoders}) == 1
    for one, two in zip(captioner.caption(photos), twice.caption(photos), strict=True):
        assert one.text == two.text
        assert one.log_prob == pytest.approx(two.log_prob, abs=1e-3)
        for a, b in zip(one.words, two.words, strict=True):
            np.testing.assert_allclose(a.attention, b.attention, atol=1e-5)


def test_an_ensemble_needs_the_same_words(tiny_bundle: Path, tmp_path: Path) -> None:
    from showtell.bundle import build_encoder, build_model, save_bundle
    from showtell.data.vocabulary import Vocabulary
    from showtell.recipe import load_recipe

    recipe, vocabulary = load_recipe("scenes"), Vocabulary.train(["other words"], min_count=1)
    model = build_model(recipe, build_encoder(recipe), len(vocabulary))
    save_bundle(tmp_path / "other", model=model, vocabulary=vocabulary, recipe=recipe, training={})
    with pytest.raises(BundleError, match="has other words than"):
        Captioner.load(tiny_bundle, ensemble=[tmp_path / "other"])


def test_views_of_a_picture_without_sides_are_one(captioner: Captioner) -> None:
    """Of one colour alone, every view is the same picture; the probabilities' mean is theirs, "left" and "right" aside."""
    plain = Image.new("RGB", (90, 60), (200, 30, 30))
    (one,), (four,) = (captioner.caption([plain], wishes=Wishes(("circle",), views=count)) for count in (1, 4))
    assert one.text == four.text != ""
    ids = captioner.engine._mirrored_words
    assert (ids[ids] == torch.arange(len(ids), device=ids.device)).all()
    vocabulary = captioner.engine.bundle.vocabulary
    assert int(ids[vocabulary.phrase("left")[0]]) == vocabulary.phrase("right")[0]


def test_four_views_are_four_pictures(captioner: Captioner, photos: list[Path]) -> None:
    with Image.open(photos[0]) as image:
        pixels = [view(image.convert("RGB")) for view in views_of(captioner.transform, 4)]
    np.testing.assert_array_equal(pixels[1], pixels[0][..., ::-1])
    np.testing.assert_array_equal(pixels[3], pixels[2][..., ::-1])
    assert {p.shape for p in pixels} == {pixels[0].shape}
    assert not np.array_equal(pixels[0], pixels[2])


def test_eight_views_are_all_ways_to_turn_and_mirror(captioner: Captioner, photos: list[Path]) -> None:
    with Image.open(photos[0]) as image:
        picture = ImageOps.fit(image.convert("RGB"), (captioner.transform.size,) * 2)
    views = views_of(captioner.transform, 8, turned=True)
    seen = {view(picture).tobytes() for view in views}
    assert len(seen) == 8
    turned = {
        captioner.transform(way).tobytes()
        for quarter in (picture, *(picture.transpose(t) for t in (2, 3, 4)))
        for way in (quarter, ImageOps.mirror(quarter))
    }
    assert seen == turned
    assert [view.swaps_sides for view in views] == [False, True, True, False, False, False, False, False]
    left, right = (captioner.engine.bundle.vocabulary.phrase(word)[0] for word in ("left", "right"))
    for view, swapped in zip(views, [False, True, True, *[False] * 5], strict=True):
        member = captioner.engine._member(captioner.engine.bundle, captioner.engine.decoder, view)
        assert (member.words is not None and int(member.words[left]) == right) == swapped
    assert views_of(captioner.transform, 2, turned=True) == views_of(captioner.transform, 2)


def test_what_is_no_captioner_or_no_image_is_said(tiny_bundle: Path, photos: list[Path]) -> None:
    for load in (Captioner.load, load_bundle):
        with pytest.raises(BundleError, match="the captioner is None; expected a folder, or a name on the hub"):
            load(None)  # type: ignore[arg-type]
    captioner = Captioner.load(tiny_bundle)
    for wrong, kind in (
        (np.zeros((8, 8, 3), np.uint8), "ndarray"),
        (iter(photos), "list_iterator"),
        (None, "NoneType"),
    ):
        with pytest.raises(ImageError, match=f"of type {kind}, expected a path, bytes, a file or a PIL image"):
            captioner.caption(wrong)  # type: ignore[arg-type]
    for one in ("photo.jpg", photos[0], 5):
        with pytest.raises(DataError, match=r"images are .*; expected several, such as a list of paths"):
            next(captioner.caption_each(one))  # type: ignore[arg-type]


def test_numbers_that_make_no_sense_are_refused(tiny_bundle: Path, photos: list[Path]) -> None:
    captioner = Captioner.load(tiny_bundle)
    with pytest.raises(DataError, match="n is 0; expected 1 or more"):
        captioner.caption(photos[:1], n=0)
    with pytest.raises(DataError, match="beam is 0; expected 1 or more"):
        captioner.caption(photos[:1], beam=0)
    for beam, shown in ((2.5, "2.5"), ("x", "'x'")):
        with pytest.raises(DataError, match=f"beam is {shown}; expected a whole number"):
            captioner.caption(photos[:1], beam=beam)  # type: ignore[arg-type]
    with pytest.raises(DataError, match="workers is None; expected a whole number"):
        next(captioner.caption_each(photos[:1], workers=None))  # type: ignore[arg-type]
    assert captioner.caption(photos[:1], beam=np.int64(2))  # type: ignore[arg-type]
    with pytest.raises(DataError, match="precision is 'float8'; expected one of auto, float32"):
        Captioner.load(tiny_bundle, precision="float8")  # type: ignore[arg-type]


def test_only_a_captioner_that_learned_turned_pictures_turns_them(
    scenes: Path, photos: list[Path], tmp_path: Path
) -> None:
    """The same in whatever direction a picture lies, and its maps turn with it."""
    captions = [caption for image in read_annotations(scenes).split("train") for caption in image.captions]
    vocabulary = Vocabulary.train(captions, min_count=1)
    for name, keys in (("upright", []), ("turned", ["train.phases.0.augment=aerial", "search.views=8"])):
        recipe = load_recipe("scenes", [*keys, "search.max_length=6"])
        torch.manual_seed(0)
        model = build_model(recipe, build_encoder(recipe), len(vocabulary))
        with torch.no_grad():
            model.decoder.attention.score.weight.mul_(40)
        save_bundle(tmp_path / name, model=model, vocabulary=vocabulary, recipe=recipe, training={})
    with pytest.raises(DataError, match=r"8 views: .*upright looks .* at most 4 ways.*aerial"):
        Captioner.load(tmp_path / "upright").caption(photos[:1], wishes=Wishes(views=8))
    together = Captioner.load(tmp_path / "turned", ensemble=[tmp_path / "upright"])
    assert together.caption(photos[:1])[0].text  # each looks in as many ways as it has
    assert [len(views) for views in together.engine._views(together.defaults)] == [8, 4]
    captioner = Captioner.load(tmp_path / "turned")
    assert captioner.defaults.views == 8
    with Image.open(photos[0]) as image:
        picture = ImageOps.fit(image.convert("RGB"), (captioner.transform.size,) * 2)
    ways = [picture, ImageOps.mirror(picture), picture.transpose(Image.Transpose.ROTATE_90)]
    first, mirrored, turned = captioner.caption(ways)
    assert first.text == mirror_caption(mirrored.text)
    assert first.words[0].text in (turned.words[0].text, mirror_caption(turned.words[0].text))
    maps = [caption.words[0].attention for caption in (first, mirrored, turned)]
    assert maps[0] is not None and maps[1] is not None and maps[2] is not None
    np.testing.assert_allclose(maps[1], maps[0][:, ::-1], atol=5e-3)
    np.testing.assert_allclose(maps[2], np.rot90(maps[0]), atol=5e-3)
    assert not np.allclose(maps[0], maps[2], atol=5e-3)


def test_an_earlier_bundle_that_never_turned_a_picture_reports_the_views_that_it_takes(
    tiny_bundle: Path, scenes: Path, tmp_path: Path
) -> None:
    earlier = shutil.copytree(tiny_bundle, tmp_path / "earlier")
    config = json.loads((earlier / "config.json").read_text())
    config["recipe"]["train"]["phases"] = [{"augment": "aerial"}]  # and each image seen in one view
    config["recipe"]["search"]["views"] = 8
    (earlier / "config.json").write_text(json.dumps(config))
    captioner = Captioner.load(earlier)
    assert captioner.options().views == len(captioner.engine._views(captioner.options())[0]) == 4
    assert evaluate_captioner(Captioner.load(earlier), scenes, split="val").report.protocol.decoding.endswith("4 views")
    assert captioner.engine.looking(SearchConfig(**captioner.engine.bundle.search).views)  # as choosing a decoding does


@pytest.mark.parametrize("views", [1, 2])
def test_maps_leave_out_the_mean_region(views: int, scenes: Path, photos: list[Path], tmp_path: Path) -> None:
    """A decoder that looks at the grid and at its mean: the drawing has the grid's share, seen mirrored as well or not."""
    recipe = load_recipe("scenes", ["encoder.pooled=both", "search.max_length=6", f"search.views={views}"])
    captions = [caption for image in read_annotations(scenes).split("train") for caption in image.captions]
    vocabulary = Vocabulary.train(captions, min_count=1)
    torch.manual_seed(0)
    model = build_model(recipe, build_encoder(recipe), len(vocabulary))
    with torch.no_grad():  # so that it looks here and there by more than rounding
        model.decoder.attention.score.weight.mul_(40)
    save_bundle(tmp_path / "b", model=model, vocabulary=vocabulary, recipe=recipe, training={})
    captioner = Captioner.load(tmp_path / "b")
    photo = Image.open(photos[0])
    (caption,), (mirrored,) = captioner.caption(photo, n=1), captioner.caption(ImageOps.mirror(photo), n=1)
    assert caption.words
    for word in caption.words:
        assert word.attention is not None and word.attention.shape == captioner.grid == (4, 4)
        assert 0 < float(np.sum(word.attention)) < 1
    if views == 2:  # the mean of a picture's map and of its mirror image's, brought back
        first, other = caption.words[0].attention, mirrored.words[0].attention
        assert first is not None and other is not None
        np.testing.assert_allclose(first, other[:, ::-1], atol=5e-3)
        assert not np.allclose(first, other, atol=5e-3)
