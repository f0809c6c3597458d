"""How several captions of an image are asked for, searched or sampled: options that commands share, and what they refuse."""

from __future__ import annotations

from typing import Annotated

import typer

from showtell.decoding import Sampling, Wishes

N = Annotated[int, typer.Option("--n", min=1, max=100, help="Captions per image.")]
DIVERSE = Annotated[bool, typer.Option("--diverse", help="With --n: captions in different words.")]
DIVERSITY = Annotated[
    float | None, typer.Option(help="With --diverse: penalty for another caption's words, in nats [default: 0.5].")
]
SAMPLE = Annotated[
    bool, typer.Option("--sample", help="Sample captions instead of searching for the likeliest.")
]  # fmt: skip
TEMPERATURE = Annotated[
    float | None,
    typer.Option(help="With --sample: below 1 for plainer captions, above 1 for wilder ones [default: 1.0]."),
]
TOP_P = Annotated[
    float | None,
    typer.Option(
        help="With --sample: sample from the likeliest words that have this share of the probability [default: 0.9]."
    ),
]
SEED = Annotated[
    int | None, typer.Option(help="With --sample: the same seed gives the same captions [default: 0].")
]  # fmt: skip


def penalty(diverse: bool, diversity: float | None, n: int) -> float:
    """The `diversity` of `Wishes`, given or not; `BadParameter` for differing captions without several, or a penalty
    without them."""
    if (diverse and n < 2) or (diversity is not None and not diverse):
        raise typer.BadParameter("--diverse needs --n 2 or more, and --diversity needs --diverse")
    return Wishes().diversity if diversity is None else diversity


def refuse_searching(sample: bool, wishes: Wishes, *, options: str) -> None:
    """Raises `BadParameter` where captions are sampled and `wishes` search; `options` are a command's that do."""
    if sample and wishes.searched():
        raise typer.BadParameter(f"{options} search, and --sample does not; leave out one")


def drawn(sample: bool, *, temperature: float | None, top_p: float | None, seed: int | None) -> Sampling | None:
    """How captions are sampled, if they are; `BadParameter` for a temperature, a share or a seed without --sample."""
    drawing = {"temperature": temperature, "top_p": top_p, "seed": seed}
    given = {name: value for name, value in drawing.items() if value is not None}
    if given and not sample:
        raise typer.BadParameter("--temperature, --top-p and --seed go with --sample, which is missing")
    return Sampling(**given) if sample else None  # type: ignore[arg-type]
