"""Loads either kind of captioner, local or from the hub: a bundle (torch) or an exported folder (ONNX Runtime)."""

from __future__ import annotations

import json
from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING

from showtell.errors import BundleError, DataError
from showtell.hub import resolve

if TYPE_CHECKING:
    from showtell.captioning import BaseCaptioner


def load_captioner(
    path: str | Path, *, ensemble: Sequence[str | Path] = (), device: str | None = None
) -> BaseCaptioner:
    """The captioner in a bundle or an exported folder, or of a hub name; with `ensemble`, one of several bundles.

    `device` is torch's, by default an accelerator where there is one. `BundleError` where a folder is neither, and
    where an exported captioner is to join an ensemble; `DataError` for an unavailable device, or any but the CPU for an
    exported one.
    """
    folder, *others = (resolve(name) for name in (path, *ensemble))
    if others and (exported := [each for each in (folder, *others) if is_exported(each)]):
        raise BundleError(f"{exported[0]} is an exported captioner; an ensemble needs the bundles themselves")
    if is_exported(folder):
        from showtell.runtime import OnnxCaptioner

        if device not in (None, "cpu"):
            raise DataError(
                f"{folder} is an exported captioner, which runs on the cpu; expected no device, found '{device}'"
            )
        return OnnxCaptioner.load(folder)
    from showtell.inference import Captioner

    return Captioner.load(folder, device, ensemble=others)


def is_exported(folder: Path) -> bool:
    """Whether `showtell export` wrote the folder."""
    try:
        config = json.loads((folder / "config.json").read_text(encoding="utf-8"))
    except (OSError, ValueError):
        return False
    return isinstance(config, dict) and "onnx" in config
