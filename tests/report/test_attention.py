"""Drawings of attention: bright where the decoder looked, on the part of the picture that the encoder saw."""

from __future__ import annotations

import itertools
from dataclasses import replace
from typing import Any

import numpy as np
import pytest
from PIL import Image

from showtell.images import ImageTransform, open_image
from showtell.report.attention import _font, _typeface, draw_attention


def transform(crop_mode: str) -> ImageTransform:
    half = (0.5, 0.5, 0.5)
    return ImageTransform(
        size=32, resize=32, crop_mode=crop_mode, mean=half, std=half, interpolation="bilinear"  # type: ignore[arg-type]
    )  # fmt: skip


def brightness(drawing: Image.Image, tile: int, tiles: int) -> np.ndarray:
    """Where the tile's pixels are bright: the mean grey value of its 4×4 fields."""
    width = (drawing.width - 8) // tiles
    left = 8 + tile * width
    grey = drawing.crop((left, 8, left + 180, 8 + 180)).convert("L").resize((4, 4), Image.Resampling.BOX)
    return np.asarray(grey, dtype=np.float32)


@pytest.mark.parametrize("corner", [(0, 0), (0, 3), (3, 0), (3, 3)])
def test_it_is_bright_where_the_decoder_looked(corner: tuple[int, int]) -> None:
    maps = np.zeros((1, 4, 4), np.float32)
    maps[0][corner] = 1.0
    drawing = draw_attention(Image.new("RGB", (90, 90), "gray"), ["word"], maps, transform("squash"))
    tile = brightness(drawing, 1, 2)
    assert np.unravel_index(tile.argmax(), tile.shape) == corner
    assert np.ptp(brightness(drawing, 0, 2)) < 2  # the photo itself is left as it is


def test_what_the_encoder_never_saw_is_dim() -> None:
    maps = np.ones((1, 4, 4), np.float32)
    maps[0, 0, 0] = 0.9
    wide = Image.new("RGB", (180, 90), "gray")
    seen = np.asarray(draw_attention(wide, ["word"], maps, transform("center")).convert("L"), dtype=np.float32)
    tile = seen[8 : 8 + 90, 8 + 188 : 8 + 188 + 180]
    assert tile[:, :40].mean() < 0.6 * tile[:, 90:130].mean()
    assert tile[:, -40:].mean() < 0.6 * tile[:, 90:130].mean()


@pytest.mark.parametrize("orientation", [1, 3, 6, 8])
@pytest.mark.parametrize("crop", ["center", "squash"])
@pytest.mark.parametrize("size", [(150, 100), (100, 160), (120, 120)])
def test_the_overlay_lies_over_what_the_encoder_saw(
    marked: Any, size: tuple[int, int], crop: str, orientation: int
) -> None:
    """Where the encoder's input has the mark is where the drawing is bright, whatever was cut, squashed or turned."""
    seen = replace(transform(crop), size=64, resize=72)
    checked = 0
    for place in itertools.product((0.2, 0.28, 0.37, 0.46, 0.5, 0.57, 0.64, 0.73, 0.8), repeat=2):
        photo = marked(size, place, orientation)
        cell = photo.cell(seen, 5)
        if cell is None:
            continue
        checked += 1
        maps = np.zeros((1, 5, 5), np.float32)
        maps[0][cell] = 1.0
        drawing = np.asarray(draw_attention(open_image(photo.path), ["word"], maps, seen).convert("L"), np.float32)
        width, height = (round(side * 180 / max(size)) for side in size)
        plain, overlaid = (drawing[8 : 8 + height, left : left + width] for left in (8, 16 + width))
        ratio = overlaid / plain
        assert ratio[int(place[1] * height), int(place[0] * width)] > 0.6
        assert np.median(ratio) < 0.4
    assert checked >= 4


def test_the_sheet_grows_with_the_words() -> None:
    words = [f"word{i}" for i in range(11)]
    maps = np.full((11, 2, 3), 1 / 6, np.float32)
    drawing = draw_attention(Image.new("RGB", (64, 48)), words, maps, transform("squash"))
    few = draw_attention(Image.new("RGB", (64, 48)), words[:2], maps[:2], transform("squash"))
    assert drawing.height > few.height
    with pytest.raises(ValueError, match="zip"):
        draw_attention(Image.new("RGB", (64, 48)), words[:3], maps, transform("squash"))


def test_a_long_word_and_a_thin_picture_fit() -> None:
    drawing = draw_attention(
        Image.new("L", (3, 900)),
        ["Donaudampfschifffahrtsgesellschaft"],
        np.ones((1, 1, 1), np.float32),
        transform("squash"),
    )
    assert drawing.mode == "RGB"


def test_words_are_drawn_by_a_typeface_that_has_their_letters(caplog: pytest.LogCaptureFixture) -> None:
    assert _typeface("dgo") == "" and not caplog.records
    if name := _typeface("ßäçи"):  # where one is installed
        font = _font(name, 16)
        assert len({bytes(font.getmask(letter)) for letter in "ßäçи\uffff"}) == 5
        assert not caplog.records
    _typeface.cache_clear()
    assert _typeface("a\U000f1234") == ""
    assert ["no font here has all letters" in record.getMessage() for record in caplog.records][-1]
