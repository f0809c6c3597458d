"""How work that takes a while says how far it is."""

from __future__ import annotations

from collections.abc import Callable

Progress = Callable[[str, int, int], None]
"""Called with what is being done, how much of it is done, and how much there is; often, from the thread that works."""


def silent(what: str, done: int, total: int) -> None:
    """A `Progress` that says nothing."""
