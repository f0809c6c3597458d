"""Images encoded into feature caches, by threads that decode and an encoder; or, while the CNN is trained, as needed."""

from __future__ import annotations

from collections import deque
from collections.abc import Callable, Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from pathlib import Path
from typing import Protocol

import numpy as np
import torch
from numpy.typing import NDArray
from PIL.Image import Image
from torch import Tensor

from showtell.data.contents import Failure, content_digest, find_broken
from showtell.data.features import FeatureCache, Key
from showtell.errors import ImageError
from showtell.images import open_image


class Transform(Protocol):
    """An `ImageTransform`, or an `AugmentedView` with one."""

    def __call__(self, image: Image, /) -> NDArray[np.float32]:
        """An RGB image -> (3,S,S), normalised."""

    @property
    def enough(self) -> int:
        """The pixels to ask `open_image` for."""


def encode_into(
    cache: FeatureCache,
    paths: Sequence[Path],
    *,
    encode: Callable[[Tensor], Tensor],
    transform: Transform,
    batch: int = 32,
    workers: int = 2,
    ahead: int = 0,
    progress: Callable[[int, int], None] = lambda done, total: None,
) -> list[Failure]:
    """Encodes the images that `cache` does not have yet; returns those that cannot be decoded.

    `encode` maps normalised images (B,3,S,S) to features (B,R,F). Threads decode `ahead` batches before the encoder:
    with 0 the two take turns, which is faster where they would compete for the same cores. Memory stays flat.
    `progress` receives (images done, images to do).
    """
    missing = [path for path in dict.fromkeys(paths) if cache.row(path) is None]
    progress(0, len(missing))
    if not missing:
        return []
    failures: list[Failure] = []
    known: dict[Path, _Loaded] = {}
    done = 0
    with cache.writer() as writer, ThreadPoolExecutor(workers) as pool:
        chunks = [missing[i : i + batch] for i in range(0, len(missing), batch)]
        for chunk, loaded in zip(chunks, _decoded(pool, chunks, ahead, cache, transform), strict=True):
            pairs = zip(chunk, loaded, strict=True)
            failures += [item for item in loaded if isinstance(item, Failure)]
            known |= {path: item for path, item in pairs if isinstance(item, _Loaded) and item.pixels is None}
            fresh = [(item, item.pixels) for item in loaded if isinstance(item, _Loaded) and item.pixels is not None]
            if fresh:
                features = encode(torch.from_numpy(np.stack([pixels for _, pixels in fresh])))
                writer.append([(item.key, item.digest) for item, _ in fresh], features)
            done += len(loaded)
            progress(done, len(missing))
        writer.alias([(item.key, item.digest) for item in known.values()])
    copies = [path for path, item in known.items() if not cache.knows(item.digest)]  # of broken images
    place = {path: index for index, path in enumerate(missing)}
    return sorted([*failures, *find_broken(copies, workers=workers)], key=lambda failure: place[failure.path])


def encode_rows(
    cache: FeatureCache,
    paths: Sequence[Path],
    *,
    source: FeatureCache,
    encode: Callable[[Tensor], Tensor],
    batch: int = 32,
    progress: Callable[[int, int], None] = lambda done, total: None,
) -> None:
    """`encode_into` from the features in `source` instead of images: `encode` maps (B,R',F') to (B,R,F).

    Images that `source` does not have are left out.
    """
    missing = [path for path in dict.fromkeys(paths) if cache.row(path) is None and source.row(path) is not None]
    if not missing:
        return
    with cache.writer() as writer:
        found = [
            (Key.of(path), source.digest_of(row), row) for path in missing if (row := source.row(path)) is not None
        ]
        new = list({digest: (key, digest, row) for key, digest, row in found if not cache.knows(digest)}.values())
        for i in range(0, len(new), batch):
            part = new[i : i + batch]
            features = encode(source.rows([row for _, _, row in part]))
            writer.append([(key, digest) for key, digest, _ in part], features)
            progress(min(i + batch, len(new)), len(new))
        writer.alias([(key, digest) for key, digest, _ in found])


def encode_all(
    paths: Sequence[Path],
    *,
    encode: Callable[[Tensor], Tensor],
    transform: Transform,
    batch: int = 32,
    workers: int = 2,
) -> Iterator[Tensor]:
    """Features (B,R,F) of `paths`, batch by batch, without a cache: for validation while the CNN itself is trained."""

    def load(path: Path) -> NDArray[np.float32]:
        return transform(open_image(path, enough=transform.enough))

    chunks = [paths[start : start + batch] for start in range(0, len(paths), batch)]
    with ThreadPoolExecutor(workers) as pool:
        waiting = deque(pool.map(load, chunk) for chunk in chunks[:1])
        for index in range(len(chunks)):
            waiting.extend(pool.map(load, ahead) for ahead in chunks[index + 1 : index + 2])
            yield encode(torch.from_numpy(np.stack(list(waiting.popleft()))))


@dataclass(frozen=True, slots=True)
class _Loaded:
    """A file that was read; no pixels if its content is already in the cache or came earlier in this pass."""

    key: Key
    digest: str
    pixels: NDArray[np.float32] | None


def _decoded(
    pool: ThreadPoolExecutor, chunks: list[list[Path]], ahead: int, cache: FeatureCache, transform: Transform
) -> Iterator[list[_Loaded | Failure]]:
    first: dict[str, Path] = {}  # of the files with a content, the one whose pixels are encoded

    def load(path: Path) -> _Loaded | Failure:
        try:
            key, data = Key.of(path), path.read_bytes()
            digest = content_digest(data)
            if cache.knows(digest) or first.setdefault(digest, path) is not path:  # in one step, as threads do this
                return _Loaded(key, digest, None)
            return _Loaded(key, digest, transform(open_image(data, name=str(path), enough=transform.enough)))
        except (ImageError, OSError) as error:
            return Failure(path, str(error))

    waiting = []
    for chunk in chunks:
        waiting.append([pool.submit(load, path) for path in chunk])
        if len(waiting) > ahead:
            yield [future.result() for future in waiting.pop(0)]
    for futures in waiting:
        yield [future.result() for future in futures]
