"""Data that is not as it should be: what is wrong is named, by file and line or entry, and the rest is read."""

from __future__ import annotations

from pathlib import Path

import pytest
from captioned import paint, told, write

from showtell.data.annotations import read_annotations


@pytest.mark.parametrize("suffix", ["", ".png"])
@pytest.mark.parametrize("format", ["token", "description"])
def test_lists_may_name_images_with_spaces(format: str, suffix: str, tmp_path: Path) -> None:
    known = "" if format == "description" else ".jpg"  # a list without suffixes means these
    names = {f"my photo {n}": split for n, split in ((1, "train"), (2, "train"), (3, "val"), (4, "test"))}
    paint(*(tmp_path / "images" / f"{name}{suffix or known or '.png'}" for name in names))
    for split, word in (("train", "train"), ("val", "dev"), ("test", "test")):
        said = "".join(f"{name}{suffix}\n" for name, of in names.items() if of == split)
        write(tmp_path / f"list.{word}Images.txt", said)
    if format == "token":
        rows = "".join(f"{name}{suffix or known}#0\ta thing\n" for name in names)
        write(tmp_path / "own.token.txt", rows)
    else:
        write(tmp_path / "descriptions.txt", "".join(f"{name}{suffix}\ta thing\n" for name in names))
    write(tmp_path / "train_log.txt", "all went well.\n")
    found = read_annotations(tmp_path)
    assert {Path(name).stem: split for name, (_, split) in told(found).items()} == names
    assert not found.problems
