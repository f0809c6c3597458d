"""docs/recipe.md: the keys of a recipe, from what `config.py` says of them.  python tests/support/recipe_page.py > docs/recipe.md"""

from __future__ import annotations

import json
from typing import Any

from pydantic_core import PydanticUndefined

from showtell.config import DataConfig, DecoderConfig, EncoderConfig, PhaseConfig, SearchConfig, TrainConfig

HEAD = """# The keys of a recipe

A recipe is a TOML file; keys that it leaves out have the defaults below. The built-in recipes are in
`src/showtell/recipes`. `showtell train RECIPE KEY=VALUE …` changes keys for one run (`train.seed=1`,
`train.phases.0.epochs=20`; phases are counted from 0), and the run's `recipe.json` has all of them, resolved.
Each phase is a `[[train.phases]]` of its own, with double brackets.
[Training](training.md) explains the keys, and [what helps](techniques.md) says which to try.
"""

SECTIONS = {
    "[data]": DataConfig,
    "[encoder]": EncoderConfig,
    "[decoder]": DecoderConfig,
    "[train]": TrainConfig,
    "[[train.phases]]": PhaseConfig,
    "[search]": SearchConfig,
}


def recipe_page() -> str:
    """The whole page."""
    return "\n".join([HEAD, *(line for title, section in SECTIONS.items() for line in _table(title, section))])


def _table(title: str, section: Any) -> list[str]:
    rows = [
        f"| `{key}` | {_default(field)} | {field.description.replace('<unk>', '`<unk>`')} |"
        for key, field in section.model_fields.items()
    ]
    text = " ".join(section.__doc__.split())
    return [f"## {title}", "", text, "", "| key | default | |", "| --- | --- | --- |", *rows, ""]


def _default(field: Any) -> str:
    assert field.default is not PydanticUndefined
    if field.default and isinstance(field.default, tuple):
        return "one phase of defaults"
    if isinstance(field.default, dict):
        return f"`{{{', '.join(f'{key} = {value}' for key, value in field.default.items())}}}`"
    return f"`{json.dumps(field.default)}`"


if __name__ == "__main__":
    print(recipe_page(), end="")
