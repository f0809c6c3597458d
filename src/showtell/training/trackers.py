"""Experiment trackers beside a run's own log: Weights & Biases, MLflow and any other that Accelerate knows."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping, Sequence
from typing import Any

from accelerate import Accelerator
from accelerate.tracking import LOGGER_TYPE_TO_CLASS, get_available_trackers

from showtell.config import Recipe
from showtell.errors import RecipeError, first_line, meant

_OWN = "tensorboard"  # written by the run's own log
_RUN_NAME = {"wandb": "name", "trackio": "name", "mlflow": "run_name", "swanlab": "experiment_name"}


def check_trackers(names: Sequence[str]) -> None:
    """`RecipeError` for a tracker that Accelerate does not know, or whose package is not installed."""
    known = sorted(set(LOGGER_TYPE_TO_CLASS) - {_OWN})
    for name in names:
        if name == _OWN:
            raise RecipeError("train.trackers: TensorBoard's events are written anyway; leave it out")
        if name not in known:
            near = meant(name, known, f"expected one of {', '.join(known)}")
            raise RecipeError(f"train.trackers: no tracker '{name}'; {near}")
        if name not in map(str, get_available_trackers()):
            raise RecipeError(f"train.trackers: {name} is not installed; run  pip install {name}")


class Trackers:
    """The trackers of a run. If one fails later, its record has a gap; training goes on."""

    def __init__(self, accelerator: Accelerator, recipe: Recipe, *, run: str, note: Callable[[str], None]) -> None:
        """Starts the trackers of `accelerator` in the project "showtell" and gives them the recipe. `RecipeError` if one cannot start."""
        self._accelerator, self._note = accelerator, note
        config = dict(_flat(recipe.given_away().model_dump(mode="json")))
        named = {name: {_RUN_NAME[name]: run} for name in recipe.train.trackers if name in _RUN_NAME}
        try:
            accelerator.init_trackers("showtell", config=config, init_kwargs=named)
        except Exception as error:  # each client raises exceptions of its own
            raise RecipeError(
                f"train.trackers: {', '.join(recipe.train.trackers)} cannot start ({first_line(error)}); log in there, or leave it out"
            ) from error

    def tell(self, points: Mapping[str, float], *, epoch: int) -> None:
        """Records the numbers of one epoch."""
        for tracker in self._accelerator.trackers:
            try:
                tracker.log(dict(points), step=epoch)
            except Exception as error:
                self._note(f"epoch {epoch} is missing in {tracker.name}: {first_line(error)}")

    def close(self) -> None:
        """Ends them, so that they write what is left."""
        for tracker in self._accelerator.trackers:
            try:
                tracker.finish()
            except Exception as error:
                self._note(f"{tracker.name} did not end well: {first_line(error)}")


def _flat(value: Any, name: str = "") -> Iterator[tuple[str, Any]]:
    """Nested values by dotted keys, as on the command line: `train.phases.0.lr`."""
    if isinstance(value, dict) or (isinstance(value, list) and any(isinstance(item, dict) for item in value)):
        for key, item in value.items() if isinstance(value, dict) else enumerate(value):
            yield from _flat(item, f"{name}.{key}" if name else str(key))
    else:
        yield name, str(value) if isinstance(value, list) else value
