"""How several captions of an image are asked for, searched or sampled: options that commands share."""

from __future__ import annotations

from typing import Annotated

import typer

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


def spelt(option: str) -> str:
    """An option's name as the command line has it."""
    return f"--{option.replace('_', '-')}"
