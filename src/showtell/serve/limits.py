"""Limits on the size and the duration of requests."""

from __future__ import annotations

from dataclasses import dataclass

from showtell.errors import DataError


@dataclass(frozen=True, slots=True)
class Limits:
    """Sizes in bytes, times in seconds.

    `queue` counts images accepted and not yet answered; `held_bytes` is what all requests together may hold in memory
    until they are answered; `header_bytes` covers the request line and all headers.
    """

    image_bytes: int = 16 * 2**20
    request_bytes: int = 64 * 2**20
    held_bytes: int = 256 * 2**20
    header_bytes: int = 16 * 2**10
    pixels: int = 40_000_000  # each takes 12 bytes while it is decoded, up to 32 in rare image modes
    images: int = 32
    queue: int = 128
    connections: int = 512
    answer_seconds: float = 60.0
    body_seconds: float = 30.0
    header_seconds: float = 10.0
    url_seconds: float = 10.0

    def __post_init__(self) -> None:
        for low, high in (("image_bytes", "request_bytes"), ("request_bytes", "held_bytes"), ("images", "queue")):
            small, large = getattr(self, low), getattr(self, high)
            if not 0 < small <= large:
                raise DataError(f"the limit {low} is {small}, expected 1 to {high}, which is {large}")
        for name in ("answer_seconds", "body_seconds", "header_seconds", "url_seconds"):
            if not 0 < getattr(self, name) < 1e6:
                raise DataError(
                    f"the limit {name} is {getattr(self, name)}, expected more than 0 and less than 1000000"
                )
