"""Recipes as users write them: TOML, `section.key=value` overrides, and errors that explain what is wrong."""

from __future__ import annotations

import contextlib
import json
import re
import tomllib
from collections.abc import Sequence, Set
from pathlib import Path
from typing import Any

from pydantic import BaseModel, ValidationError

from showtell.config import MOST_UPRIGHT_VIEWS, PhaseConfig, Recipe
from showtell.decoding import MOST_PENALTY, TEMPERATURES
from showtell.errors import RecipeError, meant

_BUILT_IN = Path(__file__).parent / "recipes"


def load_recipe(source: str | Path, overrides: Sequence[str] = ()) -> Recipe:
    """The recipe in a TOML file, or a built-in one by its name, with `section.key=value` overrides applied.

    Raises `RecipeError` for a missing file, broken TOML, an unknown key (with the nearest name) or a wrong value.
    """
    path = find_recipe(source)
    try:
        raw = tomllib.loads(path.read_text(encoding="utf-8-sig"))
    except (tomllib.TOMLDecodeError, UnicodeDecodeError) as error:
        raise RecipeError(f"{path}: not a TOML file: {error}") from None
    raw.setdefault("name", path.stem)
    where = str(path)
    recipe = parse_recipe(raw, where=where)
    if overrides:
        set_keys(raw, [_parsed(override) for override in overrides])
        keys = dict.fromkeys(override.partition("=")[0].strip() for override in overrides)
        where = f"{path.stem} with {', '.join(keys)} set"
        recipe = parse_recipe(raw, where=where)
    refuse_for_training(recipe, where=where)
    return recipe


def refuse_for_training(recipe: Recipe, *, where: str) -> None:
    """Raises `RecipeError` where a phase sets what does nothing in it, for too large a length penalty, and for a
    temperature at which nothing can be drawn.

    Bundles with such recipes can still be read.
    """
    if recipe.search.length_penalty > MOST_PENALTY:
        raise RecipeError(
            f"{where}: 'search.length_penalty' is {recipe.search.length_penalty:g}: expected 0 to {MOST_PENALTY:g}, as more would "
            "leave the range of float32"
        )
    low, high = TEMPERATURES
    for number, phase in enumerate(recipe.phases()):
        if not low <= phase.temperature <= high:
            raise RecipeError(
                f"{where}: {phase_key(number, 'temperature')} is {phase.temperature:g}: expected {low:g} to {high:g}"
            )
        for key, why in phase.idle().items():
            value = getattr(phase, key)
            if value != PhaseConfig.model_fields[key].default:
                raise RecipeError(f"{where}: {phase_key(number, key)} is {json.dumps(value)}, and {why}")


def phase_key(number: int, *keys: str) -> str:
    """How errors name a phase or one of its keys: from 0, as overrides count, and from 1, as the recipe is shown."""
    return f"'{'.'.join(('train', 'phases', str(number), *keys))}' (phase {number + 1})"


def parse_recipe(raw: dict[str, Any], *, where: str) -> Recipe:
    """The recipe that nested dictionaries describe; `where` names their source in errors."""
    try:
        recipe = Recipe.model_validate(raw)
    except ValidationError as error:
        raise RecipeError(f"{where}: " + "; ".join(map(_explain, _causes(error)))) from None
    claims = any(phase.augment == "aerial" for phase in recipe.phases())  # so do earlier bundles that never turned one
    if recipe.search.views > MOST_UPRIGHT_VIEWS and not claims:
        raise RecipeError(
            f"{where}: search.views is {recipe.search.views}; more than {MOST_UPRIGHT_VIEWS} turn the picture, and need a phase whose "
            'augment is "aerial"'
        )
    return recipe


def _causes(error: ValidationError) -> list[dict[str, Any]]:
    """Its errors, without those of a list that merely report that one of its items is wrong."""
    found: list[dict[str, Any]] = [{**each} for each in error.errors()]
    return [e for e in found if not any(o["loc"][: len(e["loc"])] == e["loc"] != o["loc"] for o in found)]


def find_recipe(source: str | Path) -> Path:
    """The file of a recipe given as a path or as a built-in recipe's name."""
    path = Path(source)
    if path.is_file():
        return path
    built_in = _BUILT_IN / f"{source}.toml"
    if built_in.is_file():
        return built_in
    names = sorted(p.stem for p in _BUILT_IN.glob("*.toml"))
    hint = meant(path.stem, names, f"built in are {', '.join(names)}")
    raise RecipeError(f"no recipe '{source}': expected a TOML file or the name of a built-in recipe; {hint}")


def _parsed(override: str) -> tuple[str, Any]:
    """The key and the value of `section.key=value`; the value is TOML, and a bare word is a string."""
    key, separator, text = override.partition("=")
    *sections, last = key.strip().split(".")
    if not separator or not sections or not last:
        raise RecipeError(f"'{override}' is not an override: expected section.key=value, as in train.patience=3")
    value = read_value(text)
    return key.strip(), text if value is None else value


def read_value(text: str) -> Any:
    """The TOML value that `text` is, never None; None where it is not TOML."""
    try:
        return tomllib.loads(f"value = {text}")["value"]
    except tomllib.TOMLDecodeError:
        return None


def set_keys(raw: dict[str, Any], given: Sequence[tuple[str, Any]]) -> None:
    """Sets `section.key`s of a recipe given as nested dictionaries; of equal ones the last counts.

    An item of a list goes by its number, as in `train.phases.0.lr`. In a phase whose epochs are set, `min_steps` is
    dropped; where its `objective`, `encoder_from` or `cached_views` are, so are the keys that then do nothing; but none
    that is itself `given`. Raises `RecipeError` where there is no such section or number.
    """
    for key, value in given:
        _set_key(raw, key, value)
    phases: dict[int, set[str]] = {}
    for key, _ in given:
        if (match := re.fullmatch(r"train\.phases\.([0-9]+)\.(\w+)", key)) is not None:
            phases.setdefault(int(match[1]), set()).add(match[2])
    for number, keys in phases.items():
        match raw:
            case {"train": {"phases": [*tables]}} if number < len(tables) and isinstance(tables[number], dict):
                for idle in _left_idle(tables[number], keys) - keys:
                    tables[number].pop(idle, None)


def _left_idle(table: dict[str, Any], keys: Set[str]) -> set[str]:
    """The keys of a phase that do nothing now that `keys` of it are set."""
    idle = {"min_steps"} if "epochs" in keys else set()
    if not keys.isdisjoint(("objective", "encoder_from", "cached_views")):
        with contextlib.suppress(ValidationError):  # which the whole recipe's explains
            idle |= PhaseConfig.model_validate(table).idle().keys()
    return idle


def _set_key(raw: dict[str, Any], key: str, value: Any) -> None:
    *sections, last = key.split(".")
    table: Any = raw
    for section in sections:
        if isinstance(table, list):
            table = table[_place(table, section, key)]
        elif _is_number(section):
            raise RecipeError(f"'{key}': the recipe has no list there, and so no number {section}; write the list out")
        else:
            table = table.setdefault(section, {})
        if not isinstance(table, dict | list):
            raise RecipeError(f"'{key}': '{section}' holds a value, not a section")
    table[_place(table, last, key) if isinstance(table, list) else last] = value


def _place(listed: list[Any], text: str, key: str) -> int:
    if not _is_number(text) or int(text) >= len(listed):
        raise RecipeError(f"'{key}': expected a number from 0 to {len(listed) - 1} in place of '{text}'")
    return int(text)


def _is_number(text: str) -> bool:
    return text.isascii() and text.isdigit()


def _explain(error: dict[str, Any]) -> str:
    """One pydantic error as a sentence; unknown keys get the nearest known name."""
    location = [str(part) for part in error["loc"]]
    match error["loc"]:
        case ("train", "phases", int(number), *keys):
            key = phase_key(number, *map(str, keys))
        case _:
            key = f"'{'.'.join(location)}'"
    if error["type"] == "value_error" and isinstance(error["input"], dict):  # of several keys, which the message names
        return f"{key}: {error['ctx']['error']}"
    if error["loc"] == ("train", "phases") and isinstance(error["input"], dict):
        return f"{key} is one section: expected a list of phases, each under [[train.phases]] with double brackets"
    if error["type"] != "extra_forbidden":
        return f"{key} is {json.dumps(error['input'], default=str)}: {_expected(error)}"
    known = _known_keys(location[:-1])
    return f"unknown key {key}; " + meant(location[-1], known, f"known here: {', '.join(known)}")


def _expected(error: dict[str, Any]) -> str:
    """What pydantic's message expects, in this project's words."""
    match error["type"], error["loc"]:
        case "model_type", ("train", "phases", *_):
            return "expected a phase with keys of its own, under [[train.phases]] with double brackets"
        case "model_type", (section,):
            return f"expected a section, [{section}], with keys of its own"
        case "tuple_type", _:
            return "expected a list"
        case "dict_type", _:
            return "expected keys with values, as in { cider_d = 1.0 }"
        case "too_short", _:
            return "expected at least one"
    return str(error["msg"]).lower().replace("input should ", "expected to ")


def _known_keys(sections: Sequence[str]) -> list[str]:
    model: type[BaseModel] = Recipe
    for section in sections:
        if section == "phases":
            model = PhaseConfig
        elif not _is_number(section):
            annotation = model.model_fields[section].annotation
            assert isinstance(annotation, type) and issubclass(annotation, BaseModel)
            model = annotation
    return list(model.model_fields)
