"""The loop: what waits for its turn neither changes nor counts."""

from __future__ import annotations

import pytest
import torch
from accelerate import Accelerator
from torch import Tensor, nn

from showtell.config import PhaseConfig, TrainConfig
from showtell.data.dataset import Batch
from showtell.training.learner import Learner
from showtell.training.lesson import Lesson
from showtell.training.loop import train_steps
from showtell.training.optim import AveragedWeights, build_optimizer, schedule

STEPS = 4


def final(*, early_size: float, clip: float, waits: bool) -> tuple[dict[str, Tensor], dict[str, Tensor], set[str]]:
    """Two blocks before and after an epoch, and which of them the optimizer has a state of; the first one's gradient is large."""
    early, late = nn.Linear(2, 2), nn.Linear(2, 2)
    with torch.no_grad():
        for layer in (early, late):
            layer.weight.fill_(0.5)
            layer.bias.zero_()
    model = nn.Sequential(early, late)
    phase = PhaseConfig(encoder_lr=1e-2, unfreeze_every=1 if waits else 0)
    train = TrainConfig(clip=clip, weight_decay=0.1)
    optimizer = build_optimizer(
        [], [list(early.parameters()), list(late.parameters())], phase=phase, weight_decay=train.weight_decay
    )
    parameters = dict(model.named_parameters())
    before = {name: parameter.detach().clone() for name, parameter in parameters.items()}

    def objective(model: nn.Module, batch: Batch, *, progress: float) -> Lesson:
        hidden = early(batch.inputs)
        loss = late(hidden).sum() + early_size * hidden.sum()
        return Lesson(loss, loss.item(), 1)

    batch = Batch(torch.ones(1, 2), torch.zeros(1, 1, 1, dtype=torch.long), ("a",))
    learner = Learner(model, objective, parameters, optimizer, averaged=None, epochs=2)  # type: ignore[arg-type]
    steps = train_steps(
        [batch] * STEPS, learner=learner, accelerator=Accelerator(cpu=True), train=train, before=0, first_step=0, epoch_steps=STEPS
    )  # fmt: skip
    assert len(list(steps)) == STEPS
    after = {name: parameter.detach() for name, parameter in parameters.items()}
    return before, after, {name for name, parameter in parameters.items() if parameter in optimizer.state}


def test_a_block_that_waits_stays_as_it_is() -> None:
    before, after, states = final(early_size=1.0, clip=1.0, waits=True)
    assert all(torch.equal(before[name], after[name]) for name in ("0.weight", "0.bias"))
    assert not torch.equal(before["1.weight"], after["1.weight"])
    assert states == {"1.weight", "1.bias"}
    assert final(early_size=1.0, clip=1.0, waits=False)[2] == states | {"0.weight", "0.bias"}


def test_its_gradient_does_not_count_for_the_norm() -> None:
    """With a small enough limit AdamW's epsilon shows how far gradients were scaled down."""
    small, large = (final(early_size=size, clip=1e-8, waits=True)[1] for size in (1.0, 1e6))
    assert torch.equal(small["1.weight"], large["1.weight"])


def rates(*, accumulate: int, batches: int, epochs: int = 3, start: int = 0) -> list[list[float]]:
    """The learning rates of the optimizer's steps in each epoch of a phase; each epoch begins at batch `start`."""
    weight = nn.Parameter(torch.ones(1, 1))
    train = TrainConfig(accumulate=accumulate, warmup=4, cosine=True)
    optimizer = build_optimizer([weight], [], phase=PhaseConfig(lr=1.0), weight_decay=0)

    def objective(model: nn.Module, batch: Batch, *, progress: float) -> Lesson:
        return Lesson(weight.sum(), 0.0, 1)

    batch = Batch(torch.ones(1, 2), torch.zeros(1, 1, 1, dtype=torch.long), ("a",))
    learner = Learner(nn.Identity(), objective, {"weight": weight}, optimizer, averaged=None, epochs=epochs)  # type: ignore[arg-type]
    return [
        [
            step.lr
            for step in train_steps(
                [batch] * (batches - start), learner=learner, accelerator=Accelerator(cpu=True), train=train, before=epoch * batches,
                first_step=start, epoch_steps=batches,
            )
            if step.complete
        ]
        for epoch in range(epochs)
    ]  # fmt: skip


@pytest.mark.parametrize("batches", [24, 22, 21])
def test_the_rate_follows_the_optimizers_steps(batches: int) -> None:
    plain = rates(accumulate=1, batches=6)
    assert [round(rate, 6) for rate in plain[0][:5]] == [0.25, 0.5, 0.75, 1.0, 1.0]
    assert plain[2][-1] == schedule(17, 18, warmup=4, cosine=True) < 0.07, "the end of the half cosine"
    assert rates(accumulate=4, batches=batches) == plain, "the last step of an epoch may have fewer batches"
    assert rates(accumulate=4, batches=batches, start=12) == [epoch[3:] for epoch in plain], "resumed"


def test_averaged_weights_are_there_inside_and_gone_after_an_error() -> None:
    weight = nn.Parameter(torch.tensor([1.0, 2.0]))
    averaged = AveragedWeights({"weight": weight}, decay=0.5)
    averaged.average["weight"].copy_(torch.tensor([3.0, 4.0]))
    learner = Learner(None, None, {"weight": weight}, None, averaged, epochs=1)  # type: ignore[arg-type]
    inside: list[list[float]] = []

    def interrupted() -> None:
        with learner.averages():
            inside.append(weight.tolist())
            raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt):
        interrupted()
    assert inside == [[3.0, 4.0]]
    assert weight.tolist() == [1.0, 2.0]
    assert averaged.average["weight"].tolist() == [3.0, 4.0]
    assert learner.finite(0.5).item() == 1
    assert learner.finite(float("nan")).item() == 0
    averaged.average["weight"][0] = float("inf")
    assert learner.finite(0.5).item() == 0
