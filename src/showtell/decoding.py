"""How captions are chosen: what a search or a draw is told, whatever runs it."""

from __future__ import annotations

from dataclasses import dataclass

from showtell.errors import DataError


@dataclass(frozen=True, slots=True)
class SearchOptions:
    """`score = log_prob / length ** length_penalty`; length and `max_length` count the `<end>`."""

    beam: int = 5
    max_length: int = 30
    length_penalty: float = 1.0
    no_repeat_ngram: int = 0
    n: int = 1
    temperature: float = 1.0
    top_p: float = 1.0


@dataclass(frozen=True, slots=True)
class Sampling:
    """Captions drawn instead of searched for; the same seed draws the same ones for the same image in the same place."""

    temperature: float = 1.0
    top_p: float = 0.9
    seed: int = 0

    def __post_init__(self) -> None:
        if not self.temperature > 0:
            raise DataError(f"temperature is {self.temperature}, expected more than 0")
        if not 0 < self.top_p <= 1:
            raise DataError(f"top_p is {self.top_p}, expected more than 0 and at most 1")
        if not 0 <= self.seed < 2**31:
            raise DataError(f"seed is {self.seed}, expected 0 to {2**31 - 1}")
