"""Several processes, and a memory that is too small."""

from __future__ import annotations

from pathlib import Path

import pytest
import torch
from training_runs import refuse
from typer.testing import CliRunner

from showtell.cli import app
from showtell.errors import RecipeError
from showtell.model.encoder import Encoder, fast_bfloat16
from showtell.recipe import load_recipe
from showtell.training import processes
from showtell.training.checkpoint import Position
from showtell.training.objectives import CrossEntropy
from showtell.training.processes import epoch_seed, share
from showtell.training.resuming import check_processes
from showtell.training.run import Run, train


def full(*args: object, **named: object) -> None:
    raise torch.OutOfMemoryError("tried to allocate 9 GiB\nand a page of advice")


def test_processes_share_an_epoch() -> None:
    order = list(range(11))
    shares = [share(order, rank=rank, world=3) for rank in range(3)]
    assert [len(part) for part in shares] == [3, 3, 3]
    assert sorted(batch for part in shares for batch in part) == order[:9]
    assert share(order, rank=0, world=1) == order
    refuse(
        RecipeError,
        r"^4 processes share an epoch of 3 batches; .*batch_images",
        lambda: share([1, 2, 3], rank=0, world=4),
    )


def test_processes_drop_other_numbers() -> None:
    seeds = {epoch_seed(seed, epoch, rank=rank) for seed in (0, 1) for epoch in (0, 1) for rank in (0, 1, 2)}
    assert len(seeds) == 12


def test_an_epoch_goes_on_with_as_many_processes() -> None:
    within = Position(step=3, processes=2)
    refuse(RecipeError, r"of 2 processes, and resumes with 1;", lambda: check_processes(within, 1, out="run"))
    check_processes(within, 2, out="run")
    check_processes(Position(processes=2), 1, out="run")  # between epochs
    check_processes(Position(step=3), 2, out="run")  # a checkpoint that does not say


def test_few_images_have_steps_enough_in_each_process(
    recipe_file: Path, data: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    changes = ["train.phases=[{epochs=1, min_steps=9}]", "train.batch_images=1", "train.accumulate=1"]
    recipe = load_recipe(recipe_file, changes).trained_on(data)
    one = Run(
        recipe, encoder_weights=None, out=tmp_path / "run", resume=False,
        note=lambda text: None, progress=lambda what, done, total: None,
    )  # fmt: skip
    alone, images = one._count_epochs(), len(one.samples.train)
    monkeypatch.setattr(type(one.accelerator), "num_processes", property(lambda self: images))
    assert (alone, one._count_epochs()) == (1, 9)


def test_a_step_too_large_for_the_accelerator(
    recipe_file: Path, data: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(CrossEntropy, "__call__", full)
    refuse(
        RecipeError,
        r"^'train\.phases\.0' \(phase 1\): batches of 4 images .*\(tried to allocate 9 GiB\); set train\.phases\.0\.batch_images=2,",
        lambda: train(load_recipe(recipe_file), data=data, out=tmp_path / "run"),
    )
    with_cnn = 'train.phases=[{epochs=1, encoder_from="layers"}]'
    for name, keys, hint in (
        ("cached", [], r", or try train\.cuda_graphs=false, which needs less$"),
        ("cnn", [with_cnn], r", or try train\.gradient_checkpointing=true, which needs less$"),
        ("less", [with_cnn, "train.gradient_checkpointing=true"], r"with --resume if the phase had only begun$"),
    ):
        recipe = load_recipe(recipe_file, keys)
        refuse(RecipeError, hint, lambda recipe=recipe, name=name: train(recipe, data=data, out=tmp_path / name))


@pytest.mark.slow
def test_what_else_is_too_large_is_a_sentence_too(
    recipe_file: Path, data: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(Encoder, "encode", full)
    refuse(
        RecipeError,
        r"^the accelerator's memory is too small \(tried to allocate 9 GiB\); ",
        lambda: train(load_recipe(recipe_file), data=data, out=tmp_path / "run"),
    )
    monkeypatch.undo()
    bundle = train(load_recipe(recipe_file), data=data, out=tmp_path / "other").bundle
    monkeypatch.setattr("showtell.captioning.BaseCaptioner.caption_each", full)
    result = CliRunner().invoke(app, ["caption", str(bundle), str(data)])
    assert result.exit_code == 2
    assert "memory is too small (tried to allocate 9 GiB); take --batch lower" in result.stderr


@pytest.mark.parametrize("native", [True, False])
def test_bfloat16_where_the_gpu_multiplies_it(native: bool, monkeypatch: pytest.MonkeyPatch) -> None:
    """Older GPUs emulate it, and older torch counts that as well."""
    monkeypatch.setattr(torch.cuda, "is_available", lambda: True)
    monkeypatch.setattr(torch.cuda, "is_bf16_supported", lambda including_emulation=True: including_emulation or native)
    assert processes._precision("auto") == ("bf16" if native else "no")
    monkeypatch.setenv("ACCELERATE_USE_CPU", "1")
    assert processes._precision("auto") == ("bf16" if fast_bfloat16("cpu") else "no")
    assert processes._precision("fp16") == "fp16"
