"""A small, seeded search over a recipe's keys: Optuna proposes, `train` runs, the validation CIDEr decides.

The study's folder holds `study.log` (Optuna's journal of proposals and scores), the runs `trial-000`, `trial-001`, …
(checkpoints are deleted, and only the best keeps its bundle) and `best.toml`, the winner's recipe. The next proposal
depends only on the seed and the trials so far, so an interrupted study continues as it would have.
"""

from __future__ import annotations

import math
import os
import shutil
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

from showtell.config import Recipe
from showtell.errors import DataError, MissingExtraError, RecipeError, WeightsError
from showtell.paths import write_whole
from showtell.progress import Progress, silent
from showtell.recipe import parse_recipe, read_value, refuse_for_training, set_keys

if TYPE_CHECKING:
    from showtell.training.run import TrainResult

_OF_THE_SPLIT = ("path", "val", "test", "split_seed")  # keys of [data] that decide which images are scored
_SPECIFIED = "expected KEY=[A, B, …], KEY=LOW..HIGH or KEY=LOW..HIGH:log, as in decoder.dropout=0.3..0.6"


@dataclass(frozen=True, slots=True)
class Range:
    """Numbers from `low` to `high`, integers if both are; `log`: drawn evenly on a logarithmic scale."""

    low: float
    high: float
    log: bool = False


Space = Mapping[str, Range | tuple[Any, ...]]  # a recipe's key -> its range or choices


@dataclass(frozen=True, slots=True)
class Trial:
    """One run of the search. `cider` is its best epoch's on the validation split, None if it could not be run."""

    number: int
    values: dict[str, Any]
    cider: float | None
    trouble: str = ""

    def __str__(self) -> str:
        said = ", ".join(f"{key}={_short(value)}" for key, value in self.values.items())
        return f"trial {self.number:3d}  {self.trouble or f'CIDEr {100 * (self.cider or 0):6.1f}'}  {said}"


@dataclass(frozen=True, slots=True)
class Tuned:
    """All trials in order, the best of them, and the file of its recipe."""

    trials: tuple[Trial, ...]
    best: Trial
    recipe: Path
    protocol: str  # of the best trial's score


def parse_space(texts: Sequence[str]) -> dict[str, Range | tuple[Any, ...]]:
    """`KEY=[A, B]`, `KEY=LOW..HIGH`, `KEY=LOW..HIGH:log` -> what to choose from; `RecipeError` for anything else."""
    space: dict[str, Range | tuple[Any, ...]] = {}
    for text in texts:
        key, separator, said = text.partition("=")
        if not separator or not key.strip() or not said.strip():
            raise RecipeError(f"'{text}' names no values: {_SPECIFIED}")
        if key.strip() in space:
            raise RecipeError(f"'{key.strip()}' is varied twice; give it once")
        space[key.strip()] = _choices(text, said.strip())
    return space


def _choices(text: str, said: str) -> Range | tuple[Any, ...]:
    first, dots, last = said.removesuffix(":log").partition("..")
    if dots and not said.startswith("["):
        low, high, log = read_value(first), read_value(last), said.endswith(":log")
        if not all(type(end) in (int, float) and math.isfinite(end) for end in (low, high)):
            raise RecipeError(f"'{text}': the ends of a range have to be numbers; {_SPECIFIED}")
        if not low < high or (log and low <= 0):
            raise RecipeError(f"'{text}': expected the smaller end first, and above 0 with :log")
        return Range(low, high, log)
    values = read_value(said)
    if not isinstance(values, list) or len(values) < 2:
        raise RecipeError(f"'{text}': {_SPECIFIED}")
    return tuple(values)


def tune(
    recipe: Recipe,
    space: Space,
    *,
    trials: int,
    out: Path,
    data: Path | None = None,
    encoder_weights: Path | None = None,
    seed: int = 0,
    report: Callable[[Trial], None] = lambda trial: None,
    note: Callable[[str], None] = lambda text: None,
    progress: Progress = silent,
) -> Tuned:
    """Runs trials until the study in `out` has `trials` of them, and writes the best one's recipe to `out/best.toml`, for
    the data of the trials.

    An existing study continues, an interrupted trial from its own checkpoint. `report` is called with each finished
    trial, including those of earlier calls. A trial whose values cannot be trained is reported and skipped; any other
    error leaves it to be resumed. Raises `RecipeError` for keys or values that the recipe does not take, for keys that
    decide which images are scored, if `out` holds a different search, and if no trial could be run; `MissingExtraError` without Optuna.
    """
    if int(os.environ.get("WORLD_SIZE", "1")) > 1:
        raise RecipeError("showtell tune is one process; start it without a launcher")
    if recipe.train.start:
        from showtell.training.starting import begin_with

        recipe = begin_with(recipe, recipe.train.start, changed=space, encoder_weights=encoder_weights)
    from showtell.training.teachers import taught_by

    recipe = taught_by(recipe, changed=space)
    study = _Study.open(out, recipe, space, seed, str((data or Path(recipe.data.path)).resolve()))
    done: dict[int, Trial] = {}
    for trial in study.finished():
        done[trial.number] = trial
        report(trial)
    while len(done) < trials:
        number, values = study.next()
        try:
            result = _run(recipe, values, out / _name(number), data, encoder_weights, note, progress)
            cider: float | None = result.scores["cider"]
            trouble = ""
            study.keep_protocol(number, str(result.protocol))
        except RecipeError as error:
            cider, trouble = None, str(error)
        except (DataError, WeightsError) as error:  # the values' fault only if they choose data or encoder
            if not any(key.startswith(("data.", "encoder.")) for key in values):
                raise
            cider, trouble = None, str(error)
        study.tell(number, cider, trouble)
        done[number] = Trial(number, values, cider, trouble)
        report(done[number])
        _keep_the_best(out, done)
    if data is not None:
        recipe = recipe.trained_on(data)
    return _winner(recipe, out, [done[number] for number in sorted(done)], study.protocol)


def _run(
    recipe: Recipe,
    values: dict[str, Any],
    out: Path,
    data: Path | None,
    encoder_weights: Path | None,
    note: Callable[[str], None],
    progress: Callable[[str, int, int], None],
) -> TrainResult:
    from showtell.training.run import train

    note(f"{out.name}: {', '.join(f'{key}={_short(value)}' for key, value in values.items())}")
    return train(
        with_values(recipe, values), data=data, encoder_weights=encoder_weights, out=out,
        resume=(out / "recipe.json").exists(), report=lambda epoch: note(epoch.line()), progress=progress,
    )  # fmt: skip


def with_values(recipe: Recipe, values: Mapping[str, Any]) -> Recipe:
    """The recipe with some keys changed; `RecipeError` if it does not take them."""
    raw = recipe.model_dump(mode="json")
    set_keys(raw, list(values.items()))
    changed = parse_recipe(raw, where="the space")
    refuse_for_training(changed, where="the space")
    return changed


def _check_scored(recipe: Recipe, changed: Recipe) -> None:
    """`RecipeError` if `changed` is scored on other images than `recipe`: the easiest ones would win."""
    others = [f"data.{key}" for key in _OF_THE_SPLIT if getattr(changed.data, key) != getattr(recipe.data, key)]
    if others:
        raise RecipeError(
            f"{', '.join(others)} cannot be varied: each trial would be scored on other images, and no two scores could be compared; "
            f"leave it out of --vary, or set it for all trials ({others[0]}=VALUE)"
        )


def _winner(recipe: Recipe, out: Path, trials: Sequence[Trial], protocol: Callable[[int], str]) -> Tuned:
    import tomli_w

    scored = [trial for trial in trials if trial.cider is not None]
    if not scored:
        raise RecipeError(f"none of {len(trials)} trials could be run; the last one: {trials[-1].trouble}")
    best = max(scored, key=lambda trial: trial.cider or 0.0)  # the first one on a tie
    raw = with_values(recipe, best.values).model_dump(mode="json", exclude={"name"})
    heading = (
        f"# Trial {best.number} of {len(trials)}: CIDEr {100 * (best.cider or 0):.1f} ({protocol(best.number)}) with\n"
        + "".join(f"#   {key} = {_short(value)}\n" for key, value in best.values.items())
    )
    write_whole(out / "best.toml", f"{heading}\n{tomli_w.dumps(raw)}")
    return Tuned(tuple(trials), best, out / "best.toml", protocol(best.number))


def _keep_the_best(out: Path, done: Mapping[int, Trial]) -> None:
    """Deletes the large files: checkpoints, and every bundle but the best trial's."""
    best = max(done.values(), key=lambda trial: -1.0 if trial.cider is None else trial.cider)
    for trial in done.values():
        (out / _name(trial.number) / "checkpoint.safetensors").unlink(missing_ok=True)
        if trial is not best:
            shutil.rmtree(out / _name(trial.number) / "bundle", ignore_errors=True)


def _name(number: int) -> str:
    return f"trial-{number:03d}"


def _short(value: Any) -> str:
    return f"{value:.4g}" if isinstance(value, float) else str(value)


class _Study:
    """Optuna's study in terms of showtell's trials."""

    def __init__(self, study: Any, space: Space, seed: int) -> None:
        self._study, self._space, self._seed = study, space, seed

    @classmethod
    def open(cls, out: Path, recipe: Recipe, space: Space, seed: int, data: str) -> _Study:
        try:
            import optuna
            import tomli_w  # noqa: F401
            from optuna.storages import JournalStorage
            from optuna.storages.journal import JournalFileBackend
        except ImportError:
            raise MissingExtraError("showtell tune", "tune") from None
        if not space:
            raise RecipeError("nothing is varied: name at least one key with --vary KEY=VALUES")
        for key, values in space.items():  # find wrong values before anything is written
            for value in (values.low, values.high) if isinstance(values, Range) else values:
                _check_scored(recipe, with_values(recipe, {key: value}))
        optuna.logging.set_verbosity(optuna.logging.ERROR)
        out.mkdir(parents=True, exist_ok=True)
        storage = JournalStorage(JournalFileBackend(str(out / "study.log")))
        study = optuna.create_study(study_name="showtell", storage=storage, direction="maximize", load_if_exists=True)
        about = {"recipe": recipe.model_dump_json(), "--vary": repr(dict(space)), "--seed": seed, "--data": data}
        for key, value in about.items():
            if study.user_attrs.get(key, value) != value:
                raise RecipeError(f"{out} holds a search with another {key}; name another folder with --out")
            study.set_user_attr(key, value)
        return cls(study, space, seed)

    def finished(self) -> list[Trial]:
        """The finished trials, in order."""
        over = [t for t in self._study.get_trials(deepcopy=False) if t.state.is_finished() and self._is_whole(t)]
        troubles = self._study.user_attrs
        return [Trial(t.number, self._values(t.params), t.value, troubles.get(f"trouble {t.number}", "")) for t in over]

    def next(self) -> tuple[int, dict[str, Any]]:
        """The number and values of the interrupted trial, or of a new one."""
        from optuna.samplers import TPESampler

        trials = self._study.get_trials(deepcopy=False)
        for trial in trials:
            if trial.state.is_finished():
                continue
            if self._is_whole(trial):
                return trial.number, self._values(trial.params)
            self.tell(trial.number, None, "interrupted while it was proposed")
        self._study.sampler = TPESampler(seed=1000 * self._seed + len(trials), n_startup_trials=5, multivariate=False)
        trial = self._study.ask({key: _distribution(values) for key, values in self._space.items()})
        return trial.number, self._values(trial.params)

    def tell(self, number: int, cider: float | None, trouble: str) -> None:
        """Records the end of a trial."""
        from optuna.trial import TrialState

        if trouble:
            self._study.set_user_attr(f"trouble {number}", trouble)
        self._study.tell(number, cider, state=TrialState.COMPLETE if cider is not None else TrialState.FAIL)

    def keep_protocol(self, number: int, protocol: str) -> None:
        """Records the protocol of a trial's score."""
        self._study.set_user_attr(f"protocol {number}", protocol)

    def protocol(self, number: int) -> str:
        """The protocol of a trial's score; empty if none was recorded."""
        return str(self._study.user_attrs.get(f"protocol {number}", ""))

    def _is_whole(self, trial: Any) -> bool:
        return bool(trial.params.keys() == self._space.keys())

    def _values(self, params: Mapping[str, Any]) -> dict[str, Any]:
        """Optuna's parameters as recipe values; choices are stored by index, as Optuna takes only simple values."""
        return {
            key: params[key] if isinstance(values, Range) else values[params[key]]
            for key, values in self._space.items()
        }


def _distribution(values: Range | tuple[Any, ...]) -> Any:
    from optuna.distributions import CategoricalDistribution, FloatDistribution, IntDistribution

    if not isinstance(values, Range):
        return CategoricalDistribution(range(len(values)))
    if isinstance(values.low, int) and isinstance(values.high, int):
        return IntDistribution(values.low, values.high, log=values.log)
    return FloatDistribution(values.low, values.high, log=values.log)
