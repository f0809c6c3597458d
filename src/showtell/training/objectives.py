"""The objectives of phases: to predict the captions that people wrote, to earn a reward, or to imitate teachers.

B images · K captions of an image · T steps · V vocabulary
"""

from __future__ import annotations

from collections.abc import Sequence

import torch
from torch import Tensor

from showtell.config import PhaseConfig, SearchConfig, TrainConfig
from showtell.data.annotations import CaptionedImage
from showtell.data.dataset import Batch
from showtell.data.vocabulary import Vocabulary
from showtell.generate import unspoken
from showtell.model.captioner import CaptionerModel
from showtell.training.distillation import Distillation
from showtell.training.lesson import Autocast, Lesson, Objective
from showtell.training.losses import caption_loss
from showtell.training.self_critical import SelfCritical
from showtell.training.teachers import Teachers
from showtell.writing import PAD


class CrossEntropy:
    """Teacher forcing: predicts each word of a training caption from the words before it."""

    def __init__(self, train: TrainConfig, phase: PhaseConfig, vocabulary: Vocabulary) -> None:
        self.train, self.phase, self.vocabulary = train, phase, vocabulary

    def __call__(self, model: CaptionerModel, batch: Batch, *, progress: float) -> Lesson:
        """See `caption_loss`. Input words may be dropped or replaced, as the recipe says; targets never are."""
        fed, targets = batch.tokens[..., :-1], batch.tokens[..., 1:]
        own = self.phase.scheduled_sampling * progress
        if own:
            never = (*unspoken(self.vocabulary), self.vocabulary.end_id)  # nothing is said after `<end>`
            fed = feed_own_words(model, batch.inputs, fed, own, never)
            model.train()
        if self.train.word_dropout:
            fed = drop_words(fed, self.train.word_dropout, self.vocabulary.unk_id)
        loss = caption_loss(
            model(batch.inputs, fed), targets,
            label_smoothing=self.train.label_smoothing, doubly_stochastic=self.train.doubly_stochastic,
        )  # fmt: skip
        return Lesson(loss, loss.item(), int((targets != PAD).sum()))


def drop_words(fed: Tensor, share: float, unknown: int) -> Tensor:
    """`fed` (B,K,T) with each word but `<start>` replaced by `<unk>` with probability `share`.

    Bowman et al., "Generating Sentences from a Continuous Space", 2016, section 3.2.
    """
    hit = (torch.rand(fed.shape, device=fed.device) < share) & (fed != PAD)
    hit[..., 0] = False
    return fed.masked_fill(hit, unknown)


@torch.no_grad()
def feed_own_words(model: CaptionerModel, inputs: Tensor, fed: Tensor, share: float, banned: Sequence[int]) -> Tensor:
    """`fed` (B,K,T) with each word but `<start>` replaced, with probability `share`, by one drawn from the model, never one
    of `banned`.

    Scheduled sampling (Bengio et al., 2015) in two parallel passes (Mihaylova & Martins, "Scheduled Sampling for
    Transformers", 2019): the first pass draws a word at each position, given the training caption's words before it.
    Leaves the model in `eval()`.
    """
    logits = model.eval()(inputs, fed).logits.float()  # no dropout, and no second update of running averages
    logits[..., list(banned)] = float("-inf")
    drawn = torch.multinomial(logits.softmax(-1).flatten(0, 2), 1).view(fed.shape)  # the words after those in `fed`
    own = torch.cat((fed[..., :1], drawn[..., :-1]), -1)
    hit = (torch.rand(fed.shape, device=fed.device) < share) & (fed != PAD)
    return torch.where(hit, own, fed)


def build_objective(
    phase: PhaseConfig,
    *,
    train: TrainConfig,
    search: SearchConfig,
    vocabulary: Vocabulary,
    images: Sequence[CaptionedImage],
    teachers: Teachers | None,
    autocast: Autocast,
) -> Objective:
    """The objective of a phase; `images` are those trained on, `autocast` gives a context with the run's precision."""
    if phase.objective == "self-critical":
        return SelfCritical(images, vocabulary, phase=phase, search=search, autocast=autocast)
    if phase.objective == "distillation":
        assert teachers is not None, "checked before the run began"
        return Distillation(teachers, vocabulary, phase=phase, search=search, autocast=autocast)
    return CrossEntropy(train, phase, vocabulary)
