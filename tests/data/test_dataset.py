"""Batches: each caption once an epoch, decided by (seed, epoch) alone; pictures and words are mirrored together."""

from __future__ import annotations

import random
from collections import Counter
from pathlib import Path

import pytest
import torch
from PIL import Image

from showtell.data.annotations import CaptionedImage, read_annotations
from showtell.data.dataset import Augmentation, Group, augment_sample, epoch_order, image_batches, make_groups, pad
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


@pytest.mark.parametrize("augment", ["none", "light", "strong"])
def test_threads_change_nothing(augment: Augmentation, data: tuple[tuple[CaptionedImage, ...], Vocabulary]) -> None:
    order = epoch_order(groups_of(data), batch_images=5, seed=0, epoch=0)

    def batches(workers: int, epoch: int = 0) -> list[torch.Tensor]:
        found = image_batches(
            order, transform=TRANSFORM, vocabulary=data[1], augment=augment, mirror=True, seed=0, epoch=epoch, workers=workers, max_tokens=30
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
        image, said = augment_sample(picture, captions, random.Random(seed))
        red_is_left = image.getpixel((0, 5)) == (255, 0, 0)
        assert said == (captions if red_is_left else ("red on the right, blue on the left",))
        assert image.width >= 32
        seen.add(red_is_left)
    assert seen == {True, False}


def test_strong_augmentation_changes_light_and_crops_closer_and_leaves_colours_alone() -> None:
    picture = Image.new("RGB", (100, 100), (200, 40, 40))
    sides, lights = [], []
    for seed in range(40):
        image, _ = augment_sample(picture, ("a red square",), random.Random(seed), strong=True)
        red, green, blue = image.getpixel((image.width // 2, image.height // 2))
        assert red > green == blue
        sides.append(image.width)
        lights.append(red)
    assert 60 <= min(sides) < 80 and max(sides) > 90
    assert min(lights) < 170 and max(lights) > 230
