"""Batches: each caption once an epoch, decided by (seed, epoch) alone; pictures and words are mirrored together."""

from __future__ import annotations

import itertools
import random
from collections import Counter
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
import torch
from PIL import Image

from showtell.config import Augmentation
from showtell.data.annotations import CaptionedImage, read_annotations
from showtell.data.augment import AugmentedView, augment_sample
from showtell.data.dataset import Batch, Group, epoch_order, feature_batches, image_batches, make_groups, pad
from showtell.data.encoding import encode_into
from showtell.data.features import FeatureCache
from showtell.data.vocabulary import Vocabulary
from showtell.images import ImageTransform, open_image

HALF = (0.5, 0.5, 0.5)
TRANSFORM = ImageTransform(size=24, resize=24, crop_mode="squash", mean=HALF, std=HALF, interpolation="bilinear")


@pytest.fixture(scope="module")
def data(scenes: Path) -> tuple[tuple[CaptionedImage, ...], Vocabulary]:
    images = read_annotations(scenes).split("train")
    return images, Vocabulary.train([c for image in images for c in image.captions], min_count=1)


def groups_of(data: tuple[tuple[CaptionedImage, ...], Vocabulary], captions: int = 2) -> list[Group]:
    return make_groups(data[0], data[1], captions_per_image=captions, max_tokens=30)


@pytest.mark.parametrize("captions", [1, 2, 5])
def test_every_caption_comes_once_an_epoch(captions: int, data: tuple[tuple[CaptionedImage, ...], Vocabulary]) -> None:
    groups = groups_of(data, captions)
    order = epoch_order(groups, batch_images=4, seed=3, epoch=1)
    said = Counter((g.image.image_id, c) for batch in order for g in batch for c in g.captions)
    assert said == Counter((image.image_id, c) for image in data[0] for c in image.captions)
    assert max(map(len, order)) == 4
    assert order == epoch_order(groups, batch_images=4, seed=3, epoch=1)
    assert order != epoch_order(groups, batch_images=4, seed=3, epoch=2)
    assert order != epoch_order(groups, batch_images=4, seed=4, epoch=1)


def test_tokens_are_framed_cut_and_padded(data: tuple[tuple[CaptionedImage, ...], Vocabulary]) -> None:
    vocabulary = data[1]
    (group, *_) = groups_of(data)
    assert all(ids[0] == vocabulary.start_id and ids[-1] == vocabulary.end_id for ids in group.tokens)
    cut = make_groups(data[0], vocabulary, captions_per_image=5, max_tokens=3)
    assert max(len(ids) for g in cut for ids in g.tokens) == 4
    assert pad([[(1, 2)], [(1, 2, 3), (4,)]]).tolist() == [[[1, 2, 0], [0, 0, 0]], [[1, 2, 3], [4, 0, 0]]]


@pytest.mark.parametrize("augment", ["none", "light", "strong", "aerial"])
def test_threads_change_nothing(augment: Augmentation, data: tuple[tuple[CaptionedImage, ...], Vocabulary]) -> None:
    order = epoch_order(groups_of(data), batch_images=5, seed=0, epoch=0)

    def batches(workers: int, epoch: int = 0) -> list[torch.Tensor]:
        found = image_batches(
            order, transform=TRANSFORM, vocabulary=data[1], augment=augment, swap_words=True, seed=0, epoch=epoch, workers=workers, max_tokens=30
        )  # fmt: skip
        return [tensor for batch in found for tensor in (batch.inputs, batch.tokens)]

    one, four, later = batches(1), batches(4), batches(2, epoch=1)
    assert all(torch.equal(a, b) for a, b in zip(one, four, strict=True))
    assert all(torch.equal(a, b) for a, b in zip(one, later, strict=True)) is (augment == "none")
    if augment == "none":
        expected = torch.from_numpy(TRANSFORM(open_image(order[0][0].image.path)))
        assert torch.equal(one[0][0], expected)


def test_words_are_mirrored_with_the_picture() -> None:
    picture = Image.new("RGB", (40, 40), "red")
    picture.paste((0, 0, 255), (20, 0, 40, 40))
    captions = ("red on the left, blue on the right",)
    seen = set()
    for seed in range(20):
        image, said = augment_sample(picture, captions, random.Random(seed), "light")
        red_is_left = image.getpixel((0, 5)) == (255, 0, 0)
        assert said == (captions if red_is_left else ("red on the right, blue on the left",))
        assert image.width >= 32
        seen.add(red_is_left)
    assert seen == {True, False}


def test_without_swapped_words_only_what_names_no_side_is_mirrored() -> None:
    for captions, sides in ((("red on the left, blue on the right",), {True}), (("two colours",), {True, False})):
        seen = set()
        for seed in range(20):
            image, said = augment_sample(two_halves(), captions, random.Random(seed), "light", swap_words=False)
            assert said == captions
            seen.add(image.getpixel((0, 5)) == (255, 0, 0))
        assert seen == sides


def test_what_another_caption_says_counts_too() -> None:
    """A group may hold some of an image's captions; the picture belongs to all of them."""
    for seed in range(20):
        image, said = augment_sample(
            four_quarters(), ("two colours",), random.Random(seed), "aerial", swap_words=False, known=("two colours", "red at the left")
        )  # fmt: skip
        assert said == ("two colours",)
        assert image.getpixel((2, 2)) == (255, 0, 0)


def test_strong_augmentation_changes_light_and_crops_closer_and_leaves_colours_alone() -> None:
    picture = Image.new("RGB", (100, 100), (200, 40, 40))
    sides, lights = [], []
    for seed in range(40):
        image, _ = augment_sample(picture, ("a red square",), random.Random(seed), "strong")
        red, green, blue = image.getpixel((image.width // 2, image.height // 2))
        assert red > green == blue
        sides.append(image.width)
        lights.append(red)
    assert 60 <= min(sides) < 80 and max(sides) > 90
    assert min(lights) < 170 and max(lights) > 230


def two_halves(left: str = "red", right: str = "blue", side: int = 40) -> Image.Image:
    picture = Image.new("RGB", (side, side), left)
    picture.paste(Image.new("RGB", (side // 2, side), right), (side // 2, 0))
    return picture


def test_a_view_is_always_the_same_for_the_same_picture_and_every_second_one_a_mirror_image() -> None:
    noise = Image.effect_noise((40, 40), 80).convert("RGB")
    views = [AugmentedView(TRANSFORM, number) for number in range(4)]
    assert np.array_equal(views[0](noise), TRANSFORM(noise))
    seen = [view(noise) for view in views]
    assert all(np.array_equal(view(noise.copy()), again) for view, again in zip(views, seen, strict=True))
    assert all(not np.array_equal(a, b) for a, b in itertools.combinations(seen, 2))
    assert not np.array_equal(AugmentedView(TRANSFORM, 2, "strong")(noise), seen[2])
    red_is_left = [view(two_halves())[0, 12, 0] > 0.9 for view in views]
    assert red_is_left == [True, False, True, False]
    assert len({view.fingerprint("f") for view in views}) == 4 and views[0].fingerprint("f") == "f"


@pytest.fixture(scope="module")
def seen(tmp_path_factory: pytest.TempPathFactory) -> tuple[dict[AugmentedView, FeatureCache], list[CaptionedImage]]:
    """Three caches of three images, whose only feature is the red of the leftmost column; and the images."""
    folder = tmp_path_factory.mktemp("seen")
    said = {"sides": "red on the left and blue on the right", "sign": "a sign says stop", "plain": "two colours"}
    images = []
    for side, (name, caption) in zip((40, 42, 44), said.items(), strict=True):  # one content would be encoded once
        two_halves(side=side).save(folder / f"{name}.png")
        images.append(CaptionedImage(name, folder / f"{name}.png", (caption,), "train"))
    caches = {}
    for view in (AugmentedView(TRANSFORM, number) for number in range(3)):
        cache = FeatureCache(
            folder / f"cache-{view.number}", fingerprint=view.fingerprint("f"), regions=1, feature_size=1
        )
        failures = encode_into(
            cache, [image.path for image in images], encode=lambda x: x[:, 0, 12, :1, None],
            transform=view,
        )  # fmt: skip
        assert not failures
        caches[view] = cache
    return caches, images


def test_teachers_features_are_of_the_view_that_is_drawn(
    seen: tuple[dict[AugmentedView, FeatureCache], list[CaptionedImage]],
) -> None:
    caches, images = seen
    vocabulary = Vocabulary.train([image.captions[0] for image in images], min_count=1)
    groups = make_groups(images, vocabulary, captions_per_image=5, max_tokens=20)
    drawn = set()
    for epoch in range(8):
        (batch,) = feature_batches(
            [groups], caches, vocabulary=vocabulary, swap_words=True, seed=0, epoch=epoch, max_tokens=20,
            of_teachers=[list(caches.values()), list(caches.values())],
        )  # fmt: skip
        assert [torch.equal(theirs, batch.inputs) for theirs in batch.of_teachers] == [True, True]
        drawn.add(float(batch.inputs[0]))  # red is on the left or on the right
    assert len(drawn) > 1


@pytest.mark.parametrize("swap_words", [True, False])
def test_a_view_is_true_of_all_captions_of_an_image(
    swap_words: bool, seen: tuple[dict[AugmentedView, FeatureCache], list[CaptionedImage]]
) -> None:
    caches, (image, *_) = seen
    both = replace(image, captions=("two colours", *image.captions))
    vocabulary = Vocabulary.train(list(both.captions), min_count=1)
    order = [make_groups([both], vocabulary, captions_per_image=1, max_tokens=30)]
    said = set()
    for epoch in range(30):
        (batch,) = feature_batches(
            order, caches, vocabulary=vocabulary, swap_words=swap_words, seed=0, epoch=epoch, max_tokens=30
        )
        said |= {
            (x.item() > 0.9, vocabulary.decode(t[0].tolist())) for x, t in zip(batch.inputs, batch.tokens, strict=True)
        }
    assert ((False, "two colours") in said) is swap_words
    assert (True, "two colours") in said


@pytest.mark.parametrize("swap_words", [True, False])
def test_cached_views_bring_their_words(
    swap_words: bool, seen: tuple[dict[AugmentedView, FeatureCache], list[CaptionedImage]]
) -> None:
    caches, images = seen
    vocabulary = Vocabulary.train([caption for image in images for caption in image.captions], min_count=1)
    order = [make_groups(images, vocabulary, captions_per_image=5, max_tokens=30)]

    def draw(epoch: int) -> Batch:
        (batch,) = feature_batches(
            order, caches, vocabulary=vocabulary, swap_words=swap_words, seed=0, epoch=epoch, max_tokens=30
        )
        return batch

    said = {name: set[tuple[bool, str]]() for name in ("sides", "sign", "plain")}
    for epoch in range(30):
        batch = draw(epoch)
        assert torch.equal(batch.inputs, draw(epoch).inputs)
        for name, feature, tokens in zip(batch.image_ids, batch.inputs, batch.tokens, strict=True):
            said[name].add((feature.item() > 0.9, vocabulary.decode(tokens[0].tolist())))
    as_it_is, mirrored = "red on the left and blue on the right", "red on the right and blue on the left"
    assert said["sides"] == {(True, as_it_is)} | ({(False, mirrored)} if swap_words else set())
    assert said["sign"] == {(True, "a sign says stop")}
    assert said["plain"] == {(True, "two colours"), (False, "two colours")}


def four_quarters() -> Image.Image:
    picture = Image.new("RGB", (40, 40))
    for place, colour in {(0, 0): "red", (20, 0): "lime", (0, 20): "blue", (20, 20): "white"}.items():
        picture.paste(Image.new("RGB", (20, 20), colour), place)
    return picture


def test_aerial_pictures_are_seen_turned_and_mirrored_in_all_eight_ways() -> None:
    quarters = four_quarters()
    views = [AugmentedView(TRANSFORM, number, "aerial") for number in range(8)]
    corners = {tuple(tuple(view(quarters)[:, y, x] > 0) for y in (2, 21) for x in (2, 21)) for view in views}
    assert len(corners) == 8


@pytest.mark.parametrize(
    "caption",
    [
        "two vertical lanes",
        "a house on the left",
        "Trees in the north-east corner",
        "the number 7",
        "trees above",
        "the leftmost plane",
        "a downward slope",
        "oben ein Baum",
        "a sign that reads stop",
    ],
)
def test_what_names_a_direction_is_not_turned(caption: str) -> None:
    for seed in range(20):
        image, said = augment_sample(four_quarters(), (caption,), random.Random(seed), "aerial", swap_words=False)
        assert said == (caption,)
        assert {image.getpixel((x, 2)) for x in (2, image.width - 3)} == {(255, 0, 0), (0, 255, 0)}  # up is still up
    assert not AugmentedView(TRANSFORM, 2, "aerial").suits((caption,))
    assert AugmentedView(TRANSFORM, 2, "light").suits((caption,))
    assert AugmentedView(TRANSFORM, 2, "light").captions((caption,)) == (caption,)
    assert AugmentedView(TRANSFORM, 1, "aerial").captions(("red at the left",)) == ("red at the right",)
    assert not AugmentedView(TRANSFORM, 3, "aerial").suits(("red at the left",))
    assert AugmentedView(TRANSFORM, 1, "aerial").suits(("red at the left",))
    assert not AugmentedView(TRANSFORM, 1, "aerial").suits(("red at the left",), swap_words=False)
    assert AugmentedView(TRANSFORM, 2, "aerial").suits(("planes at a terminal",))
