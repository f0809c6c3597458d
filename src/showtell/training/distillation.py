"""Distillation: a captioner learns to say what several say together, so that one does the work of all.

B images · K captions of an image · T steps · R regions · F feature size · V vocabulary · N words
"""

from __future__ import annotations

import torch
from torch.nn import functional

from showtell.config import PhaseConfig, SearchConfig
from showtell.data.dataset import Batch
from showtell.data.vocabulary import Vocabulary
from showtell.model.captioner import CaptionerModel
from showtell.training.lesson import Autocast, Lesson
from showtell.training.own_captions import OwnCaptions
from showtell.training.teachers import Teachers
from showtell.writing import PAD


class Distillation:
    """At each word of captions that the model itself draws, its probabilities approach the teachers' mean.

    The loss is the Kullback-Leibler divergence from the teachers' distribution to the model's (Hinton et al.,
    "Distilling the Knowledge in a Neural Network", 2015), on the model's own captions: what is imitated is how to go on
    from what it says, not from what it would never say (Agarwal et al., "On-Policy Distillation of Language Models",
    2024). Both distributions are those of the unsharpened softmax, which searches use; `temperature` is that of drawing.
    People's captions are not learned. There is no dropout: with it, what is learned is another captioner than the one
    that draws, and scores fell (experiments/LOG.md). Label smoothing, word dropout and doubly stochastic attention apply
    to cross-entropy only.
    """

    def __init__(
        self,
        teachers: Teachers,
        vocabulary: Vocabulary,
        *,
        phase: PhaseConfig,
        search: SearchConfig,
        autocast: Autocast,
    ) -> None:
        self.teachers, self.autocast = teachers, autocast
        self._own = OwnCaptions(vocabulary, phase=phase, max_length=search.max_length)

    def __call__(self, model: CaptionerModel, batch: Batch, *, progress: float) -> Lesson:
        """The value is the divergence in nats per word."""
        model.eval()
        with torch.inference_mode(), self.autocast():
            drawn = self._own.draw(model, batch.inputs)  # (B,K,T)
        fed, targets = self._own.teach(drawn)
        words = targets != PAD
        with self.autocast():
            wanted = self.teachers.log_probs(batch.of_teachers, fed, words)  # (N,V)
        with torch.backends.cudnn.flags(enabled=False):  # cuDNN's LSTM has no gradient in `eval()`
            said = model(batch.inputs, fed).logits[words].float().log_softmax(-1)
        loss = functional.kl_div(said, wanted, reduction="batchmean", log_target=True)
        return Lesson(loss, loss.item(), len(wanted))
