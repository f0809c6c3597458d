"""The images that arguments of `showtell caption` name, one after the other: files, folders, patterns, standard input, a shard."""

from __future__ import annotations

import io
import itertools
import os
import re
import sys
from collections import deque
from collections.abc import Callable, Iterable, Iterator
from pathlib import Path

from showtell.errors import RecipeError

Input = tuple[str, Path | bytes]  # what it is called in the output, and what is opened

_MAGIC = (b"\xff\xd8\xff", b"\x89PNG\r\n", b"GIF87a", b"GIF89a")  # the other formats have a NUL, which no path has


def list_inputs(arguments: Iterable[str]) -> Iterator[Input]:
    """Every image that the arguments name, found as it is asked for. Wrong ones raise `DataError` here, before anything is loaded."""
    from showtell.images import find_images

    parts: list[Callable[[], Iterator[Input]]] = []
    for argument in arguments:
        if argument == "-":
            parts.append(read_stdin)
        else:
            paths = find_images([argument])
            first = list(itertools.islice(paths, 1))  # now, so that wrong ones are told of
            found = ((str(path), path) for path in itertools.chain(first, paths))
            parts.append(lambda found=found: found)  # type: ignore[misc]
    return (item for part in parts for item in part())


def read_stdin() -> Iterator[Input]:
    """Paths, one a line; or, where standard input starts like an image file, that image, called '-'."""
    stream = sys.stdin.buffer
    head = stream.read(16)
    if head.startswith(_MAGIC) or b"\0" in head or head[8:12] == b"WEBP":
        yield "-", head + stream.read()
        return
    begun = head if head.endswith(b"\n") else head + stream.readline()
    for lines in (io.BytesIO(begun), stream):
        for line in lines:
            name = os.fsdecode(line.rstrip(b"\r\n"))
            if name.strip():
                yield name, Path(name)


def shard(inputs: Iterator[Input], part: str) -> Iterator[Input]:
    """Every N-th of the inputs from number I on, of `part` "I/N"; `RecipeError` for another one."""
    match = re.fullmatch(r"(\d{1,9})/(\d{1,9})", part)
    index, count = (int(match[1]), int(match[2])) if match else (0, 0)
    if index >= count:
        raise RecipeError(f"--shard {part}: expected I/N, e.g. 0/4, 1/4, 2/4 and 3/4 for four processes")
    return itertools.islice(inputs, index, None, count)


def sources(inputs: Iterable[Input], names: deque[Input]) -> Iterator[Path | bytes]:
    """What the captioner opens; it reads ahead, so the names wait in `names`."""
    for name, source in inputs:
        names.append((name, source))
        yield source
