"""Batched beam search over any step decoder: plain, diverse or constrained by phrases.

An image's beams are `groups` of `width` rows. Plain beam search has one group. In diverse beam search (Vijayakumar et
al., "Diverse Beam Search", 2018) each group is a separate search, penalised for words that earlier groups say at the
same step. In constrained beam search (Anderson et al., "Guided Open Vocabulary Image Captioning with Constrained Beam
Search", 2017) each state of a small automaton has a group, and a beam changes its group when a word changes its state.

A images still being searched, of B · K = groups·width beams per image · V vocabulary · T steps · R regions. Finished
images leave the batch. An image's Memory is shared by its beams and never reordered. Hypotheses are kept as the tokens
and parents of each step and read back at the end, so that nothing in the loop runs once per hypothesis.
"""

from __future__ import annotations

import itertools
from collections.abc import Sequence
from dataclasses import dataclass, field
from typing import Any, NamedTuple

import torch
from torch import Tensor
from torch.nn.functional import pad

from showtell.decoding import SearchOptions
from showtell.search.automaton import Automaton
from showtell.search.protocol import (
    NEVER,
    Hypothesis,
    StepDecoder,
    forbid,
    keep_images,
    start_rows,
    take,
    worth_leaving,
)


class _Candidates(NamedTuple):
    """The 2·width best continuations of each group, best first: all (A,G,2W)."""

    log_prob: Tensor
    tokens: Tensor
    parents: Tensor  # which of the K rows each continues


class _Finished(NamedTuple):
    """The best finished hypotheses of each group (diverse) or of all groups together: all (A,P,W); score -inf: none."""

    score: Tensor
    log_prob: Tensor
    words: Tensor  # `<end>` not counted
    row: Tensor  # the beam that said the last word


@dataclass
class _Paths:
    """The steps of the search so far, for all B images: (B,K) each."""

    images: int
    tokens: list[Tensor] = field(default_factory=list)
    parents: list[Tensor] = field(default_factory=list)
    log_prob: list[Tensor] = field(default_factory=list)
    looked: list[Tensor] = field(default_factory=list)  # (B,K,R), of the parents; empty if attention is not kept

    def add(self, alive: Tensor, tokens: Tensor, parents: Tensor, log_prob: Tensor, looked: Tensor | None) -> None:
        """Adds one step of the images `alive`."""
        self.tokens.append(self._all(tokens, alive))
        self.parents.append(self._all(parents, alive))
        self.log_prob.append(self._all(log_prob, alive))
        if looked is not None:
            self.looked.append(self._all(looked, alive))

    def _all(self, part: Tensor, alive: Tensor) -> Tensor:
        if len(alive) == self.images:
            return part
        return part.new_zeros((self.images, *part.shape[1:])).index_copy_(0, alive, part)


class _Found(NamedTuple):
    """The n best hypotheses of each image, best first: all (B,n); score -inf: none."""

    score: Tensor
    log_prob: Tensor
    words: Tensor
    row: Tensor
    finished: Tensor


@torch.inference_mode()
def beam_search(
    decoder: StepDecoder,
    features: Any,
    *,
    options: SearchOptions,
    start_id: int,
    end_id: int,
    banned: Sequence[int] = (),
    attention: bool = False,
) -> list[list[Hypothesis]]:
    """The `options.n` best captions of each image of `features` (B,R,F), best first.

    An image's search ends when no live beam can still enter its n best finished hypotheses. Any `<end>` among the
    2·beam best continuations finishes one; elsewhere often only those among the beam best do. Hypotheses cut off at
    `max_length` follow the finished ones, where these are fewer than n. `banned` ids are never said. A beam of 1 is
    greedy search: the likeliest word each time, to the first `<end>`.

    With `options.groups`, each group is a separate search with beam / groups beams; the best of each group come first,
    in order of score, then the second best of each. With `options.required`, every caption has one phrase of each
    requirement, and with `options.forbidden` none of these; each state of the automaton has `options.beam` beams.
    """
    plan = _Search(options, end_id)
    memory, state, tokens = start_rows(decoder, features, plan.rows, start_id)
    plan.move_to(tokens.device)
    alive = torch.arange(len(tokens), device=tokens.device)
    live, finished = plan.begin(len(tokens), tokens.device)
    paths, history, found = _Paths(len(tokens)), None, plan.nothing(len(tokens), tokens.device)
    for length in range(1, options.max_length + 1):
        step = decoder.step(tokens, state, memory)
        logits = step.logits.float()  # (A,K,V)
        total = live.flatten(1) - logits.logsumexp(-1)  # (A,K): plus a word's logit, the beam's log-probability with it
        logits = logits.clone() if logits is step.logits else logits  # what follows writes to them
        forbid(logits, history, banned, options, step=length, end_id=end_id)
        candidates = plan.candidates(logits, total)
        finished = plan.finish(finished, candidates, length)
        tokens, parents, live = plan.go_on(candidates)
        paths.add(alive, tokens, parents, live.flatten(1), step.attention if attention else None)
        state = take(step.state, parents)
        if options.no_repeat_ngram:
            said = tokens[..., None]
            history = said if history is None else torch.cat((take(history, parents), said), -1)
        done = plan.is_done(live, finished) if length < options.max_length else torch.ones_like(alive, dtype=torch.bool)
        if worth_leaving(done):
            for whole, part in zip(found, plan.best(live[done], keep_images(finished, done), length), strict=True):
                whole.index_copy_(0, alive[done], part)
            left = (~done).nonzero().flatten()
            if not len(left):
                break
            alive, tokens, live = alive[left], tokens[left], live[left]
            memory, state, finished = (keep_images(x, left) for x in (memory, state, finished))
            history = history if history is None else history[left]
    return _read_back(paths, found)


class _Search:
    """The decisions of one search: how beams are grouped, which continue, which are kept, when to stop."""

    def __init__(self, options: SearchOptions, end_id: int) -> None:
        self.options, self.end_id = options, end_id
        constrained = bool(options.required or options.forbidden)
        self.automaton = (
            Automaton.build(options.required, options.forbidden, end_id=end_id, continuing=options.continuing)
            if constrained
            else None
        )
        if not 1 <= options.n <= options.beam:
            raise ValueError(f"n is {options.n}: expected 1 to the beam's {options.beam}")
        if options.beam % options.groups or (constrained and options.groups > 1):
            raise ValueError(
                f"{options.groups} groups: expected a divisor of the beam's {options.beam}, and no phrases"
            )
        self.groups = options.groups if self.automaton is None else self.automaton.states
        self.width = options.beam // options.groups
        self.rows = self.groups * self.width
        self.pools = options.groups  # an automaton's groups finish together
        self.greedy = options.beam == 1 and self.automaton is None

    def move_to(self, device: torch.device) -> None:
        """Moves the automaton to `device`."""
        self.automaton = self.automaton and self.automaton.to(device)

    def begin(self, images: int, device: torch.device) -> tuple[Tensor, _Finished]:
        """live (A,G,W), nothing finished. A group's beams are all equal before the first word, so only one counts."""
        live = torch.full((images, self.groups, self.width), NEVER, device=device)
        live[:, : self.pools, 0] = 0.0  # an automaton starts in its first state
        none = torch.full((images, self.pools, self.width), NEVER, device=device)
        zeros = none.new_zeros(none.shape, dtype=torch.long)
        return live, _Finished(none, none, zeros, zeros)

    def nothing(self, images: int, device: torch.device) -> _Found:
        """An empty result, to be filled in."""
        empty = torch.empty((images, self.options.n), device=device)
        ids = torch.zeros_like(empty, dtype=torch.long)
        return _Found(empty, empty.clone(), ids, ids.clone(), ids.bool())

    def candidates(self, logits: Tensor, total: Tensor) -> _Candidates:
        """The best continuations. 2·width include at least `width` that do not end, and any `<end>` worth keeping."""
        if self.automaton is not None:
            return self._by_state(self.automaton, logits, total)
        more = (self.groups - 1) * self.width  # as many words as the other groups may penalise
        values, words = logits.topk(min(2 * self.width + more, logits.shape[-1]), dim=-1)  # (A,K,M)
        values = _grouped(values + total[..., None], self.groups)  # (A,G,W·M)
        parents = _grouped(_row_of(words, self.rows), self.groups)
        words = _grouped(words, self.groups)
        if self.groups == 1:
            return _top(values, values, words, parents, 2 * self.width)
        chosen: list[_Candidates] = []
        shunned = words.new_empty((len(words), 0))
        for group in range(self.groups):
            own = (slice(None), slice(group, group + 1))
            times = (words[own][..., None] == shunned[:, None, None]).sum(-1)  # (A,1,W·M): the Hamming diversity
            wanted = values[own] - self.options.diversity * times
            chosen.append(_top(wanted, values[own], words[own], parents[own], 2 * self.width))
            shunned = torch.cat((shunned, self.go_on(chosen[-1])[0]), 1)
        return _Candidates(*(torch.cat(parts, 1) for parts in zip(*chosen, strict=True)))

    def _by_state(self, automaton: Automaton, logits: Tensor, total: Tensor) -> _Candidates:
        """The best continuations into each state, from any state."""
        special = automaton.tokens
        named = logits[..., special]  # (A,K,S)
        goes_on = logits[..., automaton.continuing]  # (A,K,C)
        logits[..., special] = logits[..., automaton.continuing] = NEVER
        values, words = logits.topk(min(2 * self.width, logits.shape[-1]), dim=-1)  # (A,K,M)
        onward, parts = goes_on.topk(min(2 * self.width, goes_on.shape[-1]), dim=-1)  # (A,K,N)
        others = automaton.otherwise[:, None].expand(-1, values.shape[-1])  # (G,M)
        further = automaton.onward[:, None].expand(-1, onward.shape[-1])  # (G,N)
        target = torch.cat((others, automaton.after, further), -1).repeat_interleave(self.width, 0).flatten()
        values = (torch.cat((values, named, onward), -1) + total[..., None]).flatten(1)  # (A,K·(M+S+N))
        words = torch.cat((words, special.expand_as(named), automaton.continuing[parts]), -1)
        parents = _row_of(words, self.rows)
        states = torch.arange(self.groups, device=logits.device)[:, None]
        reached = values[:, None].masked_fill(target != states, NEVER)  # (A,G,K·(M+S+N))
        words, parents = (x.flatten(1)[:, None].expand_as(reached) for x in (words, parents))
        return _top(reached, reached, words, parents, 2 * self.width)

    def go_on(self, candidates: _Candidates) -> tuple[Tensor, Tensor, Tensor]:
        """The first `width` of each group that do not end: tokens and parents (A,K), live (A,G,W)."""
        ends = candidates.tokens == self.end_id
        place = torch.arange(ends.shape[-1], device=ends.device)
        order = (place + ends * len(place)).topk(self.width, largest=False).indices  # keeps their order
        log_prob, tokens, parents = (x.gather(-1, order) for x in candidates)
        live = log_prob.masked_fill(tokens == self.end_id, NEVER)  # where fewer than `width` do not end
        return tokens.flatten(1), parents.flatten(1), live

    def finish(self, finished: _Finished, candidates: _Candidates, length: int) -> _Finished:
        """The best of the hypotheses finished before and those that end now."""
        ends = (candidates.tokens == self.end_id) & candidates.log_prob.isfinite()
        if self.greedy:  # an `<end>` that is second best, or comes after the first one, is not said
            ends[..., 1:] = False
            ends &= finished.score.isneginf()
        score = (candidates.log_prob / length**self.options.length_penalty).masked_fill(~ends, NEVER)
        new = _Finished(score, candidates.log_prob, torch.full_like(candidates.tokens, length - 1), candidates.parents)
        pooled = (_grouped(x, self.pools) for x in new)
        both = _Finished(*(torch.cat(pair, -1) for pair in zip(finished, pooled, strict=True)))
        order = both.score.topk(self.width, dim=-1).indices
        return _Finished(*(x.gather(-1, order) for x in both))

    def is_done(self, live: Tensor, finished: _Finished) -> Tensor:
        """(A,): whether no live beam can enter the n best: log-probabilities only fall, and the divisor is bounded."""
        if self.greedy:
            return finished.score[:, 0, 0].isfinite()
        best = _grouped(live, self.pools).amax(-1)  # (A,P)
        needed = -(-self.options.n // self.pools)
        bound = best / self.options.max_length**self.options.length_penalty
        settled: Tensor = (finished.score[..., needed - 1] >= bound) | best.isneginf()
        return settled.all(-1)

    def best(self, live: Tensor, finished: _Finished, length: int) -> _Found:
        """The n best of each image: finished ones by rank in their pool, then by score; behind them those cut off."""
        if self.automaton is not None:
            live = live.masked_fill(~self.automaton.accepting[:, None], NEVER)  # a requirement is not met
        cut = live.flatten(1)  # (A,K)
        ended, rank = finished.score.flatten(1), torch.arange(self.width, device=cut.device).repeat(self.pools)
        parts = zip(
            (ended, finished.log_prob.flatten(1), finished.words.flatten(1), finished.row.flatten(1), ended == ended),
            (
                cut / length**self.options.length_penalty,
                cut,
                torch.full_like(cut, length, dtype=torch.long),
                torch.arange(self.rows, device=cut.device).expand_as(cut),
                torch.zeros_like(cut, dtype=torch.bool),
            ),
            strict=True,
        )
        found = _Found(*(torch.cat(pair, 1) for pair in parts))
        rank = torch.cat((rank, torch.full((self.rows,), self.width, device=cut.device))).expand_as(found.score)
        rank = rank.masked_fill(found.score.isneginf(), self.width + 1)
        by_score = found.score.sort(dim=1, descending=True, stable=True).indices
        order = by_score.gather(1, rank.gather(1, by_score).sort(dim=1, stable=True).indices)[:, : self.options.n]
        return _Found(*(x.gather(1, order) for x in found))


def _top(wanted: Tensor, log_prob: Tensor, words: Tensor, parents: Tensor, count: int) -> _Candidates:
    """The `count` most wanted of the candidates (A,G,M); padded with impossible ones if there are fewer."""
    missing = count - wanted.shape[-1]
    if missing > 0:
        wanted, log_prob = (pad(x, (0, missing), value=NEVER) for x in (wanted, log_prob))
        words, parents = (pad(x, (0, missing)) for x in (words, parents))
    order = wanted.topk(count, dim=-1).indices
    return _Candidates(*(x.gather(-1, order) for x in (log_prob, words, parents)))


def _grouped(x: Tensor, groups: int) -> Tensor:
    """(A,K,…) -> (A,groups,·)"""
    return x.reshape(len(x), groups, -1)


def _row_of(words: Tensor, rows: int) -> Tensor:
    """(A,K,M): each word's row."""
    return torch.arange(rows, device=words.device)[:, None].expand_as(words)


def _read_back(paths: _Paths, found: _Found) -> list[list[Hypothesis]]:
    """Follows each hypothesis from its last word to its first."""
    row, tokens, log_probs, looked = found.row, [], [], []
    for t in reversed(range(len(paths.tokens))):
        said = found.words > t
        tokens.append(paths.tokens[t].gather(1, row))
        log_probs.append(paths.log_prob[t].gather(1, row).masked_fill(~said, 0.0))
        row = torch.where(said, paths.parents[t].gather(1, row), row)
        looked.append(take(paths.looked[t], row) if paths.looked else row)
    ids = torch.stack(tokens[::-1], -1).tolist()  # (B,n,T)
    sums = torch.stack(log_probs[::-1], -1).tolist()
    regions = torch.stack(looked[::-1], 2).float().cpu() if paths.looked else None  # (B,n,T,R)
    score, log_prob, words, _, finished = (x.tolist() for x in found)
    hypotheses: list[list[Hypothesis]] = []
    for b in range(paths.images):
        hypotheses.append([])
        for k, count in enumerate(words[b]):
            if score[b][k] == NEVER:
                continue
            upto = [0.0, *sums[b][k][:count], *([log_prob[b][k]] if finished[b][k] else [])]
            hypotheses[b].append(
                Hypothesis(
                    tokens=tuple(ids[b][k][:count]),
                    finished=finished[b][k],
                    log_prob=log_prob[b][k],
                    token_log_probs=tuple(after - before for before, after in itertools.pairwise(upto)),
                    score=score[b][k],
                    attention=None if regions is None else regions[b, k, :count].clone(),
                )
            )
    return hypotheses
