"""Required and forbidden phrases as a small automaton over token ids.

Anderson et al., "Guided Open Vocabulary Image Captioning with Constrained Beam Search", 2017, section 3. A state
records which requirements are met and how far into a phrase of several tokens the caption is. Where tokens are parts of
words, "dog" is not said before it is known that the word does not go on, to "doghouse".
"""

from __future__ import annotations

from collections.abc import Collection, Sequence
from dataclasses import dataclass, fields

import torch
from torch import Tensor

from showtell.decoding import Phrase

_State = tuple[frozenset[int], Phrase]  # requirements met; the end of the caption that is, or may grow into, a phrase


@dataclass(frozen=True)
class Automaton:
    """Captions start in state 0 and may end only in `accepting` states.

    Token `tokens[i]` leads from state s to `after[s, i]` (-1: forbidden there), any other token to `otherwise[s]`, or, if
    it is one of `continuing`, to `onward[s]`.
    """

    accepting: Tensor  # (states,) bool
    tokens: Tensor  # (S,), including `<end>`
    after: Tensor  # (states,S)
    otherwise: Tensor  # (states,)
    continuing: Tensor  # (C,), none of `tokens`
    onward: Tensor  # (states,)

    @property
    def states(self) -> int:
        """The number of states."""
        return len(self.accepting)

    @classmethod
    def build(
        cls,
        required: Sequence[Sequence[Phrase]],
        forbidden: Sequence[Phrase],
        *,
        end_id: int,
        continuing: Collection[int] = (),
    ) -> Automaton:
        """Accepts captions with at least one phrase of each of `required` and none of `forbidden`.

        `continuing` are tokens that go on with the word before them. Where there are some, a phrase is complete only when
        another token, or the end, follows it; otherwise with its last token.
        """
        rules = _Rules(required, forbidden, frozenset(continuing))
        phrases = [*forbidden, *(phrase for any_of in required for phrase in any_of)]
        tokens = sorted({token for phrase in phrases for token in phrase} - {end_id})
        states: list[_State] = [(frozenset(), ())]
        number = {states[0]: 0}

        def place(state: _State | None) -> int:
            if state is None:
                return -1
            if state not in number:
                number[state] = len(states)
                states.append(state)
            return number[state]

        accepting, after, otherwise, onward = [], [], [], []
        for here, state in enumerate(states):  # `states` grows meanwhile
            closed = rules.closed(state)
            accepting.append(closed is not None and len(closed[0]) == len(required))
            ends = here if accepting[-1] else -1
            after.append([ends, *(place(rules.next(state, token)) for token in tokens)])
            otherwise.append(place(closed and (closed[0], ())))
            onward.append(place((state[0], ())))
        return cls(
            torch.tensor(accepting), torch.tensor([end_id, *tokens]), torch.tensor(after), torch.tensor(otherwise),
            torch.tensor(sorted({*continuing} - {*tokens}), dtype=torch.long), torch.tensor(onward),
        )  # fmt: skip

    def to(self, device: torch.device) -> Automaton:
        """The same automaton on `device`."""
        return Automaton(*(getattr(self, field.name).to(device) for field in fields(self)))


class _Rules:
    """How states follow each other."""

    def __init__(
        self, required: Sequence[Sequence[Phrase]], forbidden: Sequence[Phrase], continuing: frozenset[int]
    ) -> None:
        self.required, self.forbidden = [frozenset(any_of) for any_of in required], frozenset(forbidden)
        self.continuing = continuing
        self._begun: dict[tuple[frozenset[int], bool], frozenset[Phrase]] = {}

    def next(self, state: _State, token: int) -> _State | None:
        """The state after one more token; None where it completes a forbidden phrase."""
        if token not in self.continuing:
            before = self.closed(state)
            if before is None:
                return None
            state = before
        met, begun = state
        grown = (met, self._growing((*begun, token), met, whole=True))
        return grown if self.continuing else self.closed(grown)

    def closed(self, state: _State) -> _State | None:
        """The state with the phrases at its end complete; None where one of them is forbidden."""
        met, said = state
        ends = {said[k:] for k in range(len(said))}
        if not ends.isdisjoint(self.forbidden):
            return None
        met |= {i for i, any_of in enumerate(self.required) if not ends.isdisjoint(any_of)}
        return met, self._growing(said, met, whole=False)

    def _growing(self, said: Phrase, met: frozenset[int], *, whole: bool) -> Phrase:
        """The longest end of `said` that may grow into a phrase, or, with `whole`, that is one."""
        begun = self._beginnings(met, whole)
        return next((said[k:] for k in range(len(said)) if said[k:] in begun), ())

    def _beginnings(self, met: frozenset[int], whole: bool) -> frozenset[Phrase]:
        """Those of all phrases that still matter, looked up instead of compared: there may be hundreds."""
        if (met, whole) not in self._begun:
            wanted = self.forbidden.union(*(any_of for i, any_of in enumerate(self.required) if i not in met))
            self._begun[met, whole] = frozenset(p[:k] for p in wanted for k in range(1, len(p) + whole))
        return self._begun[met, whole]
