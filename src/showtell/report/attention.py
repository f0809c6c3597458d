"""Draws maps of words: the photo, then one tile per word, aligned with what the encoder saw."""

from __future__ import annotations

import functools
import logging
from collections.abc import Sequence
from typing import TYPE_CHECKING

import numpy as np
from numpy.typing import NDArray
from PIL import Image, ImageDraw, ImageFont

from showtell.errors import DataError
from showtell.images import ImageTransform

if TYPE_CHECKING:
    from showtell.captioning import Caption
    from showtell.explaining import Explanation

_Font = ImageFont.FreeTypeFont | ImageFont.ImageFont

_log = logging.getLogger(__name__)

_TILE, _LABEL, _GAP, _COLUMNS = 180, 26, 8, 5
# Pillow's own typeface has little beyond ASCII; other words take the first installed of these with their letters.
_TYPEFACES = (
    "DejaVuSans.ttf", "NotoSans-Regular.ttf", "LiberationSans-Regular.ttf", "Arial Unicode.ttf", "arial.ttf", "segoeui.ttf",
    "NotoSansCJK-Regular.ttc", "msyh.ttc", "YuGothR.ttc", "malgun.ttf", "PingFang.ttc", "AppleSDGothicNeo.ttc",
    "NotoSansDevanagari-Regular.ttf", "Nirmala.ttc", "NotoSansThai-Regular.ttf", "NotoSansArabic-Regular.ttf",
)  # fmt: skip
_PAPER, _INK = (255, 255, 255), (30, 30, 34)


def draw_caption(image: Image.Image, caption: Caption, transform: ImageTransform) -> Image.Image:
    """`draw_attention` for a caption's words; `DataError` if its decoder has no attention."""
    maps = [word.attention for word in caption.words if word.attention is not None]
    if len(maps) < len(caption.words):
        raise DataError("this captioner has no attention to draw; expected a decoder with attention over a grid")
    shape = (0, 1, 1) if not maps else (len(maps), *maps[0].shape)
    words = [word.text for word in caption.words]
    return draw_attention(image, words, np.array(maps, np.float32).reshape(shape), transform)


def draw_attention(
    image: Image.Image, words: Sequence[str], attention: NDArray[np.float32], transform: ImageTransform
) -> Image.Image:
    """An RGB picture: the photo, then the photo once for each of T words, bright where the decoder looked.

    `attention` (T,h,w) covers the part of the image that `transform` shows the encoder; the rest is dimmed.
    """
    return _draw(image, words, [_brightness(weights) for weights in attention], transform)


def draw_explanation(image: Image.Image, explanation: Explanation, transform: ImageTransform) -> Image.Image:
    """An RGB picture: the photo, then the photo once for each word, as bright in a place as the word loses without it.

    The brightest place of all words is where the most is lost; words that need nothing from the photo stay dark.
    """
    lost = [word.cells.clip(0) for word in explanation.words]
    most = max((float(cells.max()) for cells in lost), default=0.0) or 1.0
    maps = [(cells / most).astype(np.float32) for cells in lost]
    return _draw(image, [word.text for word in explanation.words], maps, transform)


def _draw(
    image: Image.Image, words: Sequence[str], maps: Sequence[NDArray[np.float32]], transform: ImageTransform
) -> Image.Image:
    """The photo, then one tile for each word and its map (h,w) of brightness, 0 … 1."""
    scale = _TILE / max(image.size)
    size = (max(1, round(image.width * scale)), max(1, round(image.height * scale)))
    photo = image.convert("RGB").resize(size, Image.Resampling.LANCZOS)
    box = tuple(round(side * scale) for side in transform.crop_box(*image.size))
    tiles = [(photo, ""), *((_overlay(photo, bright, box), word) for word, bright in zip(words, maps, strict=True))]
    return _sheet(tiles, size)


def _brightness(weights: NDArray[np.float32]) -> NDArray[np.float32]:
    """Attention (h,w) -> 0 … 1; weights that sum to less than one are darkened in proportion."""
    spread = float(weights.max() - weights.min())
    bright: NDArray[np.float32] = (weights - weights.min()) / (spread or 1.0) * min(1.0, float(weights.sum()))
    return bright


def _overlay(photo: Image.Image, bright: NDArray[np.float32], box: tuple[int, ...]) -> Image.Image:
    """The photo, darkened where `bright` is small; interpolated, because the grid is coarser than the picture."""
    left, top, right, bottom = box
    grid = Image.fromarray((bright * 255).astype(np.uint8))
    seen = grid.resize((max(1, right - left), max(1, bottom - top)), Image.Resampling.BICUBIC)
    mask = Image.new("L", photo.size, 0)
    mask.paste(seen, (left, top))
    strength = np.asarray(mask, np.float32)[..., None] / 255
    pixels = np.asarray(photo, np.float32)
    dim = pixels * 0.28
    warm = pixels * 0.72 + np.array([255.0, 170.0, 40.0]) * 0.28
    return Image.fromarray((dim + (warm - dim) * strength).clip(0, 255).astype(np.uint8))


def _sheet(tiles: Sequence[tuple[Image.Image, str]], size: tuple[int, int]) -> Image.Image:
    columns = min(_COLUMNS, len(tiles))
    rows = -(-len(tiles) // columns)
    cell = (max(size[0], 96) + _GAP, size[1] + _LABEL + _GAP)
    sheet = Image.new("RGB", (columns * cell[0] + _GAP, rows * cell[1] + _GAP), _PAPER)
    pen = ImageDraw.Draw(sheet)
    for index, (tile, word) in enumerate(tiles):
        x, y = _GAP + index % columns * cell[0], _GAP + index // columns * cell[1]
        sheet.paste(tile, (x + (cell[0] - _GAP - size[0]) // 2, y))
        middle = (x + (cell[0] - _GAP) / 2, y + size[1] + _LABEL / 2)
        pen.text(middle, word, fill=_INK, anchor="mm", font=_fitting(word, cell[0] - _GAP))
    return sheet


def _fitting(word: str, width: int) -> _Font:
    """The font, at the largest size at which the word fits under its tile."""
    name = _typeface("".join(sorted(set(word))))
    fonts = (_font(name, size) for size in (16, 14, 12, 10, 8))
    return next((font for font in fonts if font.getlength(word) <= width), _font(name, 8))


@functools.cache
def _typeface(letters: str) -> str:
    """The first typeface that has all letters, "" for Pillow's own; if none has, also "", with a warning."""
    for name in ("", *_TYPEFACES):
        try:
            font = _font(name, 16)
        except (OSError, UnicodeError):  # not installed, or only bitmaps
            continue
        if not any(_drawn(font, letter) == _drawn(font, "\U0010ffff") for letter in letters if not letter.isspace()):
            return name
    _log.warning(
        "no font here has all letters of '%s', which are drawn as boxes; the page of  showtell report  shows them",
        letters,
    )
    return ""


def _font(name: str, size: int) -> _Font:
    return ImageFont.truetype(name, size) if name else ImageFont.load_default(size)


def _drawn(font: _Font, letter: str) -> tuple[tuple[int, int], bytes]:
    """A letter's shape; letters that a typeface lacks all look the same."""
    mask = font.getmask(letter)
    return mask.size, bytes(mask)
