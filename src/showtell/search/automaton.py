"""Required and forbidden phrases as a small automaton over token ids.

Anderson et al., "Guided Open Vocabulary Image Captioning with Constrained Beam Search", 2017, section 3. A state
records which requirements are met and how far into a phrase of several tokens the caption is.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import torch
from torch import Tensor

from showtell.decoding import Phrase

_State = tuple[frozenset[int], Phrase]  # requirements met; the end of the caption, if it may grow into a phrase


@dataclass(frozen=True)
class Automaton:
    """Captions start in state 0 and may end only in `accepting` states.

    Token `tokens[i]` leads from state s to `after[s, i]` (-1: forbidden there), any other token to `otherwise[s]`.
    """

    accepting: Tensor  # (states,) bool
    tokens: Tensor  # (S,), including `<end>`
    after: Tensor  # (states,S)
    otherwise: Tensor  # (states,)

    @property
    def states(self) -> int:
        """The number of states."""
        return len(self.accepting)

    @classmethod
    def build(cls, required: Sequence[Sequence[Phrase]], forbidden: Sequence[Phrase], *, end_id: int) -> Automaton:
        """Accepts captions with at least one phrase of each of `required` and none of `forbidden`."""
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

        after, otherwise = [], []
        for here, state in enumerate(states):  # `states` grows meanwhile
            ends = here if len(state[0]) == len(required) else -1
            after.append([ends, *(place(_next(state, token, required, forbidden)) for token in tokens)])
            otherwise.append(place((state[0], ())))
        accepting = torch.tensor([len(met) == len(required) for met, _ in states])
        return cls(accepting, torch.tensor([end_id, *tokens]), torch.tensor(after), torch.tensor(otherwise))

    def to(self, device: torch.device) -> Automaton:
        """The same automaton on `device`."""
        return Automaton(*(x.to(device) for x in (self.accepting, self.tokens, self.after, self.otherwise)))


def _next(
    state: _State, token: int, required: Sequence[Sequence[Phrase]], forbidden: Sequence[Phrase]
) -> _State | None:
    """The state after one more token; None where it would complete a forbidden phrase."""
    met, begun = state
    said = (*begun, token)
    if any(_ends_with(said, phrase) for phrase in forbidden):
        return None
    met |= {i for i, any_of in enumerate(required) if any(_ends_with(said, phrase) for phrase in any_of)}
    open_phrases = [*forbidden, *(p for i, any_of in enumerate(required) if i not in met for p in any_of)]
    ends = (said[k:] for k in range(len(said)))
    return met, next((end for end in ends if any(_begins_with(phrase, end) for phrase in open_phrases)), ())


def _ends_with(said: Phrase, phrase: Phrase) -> bool:
    return said[-len(phrase) :] == phrase


def _begins_with(phrase: Phrase, begun: Phrase) -> bool:
    return len(begun) < len(phrase) and phrase[: len(begun)] == begun
