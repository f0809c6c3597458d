"""Searches for captions, or samples them, with any step decoder; knows only the StepDecoder protocol and token ids."""

from showtell.search.beam import beam_search
from showtell.search.ensemble import EnsembleDecoder, Member, mean_log_probs
from showtell.search.protocol import Hypothesis, StepDecoder, StepLike
from showtell.search.sample import Drawn, draw, sample

__all__ = [
    "Drawn",
    "EnsembleDecoder",
    "Hypothesis",
    "Member",
    "StepDecoder",
    "StepLike",
    "beam_search",
    "draw",
    "mean_log_probs",
    "sample",
]
