"""A run's training and validation data, from a feature cache or, while the CNN is trained, from images."""

from __future__ import annotations

import functools
import hashlib
import json
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass, replace
from pathlib import Path

from torch import Tensor

from showtell.config import PhaseConfig, Recipe
from showtell.data.annotations import CaptionedImage, read_annotations
from showtell.data.augment import AugmentedView
from showtell.data.contents import Failure, content_digests, find_broken
from showtell.data.dataset import Batch, Group, epoch_order, feature_batches, image_batches, image_paths, make_groups
from showtell.data.encoding import encode_all, encode_into, encode_rows
from showtell.data.features import FeatureCache, space_needed
from showtell.data.vocabulary import Vocabulary
from showtell.errors import DataError
from showtell.images import decoding_threads
from showtell.model.encoder import Encoder
from showtell.model.splitting import Stem

Encode = Callable[[Tensor], Tensor]
Caches = Mapping[AugmentedView, FeatureCache]  # one for each view of the images

_WORTH_TELLING = 1_000_000_000  # bytes of features


@dataclass(frozen=True)
class HalfWay:
    """A stem's outputs for images, one cache per view; `finish` turns cached rows into features (B,R,F)."""

    caches: Caches
    finish: Encode

    def cache(self, view: AugmentedView) -> FeatureCache | None:
        """The cache of a view, if there is one. View 0 is the image as it is, whatever the level of augmentation."""
        return self.caches.get(view) if view.number else next(iter(self.caches.values()))


class Samples:
    """The train and val splits of a data set, without images that cannot be decoded, and the train split's vocabulary.

    `train` and `val` are empty until `from_cache` or `from_images` has said where features come from.
    """

    def __init__(
        self,
        recipe: Recipe,
        path: Path,
        *,
        note: Callable[[str], None],
        progress: Callable[[str, int, int], None],
        known: Vocabulary | None = None,
        more_words: bool = True,
    ) -> None:
        """Reads the annotations at `path`. `DataError` if they cannot be read or give no vocabulary. `known` is the
        vocabulary of the captioner that training starts from, or of its teachers; with `more_words`, new words of the
        captions join it."""
        self._recipe, self._note, self._progress = recipe, note, progress
        self._workers = recipe.train.workers or decoding_threads()
        data = recipe.data
        annotations = read_annotations(path, val=data.val, test=data.test, seed=data.split_seed)
        for sentence in annotations.summary():
            note(sentence)
        if annotations.given and (shared := sum(1 for _ in annotations.in_two_splits())):
            note(
                f"{shared} of the pictures lie in two of the data's splits, byte for byte, so that scores on them flatter; "
                f"see  showtell data check {path}"
            )
        self.name, self.dataset = annotations.root.resolve().name, annotations.dataset
        self.moved = annotations.moved  # copies moved to the split of the first of them
        self._listed = annotations.split("train"), annotations.split("val")
        self._known = known
        self.vocabulary = (
            Vocabulary.train(self.captions, kind=data.vocabulary, min_count=data.min_count, size=data.vocabulary_size)
            if known is None
            else known.with_words_of(self.captions, min_count=data.min_count)
            if more_words
            else known
        )
        self.train: list[Group] = []
        self.val: tuple[CaptionedImage, ...] = ()
        self.caches: Caches = {}  # empty while the images themselves are read
        self._of_teachers: list[list[FeatureCache]] = []  # for each of their encoders, the same views
        self._stem: Stem | None = None  # set if the caches hold its outputs instead of features
        self._broken: frozenset[Path] | None = None  # images that cannot be decoded; None until checked

    @property
    def captions(self) -> list[str]:
        """All captions of the train split."""
        return [caption for image in self._listed[0] for caption in image.captions]

    @property
    def listed(self) -> int:
        """The number of images in the train split, decodable or not."""
        return len(self._listed[0])

    @property
    def train_images(self) -> list[CaptionedImage]:
        """The training images, each once."""
        return list(dict.fromkeys(group.image for group in self.train))

    @functools.cached_property
    def fingerprint(self) -> str:
        """A hash of the train split's image ids and captions, and of the vocabulary of the captioner that training started
        from."""
        said = _said(self._listed[0])
        if self._known is not None and self._recipe.train.start:
            said.append(self._known.listed())
        return _hash(said)

    @property
    def val_fingerprint(self) -> str:
        """A hash of the val split's image ids and captions."""
        return _hash(_said(self._listed[1]))

    def pictures_fingerprint(self, caches: Iterable[Path]) -> str:
        """A hash of the contents of both splits' files; those that the caches in these folders know are not read."""
        paths = [image.path for part in self._listed for image in part]
        progress = functools.partial(self._progress, "reading images")
        return _hash(content_digests(paths, caches=caches, workers=self._workers, progress=progress))

    def from_cache(
        self,
        caches: Caches,
        *,
        encode: Encode,
        ahead: int,
        stem: Stem | None = None,
        half_way: HalfWay | None = None,
        of_teachers: Sequence[tuple[Caches, Encode]] = (),
    ) -> None:
        """Reads a frozen encoder's features, or its `stem`'s outputs, from the caches, one per view; encodes what is
        missing there, from `half_way` where possible. Validation uses the first view. `ahead` is `encode_into`'s.
        `of_teachers` are other encoders' caches of the same views, for training alone, and how those encode.
        Raises as `from_images` does, and `CacheError` if the disk is too small."""
        others = [theirs for theirs, _ in of_teachers if theirs is not caches]
        self._tell_space(caches, others)
        plain, *augmented = caches.values()
        fill = functools.partial(self._fill, views=len(caches), ahead=ahead)
        for view, cache in caches.items():
            paths = self._paths() if cache is plain else self._train_paths_in(plain)
            fill(cache, view, paths, encode=encode, half_way=half_way)
        for number, (theirs, their_encode) in enumerate(of_teachers, start=1):
            what = f"encoding images for teachers, {number} of {len(of_teachers)}"
            for view, cache in theirs.items() if theirs is not caches else ():
                fill(cache, view, self._train_paths_in(plain), encode=their_encode, what=what)
        self.caches, self._stem = caches, stem
        self._of_teachers = [list(theirs.values()) for theirs, _ in of_teachers]
        for_training = [plain, *augmented, *(cache for theirs in self._of_teachers for cache in theirs)]
        self._choose(
            lambda image: all(
                cache.row(image.path) is not None for cache in (for_training if image.split == "train" else [plain])
            )
        )

    def _tell_space(self, caches: Caches, others: Sequence[Caches]) -> None:
        """Says how much disk the views in `caches`, and in those of `others`, will take, if that is much."""
        train_paths = image_paths(self._listed[0])
        wanted = [(cache, train_paths if view.number else self._paths()) for view, cache in caches.items()]
        wanted += [(cache, train_paths) for theirs in others for cache in theirs.values()]
        if (more := space_needed(wanted)) >= _WORTH_TELLING:
            folder = next(iter(caches.values())).folder
            self._note(f"features: up to {more / 1e9:.1f} GB more in {folder.parent if others else folder}")

    def _fill(
        self,
        cache: FeatureCache,
        view: AugmentedView,
        paths: Sequence[Path],
        *,
        encode: Encode,
        views: int,
        ahead: int,
        half_way: HalfWay | None = None,
        what: str = "encoding images",
    ) -> None:
        """Encodes what `cache` lacks of a view, one of `views`."""
        what += f", view {view.number + 1} of {views}" if views > 1 else ""
        progress = functools.partial(self._progress, what)
        if half_way and (source := half_way.cache(view)):
            encode_rows(cache, paths, source=source, encode=half_way.finish, progress=progress)
        failures = encode_into(
            cache, paths, encode=encode, transform=view, workers=self._workers, ahead=ahead, progress=progress
        )
        self._tell(failures)

    def _train_paths_in(self, cache: FeatureCache) -> list[Path]:
        """The training images in a filled cache, which has shown which of them can be decoded."""
        return [image.path for image in self._listed[0] if cache.row(image.path) is not None]

    def from_images(self) -> None:
        """Reads the images, as features change. `DataError` if no train or fewer than two val images can be decoded."""
        if self._broken is None:
            failures = find_broken(
                self._paths(), workers=self._workers,
                progress=lambda done, total: self._progress("checking images", done, total),
            )  # fmt: skip
            self._tell(failures)
            self._broken = frozenset(failure.path for failure in failures)
        self.caches, self._stem, self._of_teachers, broken = {}, None, [], self._broken
        self._choose(lambda image: image.path not in broken)

    def order(self, epoch: int, *, batch_images: int) -> list[list[Group]]:
        """The batches of an epoch, determined by the recipe's seed and the epoch."""
        return epoch_order(self.train, batch_images=batch_images, seed=self._recipe.train.seed, epoch=epoch)

    def batches(
        self, order: Sequence[Sequence[Group]], *, encoder: Encoder, phase: PhaseConfig, epoch: int
    ) -> Iterator[Batch]:
        """The batches of `order`; their inputs are features, stem outputs or images."""
        seed, max_tokens = self._recipe.train.seed, self._recipe.data.max_tokens
        as_it_is = phase.objective == "self-critical"  # rewards compare with the captions as written
        if self.caches:
            batches = feature_batches(
                order, self.caches, vocabulary=self.vocabulary, swap_words=not as_it_is,
                seed=seed, epoch=epoch, max_tokens=max_tokens, of_teachers=self._of_teachers,
            )  # fmt: skip
            if self._stem is None:
                return batches
            unpack = self._stem.unpack
            return (replace(batch, inputs=unpack(batch.inputs)) for batch in batches)
        return image_batches(
            order, transform=encoder.transform, vocabulary=self.vocabulary, augment=phase.augment, swap_words=not as_it_is,
            seed=seed, epoch=epoch, workers=self._workers, max_tokens=max_tokens,
        )  # fmt: skip

    def val_features(self, *, encode: Encode, encoder: Encoder) -> Iterator[Tensor]:
        """Features (B,R,F) of the val split, in chunks."""
        if not self.caches:
            paths = image_paths(self.val)
            return encode_all(paths, encode=encode, transform=encoder.transform, workers=self._workers)
        cache = next(iter(self.caches.values()))
        rows = [row for image in self.val if (row := cache.row(image.path)) is not None]
        if self._stem is None:
            return cache.chunks(rows)
        unpack = self._stem.unpack
        return (encode(unpack(maps)) for maps in cache.chunks(rows, size=32))  # maps are larger than features

    def _paths(self) -> list[Path]:
        return image_paths([image for part in self._listed for image in part])

    def _tell(self, failures: Sequence[Failure]) -> None:
        for failure in failures:
            self._note(f"left out: {failure.reason}")

    def _choose(self, is_usable: Callable[[CaptionedImage], bool]) -> None:
        train, val = ([image for image in part if is_usable(image)] for part in self._listed)
        if not train or not val:
            raise DataError(
                "no image of the train or val split can be decoded; run  showtell data check  on the folder"
            )
        if len(val) < 2:
            raise DataError(
                "the val split has one image that can be decoded, and CIDEr, by which the best epoch is kept, is 0 for a single image; "
                "give it two or more: raise data.val, or put more images into the split"
            )
        self.train = make_groups(
            train, self.vocabulary,
            captions_per_image=self._recipe.train.captions_per_image, max_tokens=self._recipe.data.max_tokens,
        )  # fmt: skip
        self.val = tuple(val)


def _said(images: Sequence[CaptionedImage]) -> list[list[str]]:
    return [[image.image_id, *image.captions] for image in images]


def _hash(value: object) -> str:
    return hashlib.sha256(json.dumps(value).encode()).hexdigest()
