"""showtell trains, measures and explains image captioners: a CNN reads a photo, an LSTM tells what it shows.

The public names below are imported on first use, so that `showtell --help` never waits for torch.
"""

from __future__ import annotations

import importlib
from typing import TYPE_CHECKING, Any

__version__ = "0.1.0"

if TYPE_CHECKING:
    from showtell.captioner import Captioner
    from showtell.captioning import Caption, Word
    from showtell.config import Recipe
    from showtell.data.annotations import Annotations, CaptionedImage, read_annotations
    from showtell.decoding import Sampling, Wishes
    from showtell.errors import DataError, ImageError, ShowtellError
    from showtell.evaluation import evaluate_captioner
    from showtell.explaining import Explanation, explain
    from showtell.metrics.evaluate import Report, evaluate
    from showtell.recipe import load_recipe
    from showtell.scores import Evaluation
    from showtell.training.run import TrainResult, train
    from showtell.training.runlog import EpochReport

_HOMES = {
    "Annotations": "showtell.data.annotations",
    "Caption": "showtell.captioning",
    "CaptionedImage": "showtell.data.annotations",
    "Captioner": "showtell.captioner",
    "DataError": "showtell.errors",
    "EpochReport": "showtell.training.runlog",
    "Evaluation": "showtell.scores",
    "Explanation": "showtell.explaining",
    "ImageError": "showtell.errors",
    "Recipe": "showtell.config",
    "Report": "showtell.metrics",
    "Sampling": "showtell.decoding",
    "ShowtellError": "showtell.errors",
    "TrainResult": "showtell.training.run",
    "Wishes": "showtell.decoding",
    "Word": "showtell.captioning",
    "evaluate": "showtell.metrics",
    "evaluate_captioner": "showtell.evaluation",
    "explain": "showtell.explaining",
    "load_recipe": "showtell.recipe",
    "read_annotations": "showtell.data.annotations",
    "train": "showtell.training.run",
}

__all__ = [
    "Annotations",
    "Caption",
    "CaptionedImage",
    "Captioner",
    "DataError",
    "EpochReport",
    "Evaluation",
    "Explanation",
    "ImageError",
    "Recipe",
    "Report",
    "Sampling",
    "ShowtellError",
    "TrainResult",
    "Wishes",
    "Word",
    "__version__",
    "evaluate",
    "evaluate_captioner",
    "explain",
    "load_recipe",
    "read_annotations",
    "train",
]


def __getattr__(name: str) -> Any:
    if name not in _HOMES:
        raise AttributeError(f"module 'showtell' has no attribute '{name}'")
    return getattr(importlib.import_module(_HOMES[name]), name)


def __dir__() -> list[str]:
    return sorted(__all__)
