"""A run's folder: whose run it is, and whether it may be continued."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

from pydantic import ValidationError

from showtell.config import OF_THE_CNN, Recipe
from showtell.errors import RecipeError
from showtell.paths import write_whole
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
    "start",  # whether its CNN and words are the same is seen when they are read
    "path",  # whether its training captions are the same is seen when they are read
}  # what shapes no training, so that a resumed run may have it otherwise


def begun_with(out: Path) -> str:
    """The captioner with which a run in `out` began; empty where there is none, or no run."""
    try:
        return Recipe.model_validate_json((out / "recipe.json").read_bytes()).train.start
    except (OSError, ValidationError):
        return ""


def check_folder(out: Path, recipe: Recipe, *, resume: bool) -> bool:
    """Whether there is something to resume; `RecipeError` where that and `resume` do not go together.

    Phases that have not begun may be others than when the run was, more or fewer: they shaped nothing yet."""
    if out.exists() and not out.is_dir():
        raise RecipeError(f"--out {out} is a file; expected a folder, or a name that is free")
    if (out / "recipe.json").exists() and not resume:
        raise RecipeError(f"{out} already holds a run; add --resume to continue it, or name another folder with --out")
    if not (out / "checkpoint.safetensors").exists():
        log = out / "log.jsonl"  # one that was killed in its first epoch had no checkpoint yet
        if (out / "bundle" / "config.json").exists() and log.is_file() and log.read_bytes().count(b"\n") > 1:
            raise RecipeError(
                f"{out} holds a captioner and no checkpoint to go on from; use another --out, or remove it"
            )
        return False
    try:  # keys that are new since then have their defaults
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


def _changed(before: dict[str, Any], now: dict[str, Any], *, begun: int) -> list[str]:
    """What may not differ and does, a phrase each; of the phases those that have begun."""
    tables = {section: (before[section], now[section]) for section in _SECTIONS}
    old, new = (train.pop("phases") for train in tables["train"])
    tables |= {f"train.phases.{i}": (phase, new[i]) for i, phase in enumerate(old[:begun]) if i < len(new)}
    missing = [f"train.phases.{i} is gone" for i in range(len(new), begun)]
    return [
        f"{section}.{key} was {json.dumps(was[key])}, is {json.dumps(value)}"
        for section, (was, is_) in tables.items()
        for key, value in is_.items()
        if was[key] != value and key not in _MAY_CHANGE and not (key in OF_THE_CNN and not was["encoder_from"])
    ] + missing


def save_recipe(out: Path, recipe: Recipe) -> None:
    """Writes `out/recipe.json`, the recipe as it was resolved."""
    write_whole(out / "recipe.json", recipe.model_dump_json(indent=2) + "\n")
