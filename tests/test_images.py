"""Any file becomes an upright RGB picture or one sentence; pixels take one path."""

from __future__ import annotations

import io
import os
import struct
import subprocess
import sys
import warnings
import zlib
from collections import Counter
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import numpy as np
import pytest
from PIL import Image

from showtell.errors import DataError, ImageError
from showtell.images import (
    ImageTransform,
    decoding_threads,
    find_images,
    open_image,
    open_sized,
    pixels_decoded,
    suffix_of,
    told_unread,
)


def bomb(path: Path, side: int = 20_000) -> Path:
    """A PNG whose header claims side×side pixels, in a few bytes."""

    def chunk(kind: bytes, data: bytes) -> bytes:
        return struct.pack(">I", len(data)) + kind + data + struct.pack(">I", zlib.crc32(kind + data))

    header = struct.pack(">IIBBBBB", side, side, 8, 2, 0, 0, 0)
    content = chunk(b"IHDR", header) + chunk(b"IDAT", zlib.compress(b"\0" * 1000)) + chunk(b"IEND", b"")
    path.write_bytes(b"\x89PNG\r\n\x1a\n" + content)
    return path


@pytest.mark.parametrize("mode", ["1", "L", "LA", "P", "RGB", "RGBA", "CMYK", "YCbCr", "HSV", "LAB", "I", "I;16", "F"])
def test_every_mode_becomes_rgb(mode: str, tmp_path: Path) -> None:
    picture = Image.new("L", (12, 8), 200).convert(mode) if mode not in ("I;16", "LAB") else Image.new(mode, (12, 8))
    path = tmp_path / "picture.tif"
    try:
        picture.save(path)
        Image.open(path).load()  # older ones cannot read a TIFF of YCbCr that they wrote
    except OSError:
        path = tmp_path / "picture.png"
        picture.convert("RGB").save(path)
    image = open_image(path)
    assert (image.mode, image.size) == ("RGB", (12, 8))
    assert open_image(picture).mode == "RGB"


def test_values_survive(tmp_path: Path) -> None:
    half = Image.new("RGBA", (4, 4), (255, 0, 0, 0))
    assert open_image(half).getpixel((1, 1)) == (255, 255, 255)  # transparent: white
    deep = Image.fromarray(np.full((4, 4), 65535 // 2, np.uint16))
    assert open_image(deep).getpixel((1, 1)) == pytest.approx((127, 127, 127), abs=1)
    assert open_image(Image.new("F", (4, 4), 0.5)).getpixel((1, 1)) == pytest.approx((128, 128, 128), abs=1)
    palette = Image.new("P", (4, 4), 1)
    palette.putpalette([0, 0, 0, 10, 20, 30])
    palette.save(tmp_path / "p.png", transparency=0)
    assert open_image(tmp_path / "p.png").getpixel((0, 0)) == (10, 20, 30)


def test_exif_turns_the_picture_upright(tmp_path: Path) -> None:
    wide = Image.new("RGB", (20, 10), "blue")
    exif = Image.Exif()
    exif[0x0112] = 6
    wide.save(tmp_path / "turned.jpg", exif=exif)
    assert open_image(tmp_path / "turned.jpg").size == (10, 20)


def test_the_first_frame_counts(tmp_path: Path) -> None:
    frames = [Image.new("RGB", (8, 8), colour) for colour in ("red", "blue")]
    frames[0].save(tmp_path / "moving.gif", save_all=True, append_images=frames[1:])
    red, _, blue = open_image(tmp_path / "moving.gif").getpixel((4, 4))  # type: ignore[misc]
    assert red > blue


def test_all_kinds_of_sources_are_the_same_picture(tmp_path: Path) -> None:
    path = tmp_path / "a.png"
    Image.new("RGB", (5, 5), (1, 2, 3)).save(path)
    with path.open("rb") as stream:
        for source in (path, str(path), path.read_bytes(), stream, io.BytesIO(path.read_bytes()), Image.open(path)):
            assert open_image(source).getpixel((0, 0)) == (1, 2, 3)


def test_what_is_no_picture_is_one_sentence(tmp_path: Path) -> None:
    whole = io.BytesIO()
    Image.effect_noise((64, 64), 60).save(whole, "JPEG")
    kinds = {"empty.jpg": b"", "text.jpg": b"hello", "cut.jpg": whole.getvalue()[:700], "zeros.png": bytes(500)}
    for name, content in kinds.items():
        (tmp_path / name).write_bytes(content)
    (tmp_path / "folder.jpg").mkdir()
    for name in (*kinds, "folder.jpg", "missing.jpg"):
        with pytest.raises(ImageError) as caught:
            open_image(tmp_path / name)
        assert name in str(caught.value)
        assert "\n" not in str(caught.value)
    with pytest.raises(ImageError, match="20000×20000"):
        open_image(bomb(tmp_path / "bomb.png"))
    with pytest.raises(ImageError, match="photo 7"):
        open_image(b"nothing", name="photo 7")


@pytest.mark.parametrize(
    ("content", "told"),
    [
        (b"", "it is empty"),
        *((b"\0\0\0\x18ftyp" + kind, "it is HEIC, which showtell does not read; convert it to JPEG") for kind in (b"heic", b"heix", b"mif1")),
        (b"\xef\xbb\xbf\n<!DOCTYPE html><html>", "it is a web page, not an image"),
        (b"<html><title>403", "it is a web page, not an image"),
        (b"hello", "not an image, or none of JPEG, MPO"),
    ],
)  # fmt: skip
def test_what_is_taken_for_a_picture_is_called_by_its_name(content: bytes, told: str, tmp_path: Path) -> None:
    (tmp_path / "photo.jpg").write_bytes(content)
    for source in (tmp_path / "photo.jpg", content, io.BytesIO(content)):
        with pytest.raises(ImageError, match=told):
            open_image(source)
    with pytest.raises(ImageError, match=told):
        suffix_of(content)


def test_pictures_that_are_not_read_are_counted(tmp_path: Path) -> None:
    for name in ("a.heic", "deep/b.HEIC", "c.txt", "._c.heic", "d.jp2/e.jfif", "f.jpe"):
        (tmp_path / name).parent.mkdir(exist_ok=True)
        (tmp_path / name).touch()
    unread = Counter[str]()
    assert [path.name for path in find_images([str(tmp_path)], unread)] == ["e.jfif", "f.jpe"]
    assert unread == {".heic": 2} and told_unread(unread) == "2 files ending in .heic were not read"
    with pytest.raises(DataError, match=r"expected files .*; 1 file ending in \.heic was not read; convert to JPEG$"):
        list(find_images([str(tmp_path / "deep")], unread))


def test_find_images(tmp_path: Path) -> None:
    names = ["b.JPG", "a b.png", "ü.webp", "deep/c.jpeg"]
    for name in (*names, "notes.txt"):
        (tmp_path / name).parent.mkdir(exist_ok=True)
        (tmp_path / name).touch()
    assert {p.relative_to(tmp_path).as_posix() for p in find_images([str(tmp_path)])} == set(names)
    assert [p.name for p in find_images([f"{tmp_path}/*.png"])] == ["a b.png"]
    assert [p.name for p in find_images([f"{tmp_path}/nothing.jpg"])] == ["nothing.jpg"]  # reported when it is opened
    for nothing in (f"{tmp_path}/*.bmp", str(tmp_path / "deep" / "empty")):
        (tmp_path / "deep" / "empty").mkdir(exist_ok=True)
        with pytest.raises(DataError):
            list(find_images([nothing]))
    (tmp_path / "albums" / "2026").mkdir(parents=True)
    with pytest.raises(DataError, match=r"no file matches .*; it matches 1 folder, "):
        list(find_images([f"{tmp_path}/albums/*"]))


def transform(**changes: object) -> ImageTransform:
    values = {"size": 6, "resize": 8, "crop_mode": "center", "mean": (0.5, 0.25, 0.0), "std": (0.5, 1.0, 2.0)}
    return ImageTransform(**{**values, "interpolation": "bilinear", **changes})  # type: ignore[arg-type]


def test_the_transform_by_hand() -> None:
    found = transform()(Image.new("RGB", (16, 8), (255, 51, 102)))
    assert found.shape == (3, 6, 6)
    assert found.dtype == np.float32
    for channel, value in enumerate(((1 - 0.5) / 0.5, 0.2 - 0.25, 0.4 / 2)):
        np.testing.assert_allclose(found[channel], value, rtol=1e-6)
    assert transform().crop_box(16, 8) == (5.0, 1.0, 11.0, 7.0)
    assert transform(crop_mode="squash").crop_box(16, 8) == (0.0, 0.0, 16.0, 8.0)
    assert ImageTransform.from_dict(transform().to_dict()) == transform()


@pytest.mark.parametrize(
    ("cores", "together", "threads"), [(2, None, 2), (1, None, 1), (64, None, 8), (16, "4", 4), (2, "4", 1)]
)
def test_as_many_threads_as_cores_decode(
    cores: int, together: str | None, threads: int, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(os, "sched_getaffinity", lambda process: set(range(cores)), raising=False)
    monkeypatch.delenv("LOCAL_WORLD_SIZE", raising=False)
    if together:
        monkeypatch.setenv("LOCAL_WORLD_SIZE", together)
    assert decoding_threads() == threads


def photo(kind: str = "JPEG", *, size: tuple[int, int] = (1003, 756), **options: object) -> bytes:
    """A camera's picture: smooth, and large beside what an encoder sees."""
    x, y = np.meshgrid(np.linspace(0, 9, size[0]), np.linspace(0, 7, size[1]))
    waves = np.stack([127 + 120 * np.sin(x + y), 127 + 120 * np.cos(x), 127 + 120 * np.sin(y)], -1)
    file = io.BytesIO()
    Image.fromarray(waves.astype(np.uint8)).save(file, kind, **options)
    return file.getvalue()


@pytest.mark.parametrize(("enough", "size"), [(0, (1003, 756)), (400, (1003, 756)), (300, (502, 378)), (90, (126, 95))])
def test_a_large_jpeg_is_decoded_as_large_as_it_has_to_be(enough: int, size: tuple[int, int]) -> None:
    image, whole = open_sized(photo(), enough=enough)
    assert (image.size, whole) == (size, (1003, 756))
    assert open_sized(photo("PNG"), enough=enough)[0].size == (1003, 756)


def test_what_an_encoder_sees_of_it_is_the_same_to_rounding() -> None:
    transform = ImageTransform(90, 90, "squash", (0.0, 0.0, 0.0), (1.0, 1.0, 1.0), "bicubic")
    part = open_image(photo(), enough=transform.enough)
    assert part.size == (251, 189)
    apart = np.abs(transform(part) - transform(open_image(photo()))) * 255
    assert apart.mean() < 1
    assert apart.max() < 6


def test_a_large_photo_on_its_side_has_its_own_size_upright() -> None:
    exif = Image.Exif()
    exif[0x0112] = 6
    image, whole = open_sized(photo(exif=exif), enough=300)
    assert (image.size, whole) == ((378, 502), (756, 1003))


def test_several_pictures_in_one_file_and_half_a_file() -> None:
    more = Image.new("RGB", (1003, 756))
    image, whole = open_sized(photo("MPO", save_all=True, append_images=[more]), enough=300)
    assert (image.size, whole) == ((502, 378), (1003, 756))
    with pytest.raises(ImageError, match="cannot be read"):
        open_image(photo()[:-4000], enough=90)


def test_decoding_in_threads_leaves_warnings_as_they_were(tmp_path: Path) -> None:
    """Pillow's are not told; whoever asks for others still gets them."""
    exif = Image.Exif()
    exif[0x0112] = 6
    damaged = bytearray(photo(exif=exif, size=(64, 48)))
    entries = damaged.index(b"Exif") + 14  # how many the block claims to have
    damaged[entries : entries + 2] = b"\xff\x00"
    (tmp_path / "damaged.jpg").write_bytes(damaged)
    before = list(warnings.filters)
    with ThreadPoolExecutor(8) as pool:
        assert len({image.size for image in pool.map(open_image, [tmp_path / "damaged.jpg"] * 64)}) == 1
    assert warnings.filters == before
    program = f"from showtell.images import open_image; open_image({str(tmp_path / 'damaged.jpg')!r})"
    done = subprocess.run([sys.executable, "-W", "always", "-c", program], capture_output=True, text=True, check=True)
    assert done.stderr == ""


def test_what_will_be_decoded_is_known_from_the_header(tmp_path: Path) -> None:
    for kind, expected in (("PNG", 640 * 480), ("JPEG", 160 * 120)):
        buffer = io.BytesIO()
        Image.new("RGB", (640, 480)).save(buffer, kind)
        assert pixels_decoded(buffer.getvalue()) == 640 * 480
        assert pixels_decoded(buffer.getvalue(), enough=100) == expected
        assert open_image(io.BytesIO(buffer.getvalue()), enough=100).width ** 2 * 3 // 4 == expected
    assert pixels_decoded(bomb(tmp_path / "bomb.png").read_bytes()) == 20_000**2
    assert pixels_decoded(b"nothing") == 0
