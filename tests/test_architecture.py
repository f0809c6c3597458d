"""The shape of the house: who imports whom, what is public, what must not be in the tree."""

from __future__ import annotations

import ast
import re
import subprocess
import sys
from pathlib import Path

import pytest

import showtell

ROOT = Path(__file__).parent.parent
SOURCE = ROOT / "src" / "showtell"

# From the top to the ground; a module imports what stands below it. Parts of one layer do not know each other.
LAYERS = (
    ("__main__",),
    ("cli",),
    ("commands",),
    ("demo",),
    ("report", "serve"),
    ("training",),
    ("against", "choosing", "explaining", "results"),
    ("evaluation", "trace"),
    ("matching", "scores"),
    ("captioner", "clip"),
    ("export", "inference", "runtime"),
    ("hub",),
    ("bundle", "captioning", "generate"),
    ("card",),
    ("array_search", "model", "search", "metrics", "data"),
    ("images",),
    ("recipe",),
    ("config",),
    ("decoding", "devices"),
    ("delimited", "errors", "paths", "progress", "writing"),
)
LIGHT = (
    "metrics", "data/annotations.py", "data/draft.py", "data/splits.py", "data/formats.py", "data/packed.py", "data/unpack.py", "data/parquet.py", "data/tars.py", "data/tables.py", "data/files.py", "data/pictures.py", "data/coco.py", "data/copies.py", "data/likeness.py", "data/markers.py", "data/check.py", "config.py", "recipe.py", "matching.py", "errors.py", "images.py",
    "commands", "cli.py", "evaluation.py", "scores.py", "against.py", "results.py", "demo.py", "captioner.py", "captioning.py", "decoding.py", "runtime.py",
    "card.py", "hub.py", "writing.py",
)  # fmt: skip
HEAVY = {
    "torch",
    "torchvision",
    "timm",
    "accelerate",
    "matplotlib",
    "tensorboard",
    "safetensors",
    "tokenizers",
    "huggingface_hub",
    "pyarrow",
    "transformers",
}


def modules() -> list[Path]:
    return sorted(SOURCE.rglob("*.py"))


def part(path: Path) -> str:
    return path.relative_to(SOURCE).parts[0].removesuffix(".py")


def level(name: str) -> int:
    return next(i for i, layer in enumerate(LAYERS) if name in layer)


def imports(path: Path, *, at_import: bool = False) -> set[str]:
    """Dotted names that a file imports; only what runs when the file itself is imported, if `at_import`."""
    found: set[str] = set()

    def visit(node: ast.AST) -> None:
        if at_import and isinstance(node, ast.FunctionDef | ast.AsyncFunctionDef | ast.Lambda):
            return
        if at_import and isinstance(node, ast.If) and "TYPE_CHECKING" in ast.unparse(node.test):
            return
        if isinstance(node, ast.Import):
            found.update(alias.name for alias in node.names)
        elif isinstance(node, ast.ImportFrom):
            assert not node.level, f"{path}: relative import"
            found.update(f"{node.module}.{alias.name}" for alias in node.names)
        for child in ast.iter_child_nodes(node):
            visit(child)

    visit(ast.parse(path.read_text(encoding="utf-8")))
    return found


@pytest.mark.parametrize("path", modules(), ids=lambda p: str(p.relative_to(SOURCE)))
def test_imports_point_downwards(path: Path) -> None:
    own = part(path)
    if own == "__init__":
        return
    for name in imports(path):
        top, _, rest = name.partition(".")
        other = rest.split(".")[0]
        if top != "showtell" or other in {"", "__version__", own} or not is_part(other):
            continue
        assert level(own) < level(other), f"{path.name} ({own}) imports {name}"


def is_part(name: str) -> bool:
    return (SOURCE / name).is_dir() or (SOURCE / f"{name}.py").is_file()


def test_every_part_has_its_layer() -> None:
    known = {name for layer in LAYERS for name in layer}
    assert {part(path) for path in modules()} - {"__init__"} <= known


@pytest.mark.parametrize("place", LIGHT)
def test_light_modules_import_nothing_heavy(place: str) -> None:
    target = SOURCE / place
    for path in sorted(target.rglob("*.py")) if target.is_dir() else [target]:
        assert not HEAVY & {name.split(".")[0] for name in imports(path, at_import=True)}, path


@pytest.mark.parametrize(
    "code",
    [
        "import showtell.cli",
        "import showtell.evaluation",
        "from showtell import evaluate, read_annotations, load_recipe",
        "from showtell import Captioner, Evaluation, ImageError, DataError, Report, evaluate_captioner",
        "import showtell.data.check",
        "import showtell.images",
    ],
)
def test_importing_does_not_load_torch(code: str) -> None:
    heavy = sorted(HEAVY - {"tokenizers"})
    program = f"import sys\n{code}\nprint([m for m in {heavy} if m in sys.modules])"
    out = subprocess.run([sys.executable, "-c", program], capture_output=True, text=True, check=True).stdout
    assert out.strip() == "[]"


def test_the_command_line_begins_without_pydantic() -> None:
    """Recipes need it, and their classes take half a second; `--help` and shells that complete do not."""
    program = "import sys\nimport showtell.cli\nprint('pydantic' in sys.modules)"
    assert (
        subprocess.run([sys.executable, "-c", program], capture_output=True, text=True, check=True).stdout == "False\n"
    )


def test_public_names_are_there() -> None:
    assert sorted(showtell.__all__) == list(showtell.__all__)
    for name in showtell.__all__:
        assert getattr(showtell, name) is not None
    assert set(showtell.__all__) <= set(dir(showtell))
    with pytest.raises(AttributeError, match="no attribute 'Captain'"):
        showtell.Captain  # noqa: B018


def test_at_most_eight_errors_and_all_drawn() -> None:
    from showtell import errors

    kinds = [v for v in vars(errors).values() if isinstance(v, type) and issubclass(v, Exception)]
    assert len(kinds) <= 9  # the base and eight
    assert all(issubclass(kind, errors.ShowtellError) for kind in kinds)
    assert all(kind.__name__ in (errors.__doc__ or "") for kind in kinds)


def test_the_library_never_prints() -> None:
    for path in modules():
        if part(path) in {"commands", "cli"}:
            continue
        calls = [n for n in ast.walk(ast.parse(path.read_text(encoding="utf-8"))) if isinstance(n, ast.Call)]
        assert not [c for c in calls if isinstance(c.func, ast.Name) and c.func.id == "print"], path


def test_no_paths_of_a_machine() -> None:
    pattern = re.compile(r"(?<![\w.])/(?:home|root|Users|mnt|work|opt)/\w")
    skipped = {".git", ".venv", ".hypothesis", "__pycache__", "runs", "showtell-demo"}
    skipped |= {".mypy_cache", ".pytest_cache", ".ruff_cache"}
    for path in sorted(ROOT.rglob("*")):
        parts = path.relative_to(ROOT).parts
        if skipped & set(parts) or any(p.endswith(".egg-info") for p in parts) or not path.is_file():
            continue
        if path.suffix in {".py", ".md", ".toml", ".json", ".jsonl", ".txt", ""} and path != Path(__file__):
            text = path.read_text(encoding="utf-8", errors="replace")
            assert not pattern.search(text), path
