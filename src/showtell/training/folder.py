"""A run's folder: which recipe it was trained with, and whether the run may be continued."""

from __future__ import annotations

import json
import os
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from pathlib import Path
from typing import Any

from pydantic import ValidationError

from showtell.config import PhaseConfig, Recipe
from showtell.errors import RecipeError, occupied
from showtell.paths import lock, write_whole
from showtell.training.checkpoint import read_position

_SECTIONS = ("data", "encoder", "decoder", "train", "search")
_MAY_CHANGE = {
    "max_phases",
    "workers",
    "checkpoint_steps",
    "views",
    "cache",
    "choose_decoding",
    "cuda_graphs",
    "gradient_checkpointing",
    "trackers",
    "start",  # its CNN and words are compared when they are read
    "teachers",  # so are theirs
    "path",  # its captions and pictures are compared when they are read
}  # keys that do not shape training, so that a resumed run may change them


def begun_with(out: Path) -> Recipe | None:
    """The recipe of the run in `out`, which names the captioner that it started from, and its teachers; None if there is
    no run."""
    try:
        return Recipe.model_validate_json((out / "recipe.json").read_bytes())
    except (OSError, ValidationError):
        return None


def check_folder(out: Path, recipe: Recipe, *, resume: bool) -> bool:
    """Whether there is a checkpoint to resume; `RecipeError` if `out` does not go with `resume` or the recipe.

    Phases that have not begun may be changed, added or removed: they have shaped nothing yet."""
    if out.exists() and not out.is_dir():
        raise RecipeError(f"--out {out} is a file; expected a folder, or a name that is free")
    if (out / "recipe.json").exists() and not resume:
        raise occupied(out)
    if not (out / "checkpoint.safetensors").exists():
        log = out / "log.jsonl"  # a run killed in its first epoch has no checkpoint yet
        if (out / "bundle" / "config.json").exists() and log.is_file() and log.read_bytes().count(b"\n") > 1:
            raise RecipeError(
                f"{out} holds a captioner and no checkpoint to go on from; use another --out, or remove it"
            )
        return False
    try:  # keys added since then get their defaults
        before = Recipe.model_validate_json((out / "recipe.json").read_bytes()).model_dump(mode="json")
    except ValidationError:
        raise RecipeError(
            f"{out} was begun by another version of showtell; go on with that one, or use another --out"
        ) from None
    now = recipe.model_dump(mode="json")
    changed = _changed(before, now, begun=read_position(out / "checkpoint.safetensors").begun)
    if changed:
        raise RecipeError(
            f"{out} was trained with another recipe: {'; '.join(changed)}; set it back (only phases that have not begun may "
            "change), or use another --out"
        )
    return True


@contextmanager
def alone_in(out: Path) -> Iterator[None]:
    """Keeps other processes from training in a run's folder, which is made, and removed again if nothing comes into it.

    `RecipeError` if another process trains there. Of several processes of one training the first holds the folder. Where
    folders cannot be locked (Windows, some network file systems), nobody is kept out.
    """
    if os.environ.get("RANK", "0") != "0" or os.name == "nt" or out.is_file():
        yield
        return
    with new_folder(out):
        held = os.open(out, os.O_RDONLY)
        try:
            free = True
            with suppress(OSError):
                free = lock(held)
            if not free:
                raise RecipeError(
                    f"{out}: another process is training there; wait until it ends, or name another folder with --out"
                )
            yield
        finally:
            os.close(held)


@contextmanager
def new_folder(out: Path) -> Iterator[None]:
    """Makes the folder; new ones are removed again if the block fails before anything is in them."""
    new = [folder for folder in (out, *out.parents) if not folder.exists()]
    out.mkdir(parents=True, exist_ok=True)
    try:
        yield
    except BaseException:
        with suppress(OSError):  # one is not empty
            for folder in new:
                folder.rmdir()
        raise


def _changed(before: dict[str, Any], now: dict[str, Any], *, begun: int) -> list[str]:
    """What differs and may not, one phrase each; only phases that have begun are compared."""
    tables = {section: (before[section], now[section]) for section in _SECTIONS}
    old, new = (train.pop("phases") for train in tables["train"])
    tables |= {f"train.phases.{i}": (phase, new[i]) for i, phase in enumerate(old[:begun]) if i < len(new)}
    idle = {f"train.phases.{i}": PhaseConfig.model_validate(phase).idle() for i, phase in enumerate(old[:begun])}
    missing = [f"train.phases.{i} is gone" for i in range(len(new), begun)]
    return [
        f"{section}.{key} was {json.dumps(was[key])}, is {json.dumps(value)}"
        for section, (was, is_) in tables.items()
        for key, value in is_.items()
        if was[key] != value and key not in _MAY_CHANGE and key not in idle.get(section, ())
    ] + missing


def save_recipe(out: Path, recipe: Recipe) -> None:
    """Writes `out/recipe.json`, the resolved recipe."""
    write_whole(out / "recipe.json", recipe.model_dump_json(indent=2) + "\n")
