"""Batched beam search and sampling over any step decoder; knows only token ids.

B images · K beams of an image · V vocabulary · T steps · R regions. Finished images leave the batch, an image's Memory is
shared by its beams and never reordered, and nothing in the loop runs once a hypothesis.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any, NamedTuple, Protocol

import torch
from torch import Tensor

from showtell.decoding import SearchOptions

_NEVER = float("-inf")


class StepLike(Protocol):
    """What a step gives: logits (B,K,V), the next state, attention (B,K,R) or None."""

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
    """Memory is a tuple of tensors (B,…), State a tuple of tensors (B,K,…)."""

    def prepare(self, features: Tensor) -> Any:
        """features (B,R,F) -> Memory."""

    def init_state(self, memory: Any, rows: int) -> Any:
        """The State of K rows an image before the first word."""

    def step(self, tokens: Tensor, state: Any, memory: Any) -> StepLike:
        """tokens (B,K) -> the logits of the words after them."""


@dataclass(frozen=True, slots=True)
class Hypothesis:
    """A caption as token ids, without `<start>` and `<end>`.

    `log_prob` and `token_log_probs` are the model's own, in nats, the `<end>`'s included (last) where `finished`;
    forbidden words keep their share of the probability, so that the numbers equal teacher forcing's.
    """

    tokens: tuple[int, ...]
    finished: bool
    log_prob: float
    token_log_probs: tuple[float, ...]
    score: float
    attention: Tensor | None  # (T,R) on the CPU: where the decoder looked for each token, `<end>` left out


class _Beams(NamedTuple):
    """Hypotheses of the images still searched: all tensors (A,K,…), A ≤ B."""

    log_prob: Tensor  # (A,K)
    tokens: Tensor  # (A,K,t)
    token_log_probs: Tensor  # (A,K,t)
    attention: Tensor  # (A,K,t,R); R = 0 where it is not kept


class _Finished(NamedTuple):
    """The K best finished hypotheses of each image, padded to `max_length`."""

    score: Tensor  # (A,K), -inf: none
    log_prob: Tensor
    length: Tensor  # (A,K), `<end>` counted
    tokens: Tensor  # (A,K,T)
    token_log_probs: Tensor  # (A,K,T)
    attention: Tensor  # (A,K,T,R)


@torch.inference_mode()
def beam_search(
    decoder: StepDecoder,
    features: Tensor,
    *,
    options: SearchOptions,
    start_id: int,
    end_id: int,
    banned: Sequence[int] = (),
    attention: bool = False,
) -> list[list[Hypothesis]]:
    """For each image of `features` (B,R,F), its `options.n` best captions, best first. Greedy is beam 1.

    A search ends when no live beam can still get among the n best finished hypotheses. Those cut off at
    `max_length` follow behind the finished ones, and only where these are fewer than n. `banned` ids are never said.
    """
    if not 1 <= options.n <= options.beam:
        raise ValueError(f"n is {options.n}: expected 1 to the beam's {options.beam}")
    memory = decoder.prepare(features)
    state = decoder.init_state(memory, options.beam)
    images, rows, device = len(features), options.beam, features.device
    found: list[list[Hypothesis]] = [[] for _ in range(images)]
    alive = torch.arange(images, device=device)
    tokens = torch.full((images, rows), start_id, device=device)
    beams = finished = None
    for length in range(1, options.max_length + 1):
        step = decoder.step(tokens, state, memory)
        log_probs = step.logits.float().log_softmax(-1)  # (A,K,V)
        looked = (
            step.attention.float()
            if attention and step.attention is not None
            else log_probs.new_zeros((*tokens.shape, 0))
        )
        if beams is None or finished is None:
            beams, finished = _begin(log_probs, looked, options)
        _forbid(log_probs, beams.tokens, banned, options.no_repeat_ngram)
        beams, parents, finished = _extend(
            beams, finished, log_probs, looked, length=length, end_id=end_id, options=options
        )
        tokens, state = beams.tokens[:, :, -1], _reorder(step.state, parents)
        done = _is_done(beams, finished, options)
        if length == options.max_length:
            done = torch.ones_like(done)
        if done.any():
            for row in done.nonzero().flatten().tolist():
                found[int(alive[row])] = _collect(beams, finished, row, options)
            left = (~done).nonzero().flatten()
            alive, tokens = alive[left], tokens[left]
            memory, state, beams, finished = (_rows(x, left) for x in (memory, state, beams, finished))
            if not len(left):
                break
    return found


@torch.inference_mode()
def sample(
    decoder: StepDecoder,
    features: Tensor,
    *,
    options: SearchOptions,
    start_id: int,
    end_id: int,
    banned: Sequence[int] = (),
    generators: Sequence[torch.Generator] | None = None,
) -> list[list[Hypothesis]]:
    """For each image of `features` (B,R,F), `options.n` captions drawn from the model, likeliest first.

    Drawn at `options.temperature` from the smallest set of words that holds `options.top_p` of the probability; the
    reported log-probabilities are the model's own. With a generator an image (on the CPU), what is drawn for an image
    does not depend on the others of its batch.
    """
    memory = decoder.prepare(features)
    state = decoder.init_state(memory, options.n)
    tokens = torch.full((len(features), options.n), start_id, device=features.device)
    history = tokens.new_empty((*tokens.shape, 0))
    kept = torch.empty((*tokens.shape, 0), device=features.device)
    ended = torch.zeros_like(tokens, dtype=torch.bool)
    for _ in range(options.max_length):
        step = decoder.step(tokens, state, memory)
        log_probs = step.logits.float().log_softmax(-1)  # (B,K,V)
        allowed = log_probs.clone()
        _forbid(allowed, history, banned, options.no_repeat_ngram)
        tokens = _draw(allowed / options.temperature, options.top_p, generators).masked_fill(ended, end_id)
        drawn = log_probs.gather(-1, tokens[..., None]).masked_fill(ended[..., None], 0.0)
        history, kept = torch.cat((history, tokens[..., None]), -1), torch.cat((kept, drawn), -1)
        state, ended = step.state, ended | (tokens == end_id)
        if ended.all():
            break
    return [_sampled(ids, probs, end_id, options) for ids, probs in zip(history.tolist(), kept.tolist(), strict=True)]


def _begin(log_probs: Tensor, looked: Tensor, options: SearchOptions) -> tuple[_Beams, _Finished]:
    """No words yet: all beams are the same, so only the first one counts."""
    images, rows = log_probs.shape[:2]
    first = torch.full((images, rows), _NEVER, device=log_probs.device)
    first[:, 0] = 0.0
    no_ids = torch.empty((images, rows, 0), dtype=torch.long, device=log_probs.device)
    empty = log_probs.new_empty((images, rows, 0))
    beams = _Beams(first, no_ids, empty, looked.new_empty((images, rows, 0, looked.shape[-1])))
    none = torch.full_like(first, _NEVER)
    full = (images, rows, options.max_length)
    ids = no_ids.new_zeros(full)
    lengths = no_ids.new_zeros((images, rows))
    return beams, _Finished(
        none, none, lengths, ids, empty.new_zeros(full), looked.new_zeros((*full, looked.shape[-1]))
    )


def _extend(
    beams: _Beams,
    finished: _Finished,
    log_probs: Tensor,
    looked: Tensor,
    *,
    length: int,
    end_id: int,
    options: SearchOptions,
) -> tuple[_Beams, Tensor, _Finished]:
    """One word more: the 2K best continuations hold at least K that do not end, and any `<end>` worth keeping."""
    rows, words = log_probs.shape[1:]
    total = (beams.log_prob[..., None] + log_probs).flatten(1)  # (A,K·V)
    best, index = total.topk(min(2 * rows, total.shape[1]), dim=1)  # (A,2K)
    parents, tokens = index // words, index % words
    candidates = _follow(beams, parents, tokens, best, log_probs, looked)
    ends = tokens == end_id
    finished = _keep(finished, candidates, ends & best.isfinite(), length, options)
    going = best.masked_fill(ends, _NEVER)
    _, order = going.topk(rows, dim=1)
    beams = _Beams(*(_take(x, order) for x in candidates))
    beams = beams._replace(log_prob=going.gather(1, order))
    return beams, parents.gather(1, order), finished


def _follow(beams: _Beams, parents: Tensor, tokens: Tensor, best: Tensor, log_probs: Tensor, looked: Tensor) -> _Beams:
    """The candidates' histories: their parents', with one step appended."""
    step_log_prob = log_probs[torch.arange(len(parents), device=parents.device)[:, None], parents, tokens]
    return _Beams(
        best,
        torch.cat((_take(beams.tokens, parents), tokens[..., None]), -1),
        torch.cat((_take(beams.token_log_probs, parents), step_log_prob[..., None]), -1),
        torch.cat((_take(beams.attention, parents), _take(looked, parents)[:, :, None]), 2),
    )


def _keep(finished: _Finished, new: _Beams, ends: Tensor, length: int, options: SearchOptions) -> _Finished:
    """The K best of those finished before and those that end now."""
    if not ends.any():
        return finished
    missing = options.max_length - length
    score = (new.log_prob / length**options.length_penalty).masked_fill(~ends, _NEVER)
    padded = _Finished(
        score,
        new.log_prob,
        torch.full_like(new.tokens[:, :, 0], length),
        torch.nn.functional.pad(new.tokens, (0, missing)),
        torch.nn.functional.pad(new.token_log_probs, (0, missing)),
        torch.nn.functional.pad(new.attention, (0, 0, 0, missing)),
    )
    both = _Finished(*(torch.cat(pair, 1) for pair in zip(finished, padded, strict=True)))
    _, order = both.score.topk(finished.score.shape[1], dim=1)
    return _Finished(*(_take(x, order) for x in both))


def _is_done(beams: _Beams, finished: _Finished, options: SearchOptions) -> Tensor:
    """(A,): no live beam can get among the n best finished. Log-probabilities only fall; a longer caption divides by more."""
    bound = beams.log_prob.amax(1) / options.max_length**options.length_penalty
    nth: Tensor = finished.score.topk(options.n, dim=1).values[:, -1]
    done: Tensor = (nth >= bound) | beams.log_prob.amax(1).isneginf()
    return done


def _forbid(log_probs: Tensor, history: Tensor, banned: Sequence[int], ngram: int) -> None:
    """Sets to -inf, in place, what may not be said next."""
    if banned:
        log_probs[..., list(banned)] = _NEVER
    if ngram and history.shape[-1] >= ngram:
        windows = history.unfold(-1, ngram, 1)  # (A,K,W,n)
        last = history[..., history.shape[-1] - ngram + 1 :]  # (A,K,n-1)
        repeats = (windows[..., :-1] == last[:, :, None]).all(-1)  # (A,K,W)
        penalty = torch.zeros_like(log_probs)
        values = torch.zeros_like(repeats, dtype=log_probs.dtype).masked_fill(repeats, _NEVER)
        log_probs += penalty.scatter_reduce(-1, windows[..., -1], values, "amin")


def _collect(beams: _Beams, finished: _Finished, row: int, options: SearchOptions) -> list[Hypothesis]:
    """The n best of one image."""
    found = []
    for k in range(int(finished.score[row].isfinite().sum())):
        length = int(finished.length[row, k])
        found.append(_hypothesis(finished, row, k, length, float(finished.score[row, k]), finished=True))
    for k in range(int(beams.log_prob[row].isfinite().sum())):
        length = beams.tokens.shape[-1]
        score = float(beams.log_prob[row, k]) / length**options.length_penalty
        found.append(_hypothesis(beams, row, k, length, score, finished=False))
    return found[: options.n]


def _hypothesis(
    source: _Beams | _Finished, row: int, k: int, length: int, score: float, *, finished: bool
) -> Hypothesis:
    words = length - finished
    looked = source.attention[row, k, :words].cpu() if source.attention.shape[-1] else None
    return Hypothesis(
        tokens=tuple(source.tokens[row, k, :words].tolist()),
        finished=finished,
        log_prob=float(source.log_prob[row, k]),
        token_log_probs=tuple(source.token_log_probs[row, k, :length].tolist()),
        score=score,
        attention=looked,
    )


def _draw(log_probs: Tensor, top_p: float, generators: Sequence[torch.Generator] | None) -> Tensor:
    """Ids (B,K) drawn from (B,K,V), the tail beyond `top_p` cut off."""
    probabilities = log_probs.softmax(-1)
    if top_p < 1:
        ordered, order = probabilities.sort(-1, descending=True)
        tail = ordered.cumsum(-1) - ordered >= top_p  # the first word is always kept
        probabilities = torch.zeros_like(probabilities).scatter(-1, order, ordered.masked_fill(tail, 0.0))
    if generators is None:
        return torch.multinomial(probabilities.flatten(0, 1), 1).view(log_probs.shape[:2])
    # The first of exponential clocks of rates p to ring is the word w with probability p_w.
    clocks = torch.stack([torch.empty(log_probs.shape[1:]).exponential_(generator=g) for g in generators])
    return (probabilities / clocks.to(probabilities)).argmax(-1)


def _sampled(ids: list[list[int]], probs: list[list[float]], end_id: int, options: SearchOptions) -> list[Hypothesis]:
    found = []
    for row, row_probs in zip(ids, probs, strict=True):
        finished = end_id in row
        words = row.index(end_id) if finished else len(row)
        log_probs = tuple(row_probs[: words + finished])
        score = sum(log_probs) / max(1, len(log_probs)) ** options.length_penalty
        found.append(Hypothesis(tuple(row[:words]), finished, sum(log_probs), log_probs, score, None))
    return sorted(found, key=lambda hypothesis: -hypothesis.score)


def _take(x: Tensor, order: Tensor) -> Tensor:
    """x (A,K,…), order (A,J) -> (A,J,…)"""
    return x[torch.arange(len(order), device=order.device)[:, None], order]


def _reorder(state: Any, parents: Tensor) -> Any:
    return type(state)(*(_take(x, parents) for x in state))


def _rows(tensors: Any, left: Tensor) -> Any:
    return type(tensors)(*(x[left] for x in tensors))
