"""What a search needs from a decoder, and what it returns.

B images · K rows (beams or samples) per image · V vocabulary · T steps · R regions
"""

from __future__ import annotations

import functools
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Any, Protocol

import torch
from torch import Tensor

from showtell.decoding import SearchOptions

NEVER = float("-inf")


class StepLike(Protocol):
    """The result of a step: logits (B,K,V), the next State, attention (B,K,R) or None."""

    @property
    def logits(self) -> Tensor:
        """(B,K,V)"""

    @property
    def state(self) -> Any:
        """The State after this step."""

    @property
    def attention(self) -> Tensor | None:
        """(B,K,R)"""


class StepDecoder(Protocol):
    """Memory is a tuple of tensors (B,…), State a tuple of tensors (B,K,…); either may be a tuple of such tuples."""

    def prepare(self, features: Any) -> Any:
        """features (B,R,F) -> Memory."""

    def init_state(self, memory: Any, rows: int) -> Any:
        """The State of K rows per image before the first word."""

    def step(self, tokens: Tensor, state: Any, memory: Any) -> StepLike:
        """tokens (B,K) -> the logits of the next words."""


@dataclass(frozen=True, slots=True)
class Hypothesis:
    """A caption as token ids, without `<start>` and `<end>`.

    `log_prob` and `token_log_probs` are the model's own, in nats, including `<end>` (last) where `finished`. Forbidden
    words keep their share of the probability, so that the numbers equal those of teacher forcing.
    """

    tokens: tuple[int, ...]
    finished: bool
    log_prob: float
    token_log_probs: tuple[float, ...]
    score: float
    attention: Tensor | None  # (T,R) on the CPU: where the decoder looked for each token, `<end>` left out


def start_rows(decoder: StepDecoder, features: Any, rows: int, start_id: int) -> tuple[Any, Any, Tensor]:
    """Memory, State and the first tokens (B,K) of K rows per image."""
    memory = decoder.prepare(features)
    state = decoder.init_state(memory, rows)
    first = _first_tensor(state)
    return memory, state, torch.full((len(first), rows), start_id, device=first.device)


def take(tree: Any, rows: Tensor) -> Any:
    """Selects `rows` (A,J) of every tensor (A,K,…) of a State -> (A,J,…)."""
    image = torch.arange(len(rows), device=rows.device)[:, None]
    return map_tensors(tree, lambda x: x[image, rows])


def keep_images(tree: Any, left: Tensor) -> Any:
    """Selects the images `left` of every tensor (A,…) of a Memory or a State."""
    return map_tensors(tree, lambda x: x[left])


def map_tensors(tree: Any, change: Callable[[Tensor], Tensor]) -> Any:
    """Applies `change` to every tensor in nested tuples, named or not."""
    if isinstance(tree, Tensor):
        return change(tree)
    parts = [map_tensors(part, change) for part in tree]
    return type(tree)(*parts) if hasattr(tree, "_fields") else tuple(parts)


def worth_leaving(done: Tensor) -> bool:
    """Whether enough images (A,) are done that copying the rest pays off: one in eight."""
    return 8 * int(done.sum()) >= len(done)


def forbid(
    scores: Tensor, history: Tensor | None, banned: Sequence[int], options: SearchOptions, *, step: int, end_id: int
) -> None:
    """Sets `scores` (A,K,V) to -inf, in place, for what may not be token number `step`, counted from 1: banned words,
    those that would repeat an n-gram of `history`, and what the options rule out there. One that has to come may."""
    if (only := options.only(step, end_id)) is not None:
        kept = scores[..., only].clone()
        scores.fill_(NEVER)
        scores[..., only] = kept
        return
    if ruled_out := (*banned, *options.ruled_out(step, end_id)):
        scores.index_fill_(-1, _tensor(ruled_out, scores.device), NEVER)
    ngram = options.no_repeat_ngram
    if ngram and history is not None and history.shape[-1] >= ngram:
        windows = history.unfold(-1, ngram, 1)  # (A,K,W,n)
        last = history[..., history.shape[-1] - ngram + 1 :]  # (A,K,n-1)
        image, row, window = ((windows[..., :-1] == last[:, :, None]).all(-1)).nonzero(as_tuple=True)
        scores[image, row, windows[image, row, window, -1]] = NEVER


@functools.cache  # a CUDA graph reads it for as long as it is replayed
def _tensor(ids: tuple[int, ...], device: torch.device) -> Tensor:
    """Copied to the device once: copies block, and none may be part of a CUDA graph."""
    return torch.tensor(ids, device=device)


def _first_tensor(tree: Any) -> Tensor:
    return tree if isinstance(tree, Tensor) else _first_tensor(tree[0])
