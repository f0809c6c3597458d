"""Opens either kind of folder: a bundle, which torch runs, or an exported one, which ONNX Runtime runs."""

from __future__ import annotations

import json
from pathlib import Path
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from showtell.captioning import BaseCaptioner


def load_captioner(path: str | Path) -> BaseCaptioner:
    """The captioner in a folder, a bundle or an exported one. Raises `BundleError` where it is neither."""
    if is_exported(Path(path)):
        from showtell.runtime import OnnxCaptioner

        return OnnxCaptioner.load(path)
    from showtell.inference import Captioner

    return Captioner.load(path)


def is_exported(folder: Path) -> bool:
    """Whether `showtell export` wrote the folder."""
    try:
        config = json.loads((folder / "config.json").read_text(encoding="utf-8"))
    except (OSError, ValueError):
        return False
    return isinstance(config, dict) and "onnx" in config
