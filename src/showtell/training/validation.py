"""Validation: captions of the val split, generated as a user would get them, and their scores."""

from __future__ import annotations

from collections.abc import Callable

from accelerate import Accelerator
from accelerate.utils import broadcast_object_list
from torch import Tensor

import showtell
from showtell.config import SearchConfig
from showtell.decoding import SearchOptions
from showtell.generate import best_captions
from showtell.metrics import Protocol, Report, evaluate
from showtell.model.captioner import CaptionerModel
from showtell.model.packing import packed
from showtell.training.samples import Samples


def validate(
    model: CaptionerModel,
    samples: Samples,
    *,
    search: SearchConfig,
    encode: Callable[[Tensor], Tensor],
    accelerator: Accelerator,
) -> tuple[list[str], dict[str, float], Report | None]:
    """Captions of the val split, their scores, and, in the main process, the report.

    The main process validates for all of them: scores that differed in the last bit would lead processes to different phases.
    """
    scored = None
    if accelerator.is_main_process:
        scored = _validate_here(model, samples, search=search, encode=encode, accelerator=accelerator)
    ((candidates, scores),) = broadcast_object_list([scored and (scored[0], dict(scored[1].scores))])
    return candidates, scores, scored and scored[1]


def _validate_here(
    model: CaptionerModel,
    samples: Samples,
    *,
    search: SearchConfig,
    encode: Callable[[Tensor], Tensor],
    accelerator: Accelerator,
) -> tuple[list[str], Report]:
    features = samples.val_features(encode=encode, encoder=model.encoder)
    candidates = best_captions(
        packed(model.decoder.eval()),
        (chunk.to(accelerator.device) for chunk in features),
        samples.vocabulary,
        SearchOptions(**search.model_dump()),
    )
    references = [list(image.captions) for image in samples.val]
    protocol = Protocol.of(
        references, dataset=samples.dataset, split="val", decoding=search.one_view().describe(),
        version=showtell.__version__,
    )  # fmt: skip
    return candidates, evaluate(candidates, references, protocol=protocol)
