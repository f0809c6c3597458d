"""The images that `showtell caption` is given: files, folders, patterns, standard input, or a shard of them."""

from __future__ import annotations

import io
import itertools
import os
import re
import sys
from collections import Counter, deque
from collections.abc import Callable, Iterable, Iterator
from pathlib import Path

from showtell.errors import DataError, RecipeError

Input = tuple[str, Path | bytes]  # its name in the output, and what is opened

_ADDRESS = re.compile(r"[a-z][a-z0-9+.-]+://", re.I)
_MAGIC = (b"\xff\xd8\xff", b"\x89PNG\r\n", b"GIF87a", b"GIF89a")  # the other formats have a NUL, which no path has


def list_inputs(arguments: Iterable[str], unread: Counter[str] | None = None) -> Iterator[Input]:
    """Every image that the arguments name, found lazily. Arguments that name nothing raise `DataError` at once. Pictures
    in folders that are passed over are counted in `unread`, as `find_images` does."""
    from showtell.images import find_images

    parts: list[Callable[[], Iterator[Input]]] = []
    for argument in arguments:
        if argument == "-":
            parts.append(read_stdin)
        elif _ADDRESS.match(argument) and not Path(argument).exists():
            raise DataError(f"{argument} is an address, and those are not fetched; download it, and name the file")
        else:
            paths = find_images([argument], unread)
            first = list(itertools.islice(paths, 1))  # now, so that a wrong argument fails early
            found = ((str(path), path) for path in itertools.chain(first, paths))
            parts.append(lambda found=found: found)  # type: ignore[misc]
    return (item for part in parts for item in part())


def read_stdin() -> Iterator[Input]:
    """Paths, one per line; or, if standard input starts like an image file, that image, named '-'."""
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
    """Every N-th input from number I (0 … N-1) on, for `part` "I/N"; `RecipeError` for any other."""
    match = re.fullmatch(r"(\d{1,9})/(\d{1,9})", part)
    index, count = (int(match[1]), int(match[2])) if match else (0, 0)
    if index >= count:
        raise RecipeError(f"--shard {part}: expected I/N, e.g. 0/4, 1/4, 2/4 and 3/4 for four processes")
    return itertools.islice(inputs, index, None, count)


def sources(inputs: Iterable[Input], names: deque[Input]) -> Iterator[Path | bytes]:
    """What the captioner opens; it reads ahead, so inputs wait in `names`."""
    for name, source in inputs:
        names.append((name, source))
        yield source
