"""Captions in text files beside their images, as those have them who train on folders of captioned images."""

from __future__ import annotations

import os
from collections.abc import Iterable, Iterator
from pathlib import Path
from typing import TYPE_CHECKING

from showtell.commands.inputs import Input
from showtell.commands.rows import ranked
from showtell.commands.terminal import escaped
from showtell.errors import DataError, may_write
from showtell.paths import write_whole

if TYPE_CHECKING:
    from showtell.captioning import Caption


def text_beside(image: str) -> str:
    """The text file of an image: `photo.txt` beside `photo.jpg`, where the data's format of pairs looks for it."""
    return os.path.splitext(image)[0] + ".txt"


def with_own_texts(inputs: Iterable[Input]) -> Iterator[Input]:
    """The images, each once, without the text files that a pattern like `photos/*` matches too.

    All are listed before the first is given. `DataError` for two that would share a text file, and for an image from
    standard input, which lies beside nothing.
    """
    found: dict[str, Input] = {}
    for name, source in inputs:
        if isinstance(source, bytes):
            raise DataError(
                "--beside writes beside an image's file, and one from standard input has none; leave out --beside"
            )
        if name.lower().endswith(".txt"):
            continue
        text = text_beside(name)
        first, _ = found.setdefault(os.path.abspath(text), (name, source))
        if first != name and os.path.abspath(first) != os.path.abspath(name):
            raise DataError(
                escaped(f"--beside: {first} and {name} would share {text}; rename one, or name only one of them")
            )
    yield from found.values()


class TextFiles:
    """The text files beside images: a caption a line, the best first. Each is written whole, and none written over.

    `left` has the images without a text file, and `before` counts the others. Raises `DataError`, before anything is
    captioned, for a folder with images left in which nothing may be written.
    """

    def __init__(self, inputs: Iterable[Input], n: int) -> None:
        self._n, self._written, self.before = n, 0, 0
        self.left: list[Input] = []
        for name, source in inputs:
            if os.path.lexists(text_beside(name)):
                self.before += 1
            else:
                self.left.append((name, source))
        for folder in dict.fromkeys(os.path.dirname(name) or "." for name, _ in self.left):
            if os.path.isdir(folder) and not may_write(folder):
                raise DataError(
                    f"--beside: nothing may be written into {escaped(folder)}; change its permissions, or use --out"
                )

    def write(self, name: str, caption: Caption) -> None:
        """Writes the n best captions of an image, unless it got a text file since it was listed."""
        path = text_beside(name)
        if os.path.lexists(path):
            self.before += 1
            return
        write_whole(Path(path), "".join(f"{escaped(item.text)}\n" for item in ranked(caption, self._n)))
        self._written += 1

    def told(self) -> str:
        """How many images were captioned, and how many were before."""
        if not self.left and self.before:
            return f"no image is left to caption, {self.before} images have captions already"
        return f"{self._written} images captioned, {self.before} images have captions already"
