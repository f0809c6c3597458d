"""Several processes, and a memory that is too small."""

from __future__ import annotations

import json
import os
import subprocess
import sys
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from threading import Barrier
from types import SimpleNamespace
from typing import Any, TypeVar

import pytest
import torch
from torch import Tensor
from training_runs import lines, on_the_cpu, refuse, same
from typer.testing import CliRunner

from showtell.cli import app
from showtell.errors import RecipeError
from showtell.model.encoder import Encoder, fast_bfloat16
from showtell.recipe import load_recipe
from showtell.training import processes
from showtell.training.checkpoint import Position
from showtell.training.objectives import CrossEntropy
from showtell.training.processes import epoch_seed, in_any, random_states, restore_random_state, share, tallies
from showtell.training.resuming import check_processes
from showtell.training.run import Run, train

T = TypeVar("T")


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
    later = {epoch_seed(0, 0, rank=rank, step=step) for step in (1, 2) for rank in (0, 1, 2)}
    assert len(later | seeds) == 18


class Together:
    """One of several processes, in a thread of its own: what it gathers are all processes' tensors."""

    def __init__(self, rank: int, barrier: Barrier, given: dict[int, Tensor]) -> None:
        self.process_index, self.num_processes, self.device = rank, barrier.parties, torch.device("cpu")
        self._barrier, self._given = barrier, given

    def gather(self, tensor: Tensor) -> Tensor:
        self._given[self.process_index] = tensor
        self._barrier.wait(10)
        return torch.cat([self._given[rank] for rank in range(self.num_processes)])


def together(world: int, act: Callable[[Any], T]) -> list[T]:
    barrier, given = Barrier(world), dict[int, Tensor]()
    with ThreadPoolExecutor(world) as pool:
        return list(pool.map(lambda rank: act(Together(rank, barrier, given)), range(world)))


def test_each_process_goes_on_with_its_own_random_numbers(monkeypatch: pytest.MonkeyPatch) -> None:
    states = [torch.Generator().manual_seed(seed).get_state() for seed in (3, 4, 5)]
    with monkeypatch.context() as patch:
        patch.setattr(torch, "get_rng_state", lambda: states[0])
        kept = random_states(alone := Together(0, Barrier(1), {}))  # type: ignore[arg-type]
        assert kept.keys() == {"rng"}  # as ever
    gathering = Together(0, Barrier(1), {})
    gathering.gather = lambda tensor: torch.cat(states)  # type: ignore[method-assign]
    kept = random_states(gathering)  # type: ignore[arg-type]
    assert kept.keys() == {"rng", "rng/1", "rng/2"}

    def drawn(rank: int, tensors: dict[str, Tensor], otherwise: int = 7) -> float:
        alone.process_index = rank
        restore_random_state(tensors, alone, otherwise=otherwise)  # type: ignore[arg-type]
        return float(torch.rand(()))

    with torch.random.fork_rng():
        for rank, seed in enumerate((3, 4, 5)):
            assert drawn(rank, kept) == float(torch.rand((), generator=torch.Generator().manual_seed(seed)))
        fewer = {"rng": states[0]}  # of one process, or of an earlier version
        assert drawn(0, fewer, otherwise=1) == drawn(0, kept)
        assert drawn(1, fewer, otherwise=1) == drawn(1, fewer, otherwise=1) != drawn(2, fewer, otherwise=2)
        torch.manual_seed(9)  # a phase that begins has no states, and goes on with the numbers that it has
        assert drawn(1, {}) == float(torch.rand((), generator=torch.Generator().manual_seed(9)))


def test_processes_stop_together() -> None:
    assert together(2, lambda one: in_any(one, one.process_index == 1)) == [True, True]
    assert together(2, lambda one: in_any(one, False)) == [False, False]
    assert together(1, lambda one: in_any(one, True)) == [True]


def test_what_each_process_has_added_up_is_known_to_all() -> None:
    """In double precision: a sum over an epoch's words is too long for single."""
    sums = [(1e8 + 0.25, 3), (0.5, 2**40)]
    for found in together(2, lambda one: tallies(one, *sums[one.process_index])):
        assert found.tolist() == [list(row) for row in sums]
    assert tallies(Together(0, Barrier(1), {}), *sums[0]).tolist() == [list(sums[0])]  # type: ignore[arg-type]


RESUMING = """
import json
import os
import sys
from pathlib import Path
from showtell.recipe import load_recipe
from showtell.training import run
from showtell.training.run import train

steps, train_steps = [], run.train_steps

def listened(batches, **named):
    for done in train_steps(batches, **named):
        steps.append((done.value, done.weight))
        yield done

class Stop(Exception):
    pass

def progress(what, done, total):
    if (what, done) == ("epoch 2", 3):
        raise Stop

recipe, data, out = load_recipe(Path(sys.argv[1]), sys.argv[4:]), Path(sys.argv[2]), Path(sys.argv[3])
run.train_steps = listened
train(recipe, data=data, out=out / "whole")
(out / f"steps-{os.environ['RANK']}.json").write_text(json.dumps(steps))
try:
    train(recipe, data=data, out=out / "stopped", progress=progress)
except Stop:
    train(recipe, data=data, out=out / "stopped", resume=True)
"""


@pytest.mark.slow
def test_several_processes_resume_exactly_within_an_epoch(recipe_file: Path, data: Path, tmp_path: Path) -> None:
    """Dropout, drawn captions and the words that scheduled sampling replaces are each process's own. The loss is that of
    all processes' words."""
    phases = "train.phases=[{epochs=2, lr=5e-3, scheduled_sampling=0.5}]"
    (tmp_path / "program.py").write_text(RESUMING)
    done = subprocess.run(
        [
            sys.executable, "-m", "torch.distributed.run", "--standalone", "--nproc_per_node=2", str(tmp_path / "program.py"),
            str(recipe_file), str(data), str(tmp_path), phases, "train.accumulate=1", "train.checkpoint_steps=1",
        ],
        env=os.environ | on_the_cpu(), capture_output=True, text=True, check=False,
    )  # fmt: skip
    assert done.returncode == 0, done.stderr
    logged = lines(tmp_path / "whole")
    own = [json.loads((tmp_path / f"steps-{rank}.json").read_text()) for rank in (0, 1)]
    each = len(own[0]) // 2
    for number, epoch in enumerate(logged):
        steps = [step for part in own for step in part[number * each :][:each]]
        words = sum(weight for _, weight in steps)
        assert epoch["train_loss"] == pytest.approx(sum(value * weight for value, weight in steps) / words, rel=1e-12)
    assert len(lines(tmp_path / "stopped")) == len(logged) == 2
    same(tmp_path / "whole", tmp_path / "stopped")


def test_processes_that_do_not_find_each_other_are_refused(
    recipe_file: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """As on an accelerator that one process alone can use."""
    monkeypatch.setattr(torch.accelerator, "is_available", lambda: True)
    monkeypatch.setenv("LOCAL_RANK", "0")
    monkeypatch.setenv("WORLD_SIZE", "2")
    monkeypatch.setattr(
        processes, "Accelerator", lambda **_: SimpleNamespace(num_processes=1, device=torch.device("mps"))
    )
    recipe = load_recipe(recipe_file)
    refuse(
        RecipeError, "2 processes were started, and 1 of them would train on mps",
        lambda: processes.build_accelerator(recipe.train, out=tmp_path, note=print),
    )  # fmt: skip


def test_a_process_that_ended_is_told_by_those_that_wait_for_it(
    recipe_file: Path, data: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def breaks(*args: object, **named: object) -> None:
        raise RuntimeError("[/build/gloo/transport/tcp/pair.cc:545] Read error: Connection reset by peer\nadvice")

    recipe = load_recipe(recipe_file)
    monkeypatch.setattr(CrossEntropy, "__call__", breaks)
    with pytest.raises(RuntimeError, match="pair"):  # alone, it is another error
        train(recipe, data=data, out=tmp_path / "one")
    monkeypatch.setattr(torch.distributed, "is_initialized", lambda: True)
    assert not processes.another_ended(RuntimeError("mat1 and mat2 shapes cannot be multiplied"))
    assert processes.another_ended(torch.distributed.DistBackendError("x"))
    monkeypatch.undo()
    monkeypatch.setattr("showtell.training.run.another_ended", lambda error: True)
    monkeypatch.setattr(CrossEntropy, "__call__", breaks)
    refuse(
        RecipeError, r"^another process of this training has ended \(\[/build.*by peer\); .*--resume",
        lambda: train(recipe, data=data, out=tmp_path / "run"),
    )  # fmt: skip


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
    monkeypatch.setattr("showtell.captioner.Captioner.caption_each", full)
    result = CliRunner().invoke(app, ["caption", str(bundle), str(data)])
    assert result.exit_code == 2
    assert "memory is too small (tried to allocate 9 GiB); take --batch lower" in result.stderr


@pytest.mark.parametrize("native", [True, False])
def test_bfloat16_where_the_gpu_multiplies_it(native: bool, monkeypatch: pytest.MonkeyPatch) -> None:
    """Older GPUs emulate it, and older torch counts that as well."""
    monkeypatch.setattr(torch.cuda, "is_available", lambda: True)
    monkeypatch.setattr(torch.cuda, "is_bf16_supported", lambda including_emulation=True: including_emulation or native)
    monkeypatch.setattr(torch.accelerator, "is_available", lambda: True)
    said: list[str] = []
    assert processes._precision("auto", said.append) == ("bf16" if native else "no")
    assert processes._precision("fp16", said.append) == "fp16"
    monkeypatch.setenv("ACCELERATE_USE_CPU", "1")
    assert processes._precision("auto", said.append) == ("bf16" if fast_bfloat16("cpu") else "no")
    assert not said


@pytest.mark.slow
def test_half_precision_on_a_cpu_is_single_precision_and_said_once(
    recipe_file: Path, data: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("ACCELERATE_USE_CPU", "1")
    recipe = load_recipe(recipe_file, ["train.phases=[{epochs=2}]", 'train.precision="fp16"'])
    said: list[str] = []
    train(recipe, data=data, out=tmp_path / "run", note=said.append)
    assert [text for text in said if "fp16" in text] == [
        'train.precision is "fp16", which needs a GPU: on this CPU the run computes in single precision'
    ]
    said.clear()
    train(load_recipe(recipe_file, ["train.phases=[{epochs=1}]"]), data=data, out=tmp_path / "plain", note=said.append)
    assert not any("precision" in text for text in said)
