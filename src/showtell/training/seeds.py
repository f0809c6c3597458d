"""One recipe, several seeds: how far apart chance alone puts scores, without which a difference between two recipes says
little."""

from __future__ import annotations

import json
import statistics
from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import TYPE_CHECKING

from showtell.config import Recipe
from showtell.errors import RecipeError, occupied
from showtell.paths import write_whole

if TYPE_CHECKING:
    from showtell.training.run import TrainResult


@dataclass(frozen=True)
class Spread:
    """A score over several runs; `deviation` is the standard deviation of the sample (n − 1)."""

    mean: float
    deviation: float
    least: float
    greatest: float

    @classmethod
    def of(cls, values: Sequence[float]) -> Spread:
        """The spread of two values or more."""
        return cls(statistics.fmean(values), statistics.stdev(values), min(values), max(values))


def with_seeds(recipe: Recipe, many: int, *, out: Path, resume: bool = False) -> dict[Path, Recipe]:
    """The runs of a recipe with `many` seeds from `train.seed` on, by their folders: `out/seed-0`, `out/seed-1`, …

    `RecipeError` if `out` itself is a run's folder, or, unless these are to `resume`, if one of them is.
    """
    if (out / "recipe.json").exists():
        raise RecipeError(
            f"{out} holds a run, and runs with several seeds need a folder of their own; name one with --out"
        )
    seeds = range(recipe.train.seed, recipe.train.seed + many)
    runs = {out / f"seed-{seed}": recipe.seeded(seed) for seed in seeds}
    begun = next((folder for folder in runs if (folder / "recipe.json").exists()), None)
    if begun and not resume:  # found out now, and not when its turn comes
        raise occupied(begun)
    return runs


def spreads(results: Sequence[TrainResult]) -> dict[str, Spread]:
    """Score name -> its spread over two runs or more, of the scores that all of them have."""
    names = [name for name in results[0].scores if all(name in result.scores for result in results)]
    return {name: Spread.of([result.scores[name] for result in results]) for name in names}


def keep_seeds(out: Path, results: Mapping[int, TrainResult]) -> Path:
    """Writes the scores of runs by their seeds, and their spreads, as `out/seeds.json`; returns that path."""
    told = {
        "runs": [
            {"seed": seed, "bundle": str(result.bundle), "best_epoch": result.best_epoch, "epochs": result.epochs,
             "scores": result.scores, "protocol": str(result.protocol)}
            for seed, result in results.items()
        ],
        "spread": {name: asdict(spread) for name, spread in spreads(list(results.values())).items()},
    }  # fmt: skip
    path = out / "seeds.json"
    write_whole(path, json.dumps(told, indent=2, ensure_ascii=False) + "\n")
    return path
