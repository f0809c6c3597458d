"""Opens either kind of captioner, here or on the hub: a bundle, which torch runs, or an exported one, which ONNX Runtime runs."""

from __future__ import annotations

import json
from pathlib import Path
from typing import TYPE_CHECKING

from showtell.hub import resolve

if TYPE_CHECKING:
    from showtell.captioning import BaseCaptioner


def load_captioner(path: str | Path) -> BaseCaptioner:
    """The captioner in a folder, a bundle or an exported one, or of a hub's name. `BundleError` where it is neither."""
    folder = resolve(path)
    if is_exported(folder):
        from showtell.runtime import OnnxCaptioner

        return OnnxCaptioner.load(folder)
    from showtell.inference import Captioner

    return Captioner.load(folder)


def is_exported(folder: Path) -> bool:
    """Whether `showtell export` wrote the folder."""
    try:
        config = json.loads((folder / "config.json").read_text(encoding="utf-8"))
    except (OSError, ValueError):
        return False
    return isinstance(config, dict) and "onnx" in config
