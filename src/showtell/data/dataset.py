"""Batches for training: captions are grouped by image, so that what depends on the image alone is done once.

B images · K captions per image · T steps · R regions · F feature size · S side of the input in pixels
"""

from __future__ import annotations

import random
from collections.abc import Callable, Iterator, Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import torch
from torch import Tensor

from showtell.config import Augmentation
from showtell.data.annotations import CaptionedImage
from showtell.data.augment import AugmentedView, augment_sample
from showtell.data.features import FeatureCache
from showtell.data.vocabulary import Vocabulary
from showtell.images import ImageTransform, open_image

_POOL = 16  # batches sorted by length together: little padding, but a different order every epoch


@dataclass(frozen=True, slots=True)
class Batch:
    """`inputs` are features (B,R,F), images (B,3,S,S) or maps of a stem (B,C,h,w).

    `tokens` (B,K,T) start with `<start>` and are padded with 0. `of_teachers` are the features of the same views from
    teachers' encoders.
    """

    inputs: Tensor
    tokens: Tensor
    image_ids: tuple[str, ...]
    of_teachers: tuple[Tensor, ...] = ()

    def to(self, device: torch.device) -> Batch:
        """The same batch on a device."""
        of_teachers = tuple(features.to(device) for features in self.of_teachers)
        return Batch(self.inputs.to(device), self.tokens.to(device), self.image_ids, of_teachers)


@dataclass(frozen=True, slots=True)
class Group:
    """Up to K captions of one image: the unit that is shuffled."""

    image: CaptionedImage
    captions: tuple[str, ...]
    tokens: tuple[tuple[int, ...], ...]


def make_groups(
    images: Sequence[CaptionedImage], vocabulary: Vocabulary, *, captions_per_image: int, max_tokens: int
) -> list[Group]:
    """Every caption of every image, `captions_per_image` at most in a group, cut to `max_tokens` after `<start>`."""
    groups = []
    for image in images:
        encoded = [tuple(ids[: max_tokens + 1]) for ids in vocabulary.encode_all(image.captions)]
        for i in range(0, len(encoded), captions_per_image):
            chunk = slice(i, i + captions_per_image)
            groups.append(Group(image, image.captions[chunk], tuple(encoded[chunk])))
    return groups


def epoch_order(groups: Sequence[Group], *, batch_images: int, seed: int, epoch: int) -> list[list[Group]]:
    """The batches of an epoch: each group once, similar lengths within a batch, decided by (seed, epoch) alone."""
    draw = random.Random(f"order {seed} {epoch}")
    shuffled = list(groups)
    draw.shuffle(shuffled)
    pool = batch_images * _POOL
    batches = []
    for start in range(0, len(shuffled), pool):
        part = sorted(shuffled[start : start + pool], key=lambda group: max(map(len, group.tokens)))
        batches += [part[i : i + batch_images] for i in range(0, len(part), batch_images)]
    draw.shuffle(batches)
    return batches


def pad(rows: Sequence[Sequence[Sequence[int]]], pad_id: int = 0) -> Tensor:
    """Token ids of B images × up to K captions × up to T tokens -> (B,K,T)."""
    width = max(len(captions) for captions in rows)
    steps = max(len(ids) for captions in rows for ids in captions)
    tokens = np.full((len(rows), width, steps), pad_id, dtype=np.int64)
    for i, captions in enumerate(rows):
        for k, ids in enumerate(captions):
            tokens[i, k, : len(ids)] = ids
    return torch.from_numpy(tokens)


def feature_batches(
    order: Sequence[Sequence[Group]],
    caches: Mapping[AugmentedView, FeatureCache],
    *,
    vocabulary: Vocabulary,
    swap_words: bool,
    seed: int,
    epoch: int,
    max_tokens: int,
    of_teachers: Sequence[Sequence[FeatureCache]] = (),
) -> Iterator[Batch]:
    """Batches whose inputs come from caches: the CNN does not run. `of_teachers`: for each encoder of teachers, its
    caches of these views.

    Each group gets one view of its image, drawn by (seed, epoch), and captions that are true of it. It gets the first
    view where any of the image's captions cannot be made true or, without `swap_words`, would have to change.
    """
    views, sources = list(caches), [list(caches.values()), *of_teachers]

    def sample(group: Group) -> tuple[tuple[Tensor, ...], tuple[tuple[int, ...], ...]]:
        number, captions = 0, group.captions
        if len(views) > 1:
            draw = random.Random(f"view {seed} {epoch} {group.image.image_id} {group.captions[0]}")
            drawn = draw.randrange(len(views))
            if views[drawn].suits(group.image.captions, swap_words=swap_words):
                number, captions = drawn, views[drawn].captions(group.captions)
        tokens = group.tokens
        if captions != group.captions:
            tokens = tuple(tuple(vocabulary.encode(caption)[: max_tokens + 1]) for caption in captions)
        return tuple(features_of(of_one[number], group.image) for of_one in sources), tokens

    def features_of(cache: FeatureCache, image: CaptionedImage) -> Tensor:
        row = cache.row(image.path)
        assert row is not None, "the caches are filled before training"
        return cache.rows([row])[0]

    for groups in order:
        samples, tokens = zip(*map(sample, groups), strict=True)
        inputs, *theirs = (torch.stack(features) for features in zip(*samples, strict=True))
        yield Batch(inputs, pad(tokens), tuple(g.image.image_id for g in groups), tuple(theirs))


def image_batches(
    order: Sequence[Sequence[Group]],
    *,
    transform: ImageTransform,
    vocabulary: Vocabulary,
    augment: Augmentation,
    swap_words: bool,
    seed: int,
    epoch: int,
    workers: int,
    max_tokens: int,
) -> Iterator[Batch]:
    """Batches whose inputs are the images themselves, decoded in threads one batch ahead: for training CNN + LSTM."""
    encode: Callable[[str], tuple[int, ...]] = lambda text: tuple(vocabulary.encode(text)[: max_tokens + 1])  # noqa: E731

    def load(group: Group) -> tuple[np.ndarray[tuple[int, ...], np.dtype[np.float32]], tuple[tuple[int, ...], ...]]:
        image = open_image(group.image.path, enough=transform.enough)
        if augment == "none":
            return transform(image), group.tokens
        draw = random.Random(f"augment {seed} {epoch} {group.image.image_id} {group.captions[0]}")
        image, captions = augment_sample(
            image, group.captions, draw, augment, swap_words=swap_words, known=group.image.captions
        )
        tokens = group.tokens if captions == group.captions else tuple(map(encode, captions))
        return transform(image), tokens

    with ThreadPoolExecutor(workers) as pool:
        waiting = [pool.map(load, groups) for groups in order[:1]]
        for index, groups in enumerate(order):
            waiting += [pool.map(load, ahead) for ahead in order[index + 1 : index + 2]]
            pixels, tokens = zip(*waiting.pop(0), strict=True)
            yield Batch(torch.from_numpy(np.stack(pixels)), pad(tokens), tuple(g.image.image_id for g in groups))


def image_paths(images: Sequence[CaptionedImage]) -> list[Path]:
    """The files of images, in order."""
    return [image.path for image in images]
