"""Tables of predictions: a caption is read whole, or the row is refused by its line."""

from __future__ import annotations

from pathlib import Path

import pytest

from showtell.errors import DataError
from showtell.metrics import read_predictions


@pytest.mark.parametrize(
    ("header", "row", "caption"),
    [
        ("image,caption,score", "1.jpg,a dog, brown, runs,0.5", "a dog, brown, runs"),
        ("image,score,caption", "1.jpg,0.5,a dog, brown, runs", "a dog, brown, runs"),
        ("caption,image", "a dog, brown,1.jpg", "a dog, brown"),
        ("image;rank;caption", "1.jpg;1;a dog; brown", "a dog; brown"),
        ("image,score,caption,,", "1.jpg,0.5,a dog, brown,", "a dog, brown"),
        ("image,caption,text", '1.jpg,"a dog, brown",,,', "a dog, brown"),
        ("image,caption", "1.jpg,a dog,,", "a dog"),
        ("image,caption,score,", "1.jpg,a dog, brown,0.5,", "a dog, brown"),
        ("image,caption,score", "1.jpg,a dog, brown,0.5,", "a dog, brown"),
        ("image,caption,score", "1.jpg,a dog, brown,", "a dog, brown"),
        ("image,caption,score", "1.jpg,a dog,0.5,,", "a dog"),
    ],
)
def test_no_cell_of_a_row_is_lost(header: str, row: str, caption: str, tmp_path: Path) -> None:
    (tmp_path / "p.csv").write_text(f"{header}\n{row}\n")
    assert read_predictions(tmp_path / "p.csv") == {"1.jpg": caption}


def test_a_row_with_surplus_cells_is_refused_by_its_line(tmp_path: Path) -> None:
    """Where several columns may be the caption, nobody knows whose the surplus is."""
    rows = '1.jpg,"a dog\nruns",\n\n2.jpg,a dog, brown,a cat\n'
    (tmp_path / "p.csv").write_text("image,caption,text\n" + rows)
    with pytest.raises(DataError, match=r"p\.csv, line 5: found 4 cells for 3 columns; put captions with a ','"):
        read_predictions(tmp_path / "p.csv")
