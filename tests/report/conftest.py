"""Photos with one red mark: where it is in the photo, and in which cell of its grid the encoder sees it."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import pytest
from PIL import Image, ImageDraw

from showtell.images import ImageTransform, open_image

Place = tuple[float, float]
Turn = Image.Transpose
STORED = {1: None, 3: Turn.ROTATE_180, 6: Turn.ROTATE_90, 8: Turn.ROTATE_270}  # EXIF orientation -> how it lies on disk


@dataclass(frozen=True)
class Marked:
    """A photo and where its mark is, in fractions of the upright photo."""

    path: Path
    place: Place

    def cell(self, transform: ImageTransform, grid: int) -> tuple[int, int] | None:
        """(row, column) of the cell that has the mark near its middle; None where there is none."""
        pixels = transform(open_image(self.path))
        rows, columns = np.nonzero(pixels[0] - pixels[1] > 0.5)
        if not len(rows):
            return None
        at = np.array([rows.mean() + 0.5, columns.mean() + 0.5]) / transform.size * grid
        return None if (abs(at % 1 - 0.5) > 0.2).any() else (int(at[0]), int(at[1]))


@pytest.fixture
def marked(tmp_path: Path) -> Callable[[tuple[int, int], Place, int], Marked]:
    def make(size: tuple[int, int], place: Place, orientation: int = 1) -> Marked:
        photo = Image.new("RGB", size, (90, 90, 90))
        x, y = place[0] * size[0], place[1] * size[1]
        ImageDraw.Draw(photo).rectangle((x - 5, y - 5, x + 5, y + 5), fill=(250, 60, 60))
        turn, exif = STORED[orientation], Image.Exif()
        exif[0x0112] = orientation
        path = tmp_path / f"{size}{place}{orientation}.jpg"
        (photo if turn is None else photo.transpose(turn)).save(path, exif=exif, quality=95, subsampling=0)
        return Marked(path, place)

    return make
