"""Where feature caches are kept, which files make up a captioner, what lies in a folder, whole-file writes, locks on
files, and why the hub is silent."""

from __future__ import annotations

import json
import os
from pathlib import Path
from typing import IO

BUNDLE_FILES = ("config.json", "tokenizer.json", "model.safetensors")
CACHE_FILES = ("cache.json", "features.f16", "index.jsonl", "of.txt")
EXPORT_FILES = ("encoder.onnx", "prepare.onnx", "step.onnx", "vocabulary.json")  # beside config.json
_LARGEST_HEADER = 100_000_000  # bytes; safetensors' own limit


def cache_folder(wanted: str, fingerprint: str) -> Path:
    """The feature cache's folder for an encoder.

    If `wanted` is a cache itself, it is used as it is (and checked when opened); any other folder holds caches, one
    subfolder per encoder. If it is empty, they are in `cache_home()`.
    """
    if wanted and is_cache(Path(wanted)):
        return Path(wanted)
    return (Path(wanted) if wanted else cache_home()) / fingerprint[:16]


def is_cache(folder: Path) -> bool:
    """Whether a folder is a feature cache."""
    return (folder / CACHE_FILES[0]).is_file()


def cache_home() -> Path:
    """The user's folder of feature caches: below `SHOWTELL_CACHE`, by default `~/.cache/showtell`."""
    return Path(os.environ.get("SHOWTELL_CACHE") or Path.home() / ".cache" / "showtell") / "features"


def saved_together(folder: Path) -> bool:
    """Whether a bundle's weights and its config.json are of one saving. Also true where the weights do not say, as those
    of earlier versions, and where there are none: an export, or what `load_bundle` refuses."""
    try:
        with (folder / "model.safetensors").open("rb") as file:
            size = int.from_bytes(file.read(8), "little")
            header = json.loads(file.read(min(size, _LARGEST_HEADER)))
        config = json.loads((folder / "config.json").read_text(encoding="utf-8"))
        weights = header.get("__metadata__", {}).get("saved")
        return weights is None or weights == config.get("saved")
    except (OSError, ValueError, AttributeError):
        return True


def entries(folder: Path) -> list[Path]:
    """What lies in a folder, in order; nothing if that may not be seen: `lost+found`, or another user's in `/tmp`."""
    try:
        return sorted(folder.iterdir())
    except PermissionError:
        return []


def why_no_hub() -> str:
    """Why the Hugging Face Hub did not answer, as part of a sentence."""
    off = os.environ.get("HF_HUB_OFFLINE", "").upper() in {"1", "ON", "YES", "TRUE"}
    return "HF_HUB_OFFLINE switches the hub off" if off else "the hub cannot be reached"


def write_whole(path: Path, content: str | bytes) -> None:
    """Writes a file so that at any moment, even in a power cut, `path` has either its old content or the whole new one.

    An `OSError` names the file, even where the disk is full.
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


def lock(file: IO[bytes] | int, *, wait: bool = False) -> bool:
    """Locks an open file or folder against other processes that lock it, until it is closed or this process dies.

    False if another one has it, unless told to `wait`. Windows has no such locks, and there the answer is yes;
    `OSError` on a file system that has none.
    """
    try:
        import fcntl
    except ImportError:
        return True
    try:
        fcntl.flock(file, fcntl.LOCK_EX | (0 if wait else fcntl.LOCK_NB))
    except BlockingIOError:
        return False
    return True
