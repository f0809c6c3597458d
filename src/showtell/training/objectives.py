"""Training objectives: predict the captions that people wrote, or prefer captions that earn a reward.

An objective maps (model, batch) to a `Lesson`; the loop knows nothing else about it.
B images · K rows of an image · T steps · V vocabulary
"""

from __future__ import annotations

import functools
from collections.abc import Callable, Sequence
from contextlib import AbstractContextManager
from typing import Any, NamedTuple, Protocol

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from showtell.config import PhaseConfig, SearchConfig, TrainConfig
from showtell.data.annotations import CaptionedImage
from showtell.data.dataset import Batch
from showtell.data.vocabulary import Vocabulary
from showtell.decoding import SearchOptions
from showtell.generate import unspoken
from showtell.metrics.reward import Reward
from showtell.model.captioner import CaptionerModel
from showtell.search import beam_search, draw
from showtell.training.graphs import Recorded
from showtell.training.losses import PAD, caption_loss, cross_entropy

Autocast = Callable[[], AbstractContextManager[Any]]


class Lesson(NamedTuple):
    """The loss to minimise, and what is reported: a mean `value` over `weight` items."""

    loss: Tensor
    value: float  # nats per word, or the mean reward of the sampled captions
    weight: int  # words, or captions


class Objective(Protocol):
    """`model` may be wrapped for several processes; `progress` is the share of the phase that is over, 0 … 1."""

    def __call__(self, model: CaptionerModel, batch: Batch, *, progress: float) -> Lesson:
        """The loss of one batch, on the model's device."""


class CrossEntropy:
    """Teacher forcing: predicts each word of a training caption from the words before it."""

    def __init__(self, train: TrainConfig, phase: PhaseConfig, vocabulary: Vocabulary) -> None:
        self.train, self.phase, self.vocabulary = train, phase, vocabulary

    def __call__(self, model: CaptionerModel, batch: Batch, *, progress: float) -> Lesson:
        """See `caption_loss`. Input words may be dropped or replaced, as the recipe says; targets never are."""
        fed, targets = batch.tokens[..., :-1], batch.tokens[..., 1:]
        own = self.phase.scheduled_sampling * progress
        if own:
            fed = feed_own_words(model, batch.inputs, fed, own, unspoken(self.vocabulary))
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
    """`fed` (B,K,T) with each word but `<start>` replaced, with probability `share`, by one drawn from the model.

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


class SelfCritical:
    """Self-critical training: drawn captions become likelier if they earn more than the baseline, else less likely.

    Rennie et al., "Self-critical Sequence Training for Image Captioning", 2017, equation (7). The baseline is the
    greedy caption's reward, as there, or the mean reward of the image's other samples (Luo, "A Better Variant of
    Self-Critical Sequence Training", 2020). Document frequencies are those of the train split; the reward counts
    `<end>` as a word. Deviations: captions are drawn, and their gradient is taken, without dropout, so that what is
    rewarded is what was drawn; and both use a softmax that `temperature` may sharpen. After label smoothing, a tenth of
    the probability lies on words that make no sense: without sharpening, two captions in three contain one of them, and
    the model first learns to be brief. Label smoothing, word dropout and doubly stochastic attention apply to
    cross-entropy only.
    """

    def __init__(
        self,
        images: Sequence[CaptionedImage],
        vocabulary: Vocabulary,
        *,
        phase: PhaseConfig,
        search: SearchConfig,
        autocast: Autocast,
    ) -> None:
        self.vocabulary, self.phase, self.autocast = vocabulary, phase, autocast
        self.options = SearchOptions(n=phase.samples, max_length=search.max_length, temperature=phase.temperature)
        # Never drawn, so not part of the policy: probability pushed there would be lost unnoticed.
        self._unspoken = unspoken(vocabulary)
        self.place = {image.image_id: i for i, image in enumerate(images)}
        references = [[ids[1:] for ids in vocabulary.encode_all(image.captions)] for image in images]
        self.rewards = Reward.from_references(references, end=vocabulary.end_id)

    def __call__(self, model: CaptionerModel, batch: Batch, *, progress: float) -> Lesson:
        """The batch's own captions are not used: the references are all captions of an image."""
        model.eval()
        captioner: CaptionerModel = getattr(model, "module", model)
        recorded = model if isinstance(model, Recorded) else None
        with self.autocast():
            features = (recorded or captioner).features(batch.inputs)
        with torch.inference_mode(), self.autocast():
            drawn = self._draw(captioner, features, recorded)  # (B,K,T)
            rewards = self.reward(drawn, batch.image_ids)  # (B,K)
            advantages = rewards - self._baseline(rewards, captioner, features, batch.image_ids)
        v, drawn = self.vocabulary, drawn.clone()  # unlike an inference tensor, a clone may be used with autograd
        fed, targets = teach(drawn, v.start_id, v.end_id)
        with torch.backends.cudnn.flags(enabled=False):  # cuDNN's LSTM has no gradient in `eval()`
            output = model(features, fed)
        words = targets != PAD
        logits = output.logits[words].index_fill(-1, torch.tensor(self._unspoken, device=targets.device), float("-inf"))
        surprise = cross_entropy(logits / self.phase.temperature, targets[words])
        weights = torch.from_numpy(advantages).to(surprise)[..., None].expand(words.shape)[words]
        return Lesson((weights * surprise).sum() / len(surprise), float(rewards.mean()), rewards.size)

    def reward(self, tokens: Tensor, image_ids: Sequence[str]) -> NDArray[np.float64]:
        """tokens (B,K,T) -> rewards (B,K): the recipe's mixture of CIDEr-D (0 … 10) and BLEU-4 (0 … 1)."""
        images, rows, steps = tokens.shape
        captions = tokens.reshape(images * rows, steps).cpu().numpy()
        of = np.repeat([self.place[image_id] for image_id in image_ids], rows)
        total = np.zeros(len(captions))
        for name, weight in self.phase.reward.items():
            if weight:
                total += weight * getattr(self.rewards, name)(captions, of)
        return total.reshape(images, rows)

    def _draw(self, captioner: CaptionerModel, features: Tensor, recorded: Recorded | None = None) -> Tensor:
        v = self.vocabulary

        def drawn(features: Tensor, *, together: bool = False) -> Tensor:
            return draw(
                captioner.decoder, features, options=self.options, start_id=v.start_id, end_id=v.end_id,
                banned=self._unspoken, together=together,
            ).tokens  # fmt: skip

        if recorded is None:
            return drawn(features)
        tokens = recorded.replay(functools.partial(drawn, together=True), features, otherwise=drawn)
        longest = int((tokens != v.end_id).sum(-1).max()) + 1  # with the `<end>`
        return tokens[..., :longest]

    def _baseline(
        self, rewards: NDArray[np.float64], captioner: CaptionerModel, features: Tensor, image_ids: Sequence[str]
    ) -> NDArray[np.float64]:
        if self.phase.baseline == "others":
            others: NDArray[np.float64] = (rewards.sum(1, keepdims=True) - rewards) / (rewards.shape[1] - 1)
            return others
        v = self.vocabulary
        options = SearchOptions(beam=1, max_length=self.options.max_length)
        found = beam_search(
            captioner.decoder, features, options=options, start_id=v.start_id, end_id=v.end_id, banned=self._unspoken
        )
        greedy = torch.full((len(found), 1, self.options.max_length), v.end_id)  # a cut caption has no room for `<end>`
        for row, (best, *_) in zip(greedy, found, strict=True):
            row[0, : len(best.tokens)] = torch.tensor(best.tokens)
        return self.reward(greedy, image_ids)


def teach(drawn: Tensor, start: int, end: int) -> tuple[Tensor, Tensor]:
    """Drawn captions (B,K,T), filled up with `<end>` -> input words and targets (B,K,T), padded after `<end>`."""
    after = (drawn == end).cumsum(-1) - (drawn == end).long() > 0  # an `<end>` came before
    targets = drawn.masked_fill(after, PAD)
    fed = torch.cat((torch.full_like(drawn[..., :1], start), targets[..., :-1]), -1)
    return fed.masked_fill(fed == end, PAD), targets


def build_objective(
    phase: PhaseConfig,
    *,
    train: TrainConfig,
    search: SearchConfig,
    vocabulary: Vocabulary,
    images: Sequence[CaptionedImage],
    autocast: Autocast,
) -> Objective:
    """The objective of a phase; `images` are those trained on, `autocast` gives a context with the run's precision."""
    if phase.objective == "self-critical":
        return SelfCritical(images, vocabulary, phase=phase, search=search, autocast=autocast)
    return CrossEntropy(train, phase, vocabulary)
