"""Rows of tables in text: which cell belongs to which column, where captions with commas are not in quotation marks."""

from __future__ import annotations

import csv
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

    @classmethod
    def of(cls, line: str, captions: Callable[[Sequence[str]], Iterable[str]]) -> Header:
        """The header that a table's first line is; `captions` says which of its names are of columns with captions.

        Of equal names the second becomes "caption.1" and the third "caption.2".
        """
        delimiter = next((sign for sign in "\t,;|" if sign in line), ",")
        cells = [cell.strip().lower() for row in csv.reader([line], delimiter=delimiter) for cell in row]
        names = cells[: _without_empty(cells)]
        seen = Counter[str]()
        for at, name in enumerate(names):
            names[at] = f"{name}.{seen[name]}" if name and seen[name] else name
            seen[name] += 1
        return cls(tuple(names), tuple(map(names.index, captions(names))), delimiter, len(cells))

    def fit(self, cells: Sequence[str]) -> list[str] | None:
        """A row's cells, at most one a column; None where there are more and it cannot be told which belong together.

        Empty ones at the end are left out. Others are parts of the caption, if one column alone holds captions.
        """
        surplus = len(cells) - len(self.names)
        if surplus <= 0 or _without_empty(cells) <= len(self.names):
            return list(cells[: len(self.names)])
        if len(self.captions) != 1:
            return None
        (at,) = self.captions
        caption = self.delimiter.join(cells[at : at + surplus + 1]).rstrip(self.delimiter)
        return [*cells[:at], caption, *cells[at + surplus + 1 :]]

    def misfit(self, cells: Sequence[str]) -> str:
        """What is wrong with a row that `fit` refuses, and what to do."""
        return (
            f"found {_without_empty(cells)} cells for {len(self.names)} columns; "
            f"put captions with a '{self.delimiter}' in quotation marks"
        )


def _without_empty(cells: Sequence[str]) -> int:
    """How many cells there are, without empty ones at the end."""
    return next((count for count in range(len(cells), 0, -1) if cells[count - 1].strip()), 0)
