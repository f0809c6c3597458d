"""Rows of tables in text: which cell belongs to which column, where captions with commas are not in quotation marks."""

from __future__ import annotations

import csv
import itertools
from collections import Counter
from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass


@dataclass(frozen=True)
class Header:
    """The columns of a table: their names in small letters, which of them hold captions, and what separates cells."""

    names: tuple[str, ...]
    captions: tuple[int, ...]
    delimiter: str
    width: int  # with columns without a name at the end, as spreadsheets leave them
    spaced: bool = False  # a space follows the delimiter, so that one says nothing of captions

    @classmethod
    def of(cls, line: str, captions: Callable[[Sequence[str]], Iterable[str]]) -> Header:
        """The header that a table's first line is; `captions` says which of its names are of columns with captions.

        Of equal names the second becomes "caption.1" and the third "caption.2".
        """
        delimiter = next((sign for sign in "\t,;|" if sign in line), ",")
        raw = [cell for row in csv.reader([line], delimiter=delimiter) for cell in row]
        cells = [cell.strip().lower() for cell in raw]
        names = cells[: _without_empty(cells)]
        seen = Counter[str]()
        for at, name in enumerate(names):
            names[at] = f"{name}.{seen[name]}" if name and seen[name] else name
            seen[name] += 1
        return cls(
            tuple(names),
            tuple(map(names.index, captions(names))),
            delimiter,
            len(cells),
            any(cell[:1].isspace() for cell in raw),
        )

    def fit(self, cells: Sequence[str]) -> list[str] | None:
        """A row's cells, at most one a column; None where there are more and it cannot be told which belong together.

        Empty ones at the end are left out, except one that ends a row whose caption goes on in the next cell. Others are
        parts of the caption, if one column alone holds captions.
        """
        full = _without_empty(cells)
        if len(self.captions) == 1:
            (at,) = self.captions
            end = max(full, len(cells) - (self.width - len(self.names)))  # columns without a name end empty
            surplus = max(full - len(self.names), min(self._goes_on(cells, at), end - len(self.names)), 0)
            caption = self.delimiter.join(cells[at : at + surplus + 1])
            fitted = [*cells[:at], caption.rstrip(self.delimiter), *cells[at + surplus + 1 :]] if surplus else cells
            return list(fitted[: len(self.names)])
        return list(cells[: len(self.names)]) if full <= len(self.names) else None

    def _goes_on(self, cells: Sequence[str], at: int) -> int:
        """How many cells after a caption begin with a space, as what follows a comma in a sentence does."""
        parts = itertools.takewhile(lambda cell: cell[:1].isspace() and cell.strip(), cells[at + 1 :])
        return 0 if self.spaced else len(list(parts))

    def misfit(self, cells: Sequence[str]) -> str:
        """What is wrong with a row that `fit` refuses, and what to do."""
        return (
            f"found {_without_empty(cells)} cells for {len(self.names)} columns; "
            f"put captions with a '{self.delimiter}' in quotation marks"
        )


def _without_empty(cells: Sequence[str]) -> int:
    """How many cells there are, without empty ones at the end."""
    return next((count for count in range(len(cells), 0, -1) if cells[count - 1].strip()), 0)
