"""Captions sampled from the model: for people (`sample`), and in bulk for self-critical training (`draw`).

A images not yet finished, of B · K samples per image · V vocabulary · T steps
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any, NamedTuple

import torch
from torch import Tensor

from showtell.decoding import SearchOptions, none_found
from showtell.search.protocol import Hypothesis, StepDecoder, forbid, keep_images, start_rows, worth_leaving


class Drawn(NamedTuple):
    """Captions as tensors, as long as the longest one, or `max_length` if drawn `together`.

    Everything after an `<end>` is `<end>`, with log-probability 0.
    """

    tokens: Tensor  # (B,K,T), `<end>` included, `<start>` not
    log_probs: Tensor  # (B,K,T), the model's own, in nats


@torch.inference_mode()
def draw(
    decoder: StepDecoder,
    features: Any,
    *,
    options: SearchOptions,
    start_id: int,
    end_id: int,
    banned: Sequence[int] = (),
    generators: Sequence[torch.Generator] | None = None,
    together: bool = False,
) -> Drawn:
    """`options.n` sampled captions for each image of `features` (B,R,F).

    Words are sampled at `options.temperature` from the smallest set that holds `options.top_p` of the probability; the
    reported log-probabilities are the model's own. With one generator per image (on the CPU), an image's captions do
    not depend on the rest of its batch. With `together`, all captions take `options.max_length` steps, so that the
    computation does not depend on the words, as a CUDA graph requires. `DataError` where a caption has said all that it
    may before it may end.
    """
    memory, state, tokens = start_rows(decoder, features, options.n, start_id)
    alive = torch.arange(len(tokens), device=tokens.device)
    shape = (options.max_length, *tokens.shape)
    said = torch.full(shape, end_id, device=tokens.device)
    kept = torch.zeros(shape, device=tokens.device)
    ended = torch.zeros_like(tokens, dtype=torch.bool)
    for t in range(options.max_length):
        step = decoder.step(tokens, state, memory)
        log_probs = step.logits.float().log_softmax(-1)  # (A,K,V)
        history = said[:t, alive].permute(1, 2, 0) if options.no_repeat_ngram else None
        chosen = None if generators is None else [generators[i] for i in alive.tolist()]
        allowed = log_probs / options.temperature
        forbid(allowed, history, banned, options, step=t + 1, end_id=end_id)
        if options.no_repeat_ngram and t < options.min_length and (allowed.amax(-1).isneginf() & ~ended).any():
            raise none_found(options)
        tokens = _draw(allowed, options.top_p, chosen).masked_fill(ended, end_id)  # (A,K)
        said[t, alive] = tokens
        kept[t, alive] = log_probs.gather(-1, tokens[..., None])[..., 0].masked_fill(ended, 0.0)
        state, ended = step.state, ended | (tokens == end_id)
        done = ended.all(-1)
        if not together and worth_leaving(done):
            left = (~done).nonzero().flatten()
            if not len(left):
                break
            alive, tokens, ended = alive[left], tokens[left], ended[left]
            memory, state = keep_images(memory, left), keep_images(state, left)
    return Drawn(*(x[: t + 1].permute(1, 2, 0) for x in (said, kept)))


def sample(
    decoder: StepDecoder,
    features: Any,
    *,
    options: SearchOptions,
    start_id: int,
    end_id: int,
    banned: Sequence[int] = (),
    generators: Sequence[torch.Generator] | None = None,
) -> list[list[Hypothesis]]:
    """`draw`, as hypotheses: best score first."""
    drawn = draw(
        decoder, features, options=options, start_id=start_id, end_id=end_id, banned=banned, generators=generators
    )
    pairs = zip(drawn.tokens.tolist(), drawn.log_probs.tolist(), strict=True)
    return [_hypotheses(ids, probs, end_id, options) for ids, probs in pairs]


def _draw(allowed: Tensor, top_p: float, generators: Sequence[torch.Generator] | None) -> Tensor:
    """Ids (A,K) drawn from logits (A,K,V): where uniform numbers fall in the cumulative distribution."""
    shares = allowed.softmax(-1)
    if top_p < 1:
        ordered, order = shares.sort(-1, descending=True)
        tail = ordered.cumsum(-1) - ordered >= top_p
        tail[..., 0] = False  # the likeliest word is kept, also where float32 has no number as small as `top_p`
        shares = torch.zeros_like(shares).scatter(-1, order, ordered.masked_fill(tail, 0.0))
    exact = torch.float32 if shares.device.type == "mps" else torch.float64  # Apple's GPU has no float64
    upto = shares.to(exact).cumsum(-1)
    shape = (*shares.shape[:2], 1)
    if generators is None:
        where = torch.rand(shape, dtype=exact, device=upto.device)
    else:
        where = torch.stack([torch.rand(shape[1:], dtype=torch.double, generator=g) for g in generators]).to(upto)
        where = where.clamp(max=1 - torch.finfo(exact).eps / 2)  # single precision rounds the last ones to 1
    return torch.searchsorted(upto, where * upto[..., -1:], right=True)[..., 0]


def _hypotheses(
    ids: list[list[int]], probs: list[list[float]], end_id: int, options: SearchOptions
) -> list[Hypothesis]:
    found = []
    for row, row_probs in zip(ids, probs, strict=True):
        finished = end_id in row
        words = row.index(end_id) if finished else len(row)
        log_probs = tuple(row_probs[: words + finished])
        score = sum(log_probs) / max(1, len(log_probs)) ** options.length_penalty
        found.append(Hypothesis(tuple(row[:words]), finished, sum(log_probs), log_probs, score, None))
    return sorted(found, key=lambda hypothesis: -hypothesis.score)
