"""Where showtell keeps what it can make again, which files are a captioner, how a file is written whole, and why a hub is silent."""

from __future__ import annotations

import os
from pathlib import Path

BUNDLE_FILES = ("config.json", "tokenizer.json", "model.safetensors")
CACHE_FILES = ("cache.json", "features.f16", "index.jsonl", "of.txt")
EXPORT_FILES = ("encoder.onnx", "prepare.onnx", "step.onnx", "vocabulary.json")  # beside config.json


def cache_folder(wanted: str, fingerprint: str) -> Path:
    """The feature cache's folder for an encoder.

    A folder that is a cache itself is used as it is (and checked when opened); any other is a place for caches, one
    folder an encoder. Without one, that place is `cache_home()`: below `SHOWTELL_CACHE`, by default the user's cache.
    """
    if wanted and is_cache(Path(wanted)):
        return Path(wanted)
    return (Path(wanted) if wanted else cache_home()) / fingerprint[:16]


def is_cache(folder: Path) -> bool:
    """Whether a folder is a feature cache."""
    return (folder / CACHE_FILES[0]).is_file()


def cache_home() -> Path:
    """The user's place for feature caches."""
    return Path(os.environ.get("SHOWTELL_CACHE") or Path.home() / ".cache" / "showtell") / "features"


def why_no_hub() -> str:
    """What to say where the Hugging Face Hub did not answer."""
    off = os.environ.get("HF_HUB_OFFLINE", "").upper() in {"1", "ON", "YES", "TRUE"}
    return "HF_HUB_OFFLINE switches the hub off" if off else "the hub cannot be reached"


def write_whole(path: Path, content: str | bytes) -> None:
    """Writes a file so that at any moment, that of a power cut included, `path` is either what it was or the whole content.

    An `OSError` names the file, also where the disk is full.
    """
    temporary = path.with_name(f".{path.name}.tmp")
    try:
        with temporary.open("wb") as file:
            file.write(content.encode() if isinstance(content, str) else content)
            file.flush()
            os.fsync(file.fileno())
        temporary.replace(path)
    except OSError as error:
        temporary.unlink(missing_ok=True)
        raise OSError(error.errno, error.strerror, str(path)) from None
