"""New folders that are there whole or not at all, and names that are safe on any file system. Standard library only."""

from __future__ import annotations

import contextlib
import re
import tempfile
import unicodedata
from collections.abc import Iterator
from pathlib import Path

from showtell.errors import ShowtellError

_LONGEST = 200  # bytes of a name; file systems take 255, and a suffix and a number follow
_DEVICES = re.compile(r"(?:con|prn|aux|nul|com\d|lpt\d)(?=\.|$)", re.IGNORECASE)  # names that Windows keeps for itself


@contextlib.contextmanager
def new_folder(to: Path, error: type[ShowtellError]) -> Iterator[Path]:
    """An empty folder beside `to` that takes its place when the context ends well; otherwise it vanishes.

    Raises `error` if `to` is there and no empty folder, or is the current one.
    """
    if to.exists() and (not to.is_dir() or any(to.iterdir())):
        raise error(f"{to} exists and is not an empty folder; name another one with --to")
    if to.resolve() == Path.cwd():
        raise error(f"{to} is the folder that you are in, which cannot be replaced; name another one with --to")
    to.parent.mkdir(parents=True, exist_ok=True)
    with tempfile.TemporaryDirectory(dir=to.parent, prefix=f".{to.name}.") as temporary:
        folder = Path(temporary) / "data"  # unlike its parent, others may read it
        folder.mkdir()
        yield folder
        if to.exists():
            to.rmdir()
        folder.rename(to)


def safe_name(name: str) -> str:
    """The last part of a path as a file's name on any system; empty where nothing is left of it.

    Separators of both kinds count; characters that cannot be printed or that Windows forbids become "_".
    """
    last = unicodedata.normalize("NFC", re.split(r"[/\\]", name)[-1])
    plain = "".join(c if c.isprintable() and c not in '<>:"|?*' else "_" for c in last).strip(" .")
    plain = f"_{plain}" if _DEVICES.match(plain) else plain
    return plain.encode()[:_LONGEST].decode(errors="ignore").rstrip(" .")
