"""`showtell.search` in NumPy, for machines without torch: the same captions, token for token.

Names, shapes and order are those of `showtell.search`, whose comments are not repeated here; a test compares the two.
B images · K beams per image · V vocabulary · T steps · R regions; A ≤ B images still searched.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Any, NamedTuple, TypeVar

import numpy as np
from numpy.typing import NDArray

from showtell.decoding import SearchOptions, none_found

Floats = NDArray[np.float32]
Ints = NDArray[np.int64]
Flags = NDArray[np.bool_]
Arrays = Sequence[NDArray[Any]]

Step = Callable[[Ints, Arrays, Arrays], tuple[Floats, Arrays, Floats]]
"""tokens (A,K), State, Memory -> log-probabilities (A,K,V), the next State, attention (A,K,R), R = 0 where there is none."""

_NEVER = np.float32(-np.inf)


@dataclass(frozen=True, slots=True)
class Hypothesis:
    """A caption as token ids, without `<start>` and `<end>`; see `showtell.search.Hypothesis`."""

    tokens: tuple[int, ...]
    log_prob: float
    token_log_probs: tuple[float, ...]
    score: float
    attention: Floats | None  # (T,R)

    @property
    def finished(self) -> bool:
        """Whether it ended by itself."""
        return len(self.token_log_probs) > len(self.tokens)


class _Beams(NamedTuple):
    log_prob: Floats  # (A,K)
    tokens: Ints  # (A,K,t)
    token_log_probs: Floats  # (A,K,t)
    attention: Floats  # (A,K,t,R)


class _Finished(NamedTuple):
    score: Floats  # (A,K), -inf: none
    log_prob: Floats
    length: Ints  # (A,K), `<end>` counted
    tokens: Ints  # (A,K,T)
    token_log_probs: Floats  # (A,K,T)
    attention: Floats  # (A,K,T,R)


_Rows = TypeVar("_Rows", _Beams, _Finished)


def beam_search(
    step: Step,
    memory: Arrays,
    state: Arrays,
    *,
    options: SearchOptions,
    start_id: int,
    end_id: int,
    banned: Sequence[int] = (),
) -> list[list[Hypothesis]]:
    """`showtell.search.beam_search` from Memory (B,…) and the first State (B,1,…)."""
    rows = options.beam
    alive = np.arange(len(memory[0]))
    found: list[list[Hypothesis]] = [[] for _ in alive]
    state = [np.repeat(x, rows, axis=1) for x in state]  # (B,K,…)
    tokens = np.full((len(alive), rows), start_id)
    beams = finished = None
    for length in range(1, options.max_length + 1):
        log_probs, state, looked = step(tokens, state, memory)
        if beams is None or finished is None:
            beams, finished = _begin(looked, options)
        _forbid(log_probs, beams.tokens, banned, options, end_id)
        beams, parents, finished = _extend(
            beams, finished, log_probs, looked, length=length, end_id=end_id, options=options
        )
        tokens, state = beams.tokens[:, :, -1], [_take(x, parents) for x in state]
        done = _is_done(beams, finished, options) | (length == options.max_length)
        if done.any():
            for row in np.flatnonzero(done):
                found[alive[row]] = _collect(beams, finished, int(row), options)
            left = np.flatnonzero(~done)
            if not len(left):
                break
            alive, tokens = alive[left], tokens[left]
            memory, state = [x[left] for x in memory], [x[left] for x in state]
            beams, finished = _left(beams, left), _left(finished, left)
    return found


def sample(
    step: Step,
    memory: Arrays,
    state: Arrays,
    *,
    options: SearchOptions,
    start_id: int,
    end_id: int,
    banned: Sequence[int] = (),
    generators: Sequence[np.random.Generator],
) -> list[list[Hypothesis]]:
    """`showtell.search.sample` with one NumPy generator per image: the same distribution, other draws than torch's."""
    state = [np.repeat(x, options.n, axis=1) for x in state]  # (B,K,…)
    tokens = np.full((len(memory[0]), options.n), start_id)
    history = np.zeros((*tokens.shape, 0), np.int64)
    kept = np.zeros(history.shape, np.float32)
    ended = np.zeros(tokens.shape, np.bool_)
    for _ in range(options.max_length):
        log_probs, state, _ = step(tokens, state, memory)
        allowed = log_probs.copy()
        _forbid(allowed, history, banned, options, end_id)
        if (np.isneginf(allowed.max(-1)) & ~ended).any():
            raise none_found(options)
        drawn = np.where(ended, end_id, _draw(allowed / options.temperature, options.top_p, generators))
        said = np.take_along_axis(log_probs, drawn[..., None], -1) * ~ended[..., None]
        history, kept = np.concatenate((history, drawn[..., None]), -1), np.concatenate((kept, said), -1)
        tokens, ended = drawn, ended | (drawn == end_id)
        if ended.all():
            break
    return [_sampled(ids, probs, end_id, options) for ids, probs in zip(history, kept, strict=True)]


def _begin(looked: Floats, options: SearchOptions) -> tuple[_Beams, _Finished]:
    """The search before the first word: all beams are the same, so only the first one counts."""
    images, rows, regions = looked.shape
    first = np.full((images, rows), _NEVER)
    first[:, 0] = 0.0

    def empty(*shape: int) -> Floats:
        return np.zeros((images, rows, *shape), np.float32)

    def no_ids(*shape: int) -> Ints:
        return np.zeros((images, rows, *shape), np.int64)

    none, steps = np.full_like(first, _NEVER), options.max_length
    finished = _Finished(none, none, no_ids(), no_ids(steps), empty(steps), empty(steps, regions))
    return _Beams(first, no_ids(0), empty(0), empty(0, regions)), finished


def _extend(
    beams: _Beams,
    finished: _Finished,
    log_probs: Floats,
    looked: Floats,
    *,
    length: int,
    end_id: int,
    options: SearchOptions,
) -> tuple[_Beams, Ints, _Finished]:
    """Extends each beam by one word."""
    rows, words = log_probs.shape[1:]
    total = (beams.log_prob[..., None] + log_probs).reshape(len(log_probs), -1)  # (A,K·V)
    best, index = _top(total, 2 * rows)  # (A,2K)
    parents, tokens = index // words, index % words
    candidates = _Beams(
        best,
        np.concatenate((_take(beams.tokens, parents), tokens[..., None]), -1),
        np.concatenate(
            (
                _take(beams.token_log_probs, parents),
                np.take_along_axis(_take(log_probs, parents), tokens[..., None], -1),
            ),
            -1,
        ),
        np.concatenate((_take(beams.attention, parents), _take(looked, parents)[:, :, None]), 2),
    )
    ends = tokens == end_id
    heard = ends & np.isfinite(best)
    if options.beam == 1:  # greedy: an `<end>` that is second best is not said
        heard[:, 1:] = False
    finished = _keep(finished, candidates, heard, length, options)
    going, order = _top(np.where(ends, _NEVER, best), rows)
    beams = _Beams(*(_take(x, order) for x in candidates))._replace(log_prob=going)
    return beams, _take(parents, order), finished


def _keep(finished: _Finished, new: _Beams, ends: Flags, length: int, options: SearchOptions) -> _Finished:
    """The K best of those finished before and those that end now."""
    if not ends.any():
        return finished
    missing = [(0, 0), (0, 0), (0, options.max_length - length)]
    padded = _Finished(
        np.where(ends, new.log_prob / np.float32(length**options.length_penalty), _NEVER),
        new.log_prob,
        np.full(ends.shape, length),
        np.pad(new.tokens, missing),
        np.pad(new.token_log_probs, missing),
        np.pad(new.attention, [*missing, (0, 0)]),
    )
    both = _Finished(*(np.concatenate(pair, 1) for pair in zip(finished, padded, strict=True)))  # type: ignore[arg-type]
    _, order = _top(both.score, finished.score.shape[1])
    return _Finished(*(_take(x, order) for x in both))


def _is_done(beams: _Beams, finished: _Finished, options: SearchOptions) -> Flags:
    """(A,): whether no live beam can still get among the n best finished."""
    if options.beam == 1:
        return np.isfinite(finished.score[:, 0])
    likeliest = beams.log_prob.max(1)
    nth = -np.sort(-finished.score, axis=1)[:, options.n - 1]
    done: Flags = (nth >= likeliest / np.float32(options.max_length**options.length_penalty)) | np.isneginf(likeliest)
    return done


def _forbid(log_probs: Floats, history: Ints, banned: Sequence[int], options: SearchOptions, end_id: int) -> None:
    """Sets the words that may not come next to -inf, in place."""
    step, ngram = history.shape[-1] + 1, options.no_repeat_ngram
    if (only := options.only(step, end_id)) is not None:
        kept = log_probs[..., only].copy()
        log_probs[...] = _NEVER
        log_probs[..., only] = kept
        return
    log_probs[..., [*banned, *options.ruled_out(step, end_id)]] = _NEVER
    if ngram and history.shape[-1] >= ngram:
        windows = np.lib.stride_tricks.sliding_window_view(history, ngram, axis=-1)  # (A,K,W,n)
        last = history[..., history.shape[-1] - ngram + 1 :]  # (A,K,n-1)
        image, row, window = np.nonzero((windows[..., :-1] == last[:, :, None]).all(-1))
        log_probs[image, row, windows[image, row, window, -1]] = _NEVER


def _collect(beams: _Beams, finished: _Finished, row: int, options: SearchOptions) -> list[Hypothesis]:
    """The n best of one image."""
    found = []
    for k in range(int(np.isfinite(finished.score[row]).sum())):
        length = int(finished.length[row, k])
        found.append(_hypothesis(finished, row, k, length, float(finished.score[row, k]), length - 1))
    length = beams.tokens.shape[-1]
    for k in range(int(np.isfinite(beams.log_prob[row]).sum())):
        score = float(beams.log_prob[row, k]) / length**options.length_penalty
        found.append(_hypothesis(beams, row, k, length, score, length))
    return found[: options.n]


def _hypothesis(source: _Beams | _Finished, row: int, k: int, length: int, score: float, words: int) -> Hypothesis:
    return Hypothesis(
        tokens=tuple(source.tokens[row, k, :words].tolist()),
        log_prob=float(source.log_prob[row, k]),
        token_log_probs=tuple(source.token_log_probs[row, k, :length].tolist()),
        score=score,
        attention=source.attention[row, k, :words] if source.attention.shape[-1] else None,
    )


def _draw(log_probs: Floats, top_p: float, generators: Sequence[np.random.Generator]) -> Ints:
    """Ids (B,K) drawn from log-probabilities (B,K,V), the tail beyond `top_p` cut off."""
    weights = np.exp(log_probs - log_probs.max(-1, keepdims=True))
    probabilities = weights / weights.sum(-1, keepdims=True)
    if top_p < 1:
        order = np.argsort(-probabilities, axis=-1, kind="stable")
        ordered = np.take_along_axis(probabilities, order, -1)
        tail = np.cumsum(ordered, -1) - ordered >= top_p
        tail[..., 0] = False
        np.put_along_axis(probabilities, order, np.where(tail, 0, ordered), -1)
    # Of exponential clocks with rates p, the one of word w rings first with probability p_w.
    clocks = np.stack([g.standard_exponential(log_probs.shape[1:]) for g in generators])
    ids: Ints = (probabilities / clocks).argmax(-1)
    return ids


def _sampled(ids: Ints, probs: Floats, end_id: int, options: SearchOptions) -> list[Hypothesis]:
    found = []
    for row, row_probs in zip(ids.tolist(), probs.tolist(), strict=True):
        finished = end_id in row
        words = row.index(end_id) if finished else len(row)
        log_probs = tuple(row_probs[: words + finished])
        score = sum(log_probs) / max(1, len(log_probs)) ** options.length_penalty
        found.append(Hypothesis(tuple(row[:words]), sum(log_probs), log_probs, score, None))
    return sorted(found, key=lambda hypothesis: -hypothesis.score)


def _top(values: Floats, count: int) -> tuple[Floats, Ints]:
    """values (A,X) -> the `count` largest of each row, best first, and their indices."""
    index = np.argpartition(values, -min(count, values.shape[1]), axis=1)[:, -count:]
    index = _take(index, np.argsort(-_take(values, index), axis=1, kind="stable"))
    return _take(values, index), index


def _take(x: NDArray[Any], order: Ints) -> NDArray[Any]:
    """x (A,K,…), order (A,J) -> (A,J,…)"""
    return x[np.arange(len(order))[:, None], order]


def _left(rows: _Rows, left: Ints) -> _Rows:
    return type(rows)(*(x[left] for x in rows))  # type: ignore[arg-type]
