"""Caption metrics as functions over lists of strings; no Java, no torch."""

from showtell.metrics.bleu import bleu
from showtell.metrics.cider import cider_d
from showtell.metrics.confidence import Kept, Selection, keep_above, select_surest
from showtell.metrics.diversity import Ranked, SetScores, score_people, score_sets
from showtell.metrics.evaluate import Protocol, Report, evaluate
from showtell.metrics.floors import best_constant_caption, leave_one_out
from showtell.metrics.predictions import read_predictions, read_sets
from showtell.metrics.rouge import rouge_l
from showtell.metrics.significance import Comparison, Interval, bootstrap, compare, verdict
from showtell.metrics.statistics import TextStatistics, describe
from showtell.metrics.tokenize import tokenize

__all__ = [
    "Comparison",
    "Interval",
    "Kept",
    "Protocol",
    "Ranked",
    "Report",
    "Selection",
    "SetScores",
    "TextStatistics",
    "best_constant_caption",
    "bleu",
    "bootstrap",
    "cider_d",
    "compare",
    "describe",
    "evaluate",
    "keep_above",
    "leave_one_out",
    "read_predictions",
    "read_sets",
    "rouge_l",
    "score_people",
    "score_sets",
    "select_surest",
    "tokenize",
    "verdict",
]
