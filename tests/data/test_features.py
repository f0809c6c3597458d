"""The feature cache: what it keeps, what it refuses, what an interruption leaves."""

from __future__ import annotations

import os
import shutil
import threading
from hashlib import blake2b
from pathlib import Path

import numpy as np
import pytest
import torch
from PIL import Image
from torch import Tensor

from showtell.data.contents import content_digests
from showtell.data.encoding import encode_into, encode_rows
from showtell.data.features import FeatureCache, Key, space_needed
from showtell.errors import CacheError
from showtell.images import ImageTransform

HALF = (0.5, 0.5, 0.5)
TRANSFORM = ImageTransform(size=8, resize=8, crop_mode="squash", mean=HALF, std=HALF, interpolation="bilinear")


def encode(images: Tensor) -> Tensor:
    return images.flatten(2).mean(2)[:, None]  # (B,1,3): the mean colour


def paint(folder: Path, count: int, first: int = 0) -> list[Path]:
    paths = [folder / f"{i}.png" for i in range(first, first + count)]
    for i, path in enumerate(paths, start=first):
        Image.new("RGB", (9, 7), (i * 10, 255 - i * 10, 100)).save(path)
    return paths


def open_cache(folder: Path, fingerprint: str = "a" * 64) -> FeatureCache:
    return FeatureCache(folder / "cache", fingerprint=fingerprint, regions=1, feature_size=3)


def fill(cache: FeatureCache, paths: list[Path], **options: int) -> int:
    """Fills the cache; returns how many images were encoded."""
    seen: list[int] = []

    def counted(images: Tensor) -> Tensor:
        seen.append(len(images))
        return encode(images)

    assert not encode_into(cache, paths, encode=counted, transform=TRANSFORM, batch=options.get("batch", 2))
    return sum(seen)


def test_features_are_those_of_the_images(tmp_path: Path) -> None:
    paths, cache = paint(tmp_path, 5), open_cache(tmp_path)
    assert fill(cache, paths) == 5
    rows = [cache.row(path) for path in paths]
    expected = np.array([[i * 10, 255 - i * 10, 100] for i in range(5)]) / 255 * 2 - 1
    assert None not in rows
    np.testing.assert_allclose(cache.rows([r for r in rows if r is not None])[:, 0], expected, atol=1e-3)


def test_nothing_is_encoded_twice_even_under_another_name(tmp_path: Path) -> None:
    paths, cache = paint(tmp_path, 3), open_cache(tmp_path)
    fill(cache, paths)
    copy = tmp_path / "copy.png"
    copy.write_bytes(paths[1].read_bytes())
    assert fill(open_cache(tmp_path), [*paths, copy]) == 0
    assert open_cache(tmp_path).row(copy) == open_cache(tmp_path).row(paths[1])


def test_a_changed_image_is_encoded_again(tmp_path: Path) -> None:
    paths, cache = paint(tmp_path, 2), open_cache(tmp_path)
    fill(cache, paths)
    Image.new("RGB", (30, 30), "white").save(paths[0])
    assert open_cache(tmp_path).row(paths[0]) is None
    assert fill(open_cache(tmp_path), paths) == 1


def test_contents_are_told_apart_and_known_ones_are_not_read(tmp_path: Path) -> None:
    paths, cache, read = paint(tmp_path, 4), open_cache(tmp_path), []
    fill(cache, paths[:3])
    paths[0].write_bytes(paths[1].read_bytes())
    expected = [blake2b(path.read_bytes(), digest_size=16).hexdigest() for path in paths]
    caches = [tmp_path / "cache", tmp_path / "nowhere"]
    found = content_digests([*paths, tmp_path / "gone.png"], caches=caches, progress=lambda *done: read.append(done))
    assert found == [*expected, ""]
    assert found[0] == found[1]
    assert read == [(1, 2), (2, 2)]  # the one that has changed and the one that was never encoded


def test_what_was_encoded_half_way_is_finished(tmp_path: Path) -> None:
    """Each content once, whatever its names; images that changed since, and those that were never begun, are left."""
    paths, half_way = paint(tmp_path, 5), open_cache(tmp_path)
    copy = tmp_path / "copy.png"
    copy.write_bytes(paths[1].read_bytes())
    fill(half_way, [*paths[:4], copy])
    Image.new("RGB", (30, 30), "white").save(paths[0])
    whole = FeatureCache(tmp_path / "whole", fingerprint="b" * 64, regions=2, feature_size=3)
    rows: list[int] = []

    def finish(found: Tensor) -> Tensor:
        rows.append(len(found))
        return torch.cat((found, found + 1), 1)

    for _ in range(2):  # the second time nothing is left to do
        encode_rows(whole, [*paths, copy], source=half_way, encode=finish, batch=2)
    assert rows == [2, 1]
    assert [whole.row(path) is None for path in paths] == [True, False, False, False, True]
    assert whole.row(copy) == whole.row(paths[1])
    again = FeatureCache(tmp_path / "whole", fingerprint="b" * 64, regions=2, feature_size=3)
    for path in paths[1:4]:
        place, begun = again.row(path), half_way.row(path)
        assert place is not None
        assert begun is not None
        mean = half_way.rows([begun])[0]
        torch.testing.assert_close(again.rows([place])[0], torch.cat((mean, mean + 1)), atol=2e-3, rtol=0)


def test_an_interruption_costs_only_what_was_under_way(tmp_path: Path) -> None:
    paths, cache = paint(tmp_path, 6), open_cache(tmp_path)
    fill(cache, paths[:4])
    index = tmp_path / "cache" / "index.jsonl"
    index.write_bytes(index.read_bytes()[:-20])  # died while writing a line
    with (tmp_path / "cache" / "features.f16").open("ab") as data:
        data.write(b"\1\2\3")  # and in the middle of a row
    again = open_cache(tmp_path)
    assert fill(again, paths) == 3
    whole = open_cache(tmp_path)
    rows = [r for path in paths if (r := whole.row(path)) is not None]
    expected = np.array([[i * 10, 255 - i * 10, 100] for i in range(6)]) / 255 * 2 - 1
    np.testing.assert_allclose(whole.rows(rows)[:, 0], expected, atol=1e-3)


def test_a_cache_of_other_weights_is_refused(tmp_path: Path) -> None:
    open_cache(tmp_path)
    with pytest.raises(CacheError, match="another encoder"):
        open_cache(tmp_path, fingerprint="b" * 64)


def test_a_file_that_is_touched_while_it_is_in_use_keeps_its_row(tmp_path: Path) -> None:
    path, cache = paint(tmp_path, 1)[0], open_cache(tmp_path)
    fill(cache, [path])
    row = cache.row(path)
    os.utime(path, (1, 1))
    assert cache.row(path) == row is not None
    path.unlink()
    assert cache.row(path) == row


def test_a_cache_of_another_version_is_refused_as_such(tmp_path: Path) -> None:
    open_cache(tmp_path)
    header = tmp_path / "cache" / "cache.json"
    header.write_text(header.read_text().replace('"version": 1', '"version": 0'))
    with pytest.raises(CacheError, match=r"another version of showtell.*version 0.*delete that folder"):
        open_cache(tmp_path)


def test_a_folder_of_something_else_is_refused(tmp_path: Path) -> None:
    (tmp_path / "cache").mkdir()
    (tmp_path / "cache" / "thesis.tex").touch()
    with pytest.raises(CacheError, match="not a feature cache"):
        open_cache(tmp_path)


def test_a_second_writer_waits_and_reads_what_the_first_wrote(tmp_path: Path) -> None:
    paths, first, second = paint(tmp_path, 6), open_cache(tmp_path), open_cache(tmp_path)
    encoded: list[int] = []
    with first.writer() as writer:
        thread = threading.Thread(target=lambda: encoded.append(fill(second, paths)))
        thread.start()
        thread.join(0.3)
        assert thread.is_alive()
        for path in paths[:2]:
            writer.append([(Key.of(path), blake2b(path.read_bytes(), digest_size=16).hexdigest())], torch.ones(1, 1, 3))
    thread.join()
    assert encoded == [4]
    whole = open_cache(tmp_path)
    assert sorted(row for path in paths if (row := whole.row(path)) is not None) == list(range(6))
    assert whole.rows([0, 1]).unique().tolist() == [1.0]


def test_broken_images_are_named_and_the_rest_go_on(tmp_path: Path) -> None:
    paths, cache = paint(tmp_path, 3), open_cache(tmp_path)
    paths[1].write_bytes(paths[1].read_bytes()[:40])
    failures = encode_into(cache, paths, encode=encode, transform=TRANSFORM)
    assert [failure.path for failure in failures] == [paths[1]]
    assert cache.row(paths[0]) is not None and cache.row(paths[2]) is not None


def test_each_of_several_equal_broken_images_is_named(tmp_path: Path) -> None:
    """In the order of the images, with its own name, in a pass of several batches and in a later one."""
    paths = paint(tmp_path, 7)
    broken = [paths[i] for i in (0, 1, 4, 6)]
    for path in broken:
        path.write_bytes(b"<html>404 not found</html>")
    for _ in range(2):
        failures = encode_into(open_cache(tmp_path), paths, encode=encode, transform=TRANSFORM, batch=2, ahead=1)
        assert [failure.path for failure in failures] == broken
        assert all(str(failure.path) in failure.reason for failure in failures)
    assert len(open_cache(tmp_path)) == 3


def test_equal_images_that_are_read_at_the_same_moment_are_encoded_once(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    together = threading.Barrier(2)

    class Digest(str):
        """Looked up once, and then waits for the other's look-up."""

        looked_up = 0

        def __hash__(self) -> int:
            self.looked_up += 1
            if self.looked_up == 2:
                together.wait(10)
            return super().__hash__()

    paths, cache = paint(tmp_path, 1), open_cache(tmp_path)
    paths.append(tmp_path / "copy.png")
    paths[1].write_bytes(paths[0].read_bytes())
    monkeypatch.setattr(
        "showtell.data.encoding.content_digest", lambda data: Digest(blake2b(data, digest_size=16).hexdigest())
    )
    assert fill(cache, paths) == 1
    assert len(cache) == 1
    assert cache.row(paths[0]) == cache.row(paths[1]) == 0


def test_a_cache_with_a_content_in_two_rows_is_of_use(tmp_path: Path) -> None:
    """As earlier versions wrote some."""
    paths, half_way = paint(tmp_path, 3), open_cache(tmp_path)
    paths[1].write_bytes(paths[0].read_bytes())
    found = [(Key.of(path), blake2b(path.read_bytes(), digest_size=16).hexdigest()) for path in paths]
    with half_way.writer() as writer:
        writer.append(found, torch.tensor([[[1.0] * 3], [[1.0] * 3], [[2.0] * 3]]))
    for name, source in (("now", half_way), ("later", open_cache(tmp_path))):
        whole = FeatureCache(tmp_path / name, fingerprint="b" * 64, regions=1, feature_size=3)
        encode_rows(whole, paths, source=source, encode=lambda rows: rows + 1)
        assert len(whole) == 2
        assert whole.rows([whole.row(path) or 0 for path in paths])[:, 0, 0].tolist() == [2.0, 2.0, 3.0]


def test_large_features_do_not_become_infinite(tmp_path: Path) -> None:
    paths, cache = paint(tmp_path, 1), open_cache(tmp_path)
    encode_into(cache, paths, encode=lambda images: torch.full((len(images), 1, 3), 1e6), transform=TRANSFORM)
    assert torch.isfinite(cache.rows([0])).all()


def test_a_disk_that_is_too_small_is_told_before_anything_is_encoded(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    paths = paint(tmp_path, 5)
    first, second = (FeatureCache(tmp_path / name, fingerprint=name, regions=1, feature_size=3) for name in "ab")
    encode_into(first, paths[:2], encode=encode, transform=TRANSFORM)
    assert space_needed([(first, paths), (second, [*paths, paths[0]])]) == (3 + 5) * 3 * 2
    usage = shutil.disk_usage(tmp_path)._replace(free=40)
    monkeypatch.setattr(shutil, "disk_usage", lambda folder: usage)
    assert space_needed([(first, paths)]) == 18
    with pytest.raises(CacheError, match=r"^the features of 5 images need 0\.0 GB in .*b, which has 0\.0 GB free; "):
        space_needed([(first, paths), (second, paths)])


def test_files_that_a_cache_may_know_by_content_are_not_refused(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """A folder that was moved is told of as new, and found to be known when it is read."""
    cache, paths = open_cache(tmp_path), paint(tmp_path, 3)
    fill(cache, paths)
    moved = [path.rename(tmp_path / f"moved-{path.name}") for path in paths]
    monkeypatch.setattr(shutil, "disk_usage", lambda folder: shutil._ntuple_diskusage(9, 9, 0))  # type: ignore[attr-defined]
    assert space_needed([(open_cache(tmp_path), moved)]) == 18
    assert fill(open_cache(tmp_path), moved) == 0
