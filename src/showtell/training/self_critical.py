"""Self-critical training: a captioner learns to prefer captions that earn a reward.

B images · K captions of an image · T steps
"""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from showtell.config import PhaseConfig, SearchConfig
from showtell.data.annotations import CaptionedImage
from showtell.data.dataset import Batch
from showtell.data.vocabulary import Vocabulary
from showtell.decoding import SearchOptions
from showtell.metrics.reward import Reward
from showtell.model.captioner import CaptionerModel
from showtell.search import beam_search
from showtell.training.graphs import Recorded
from showtell.training.lesson import Autocast, Lesson
from showtell.training.losses import cross_entropy
from showtell.training.own_captions import OwnCaptions, plain
from showtell.writing import PAD


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
        self._own = OwnCaptions(vocabulary, phase=phase, max_length=search.max_length)
        self.place = {image.image_id: i for i, image in enumerate(images)}
        references = [[ids[1:] for ids in vocabulary.encode_all(image.captions)] for image in images]
        self.rewards = Reward.from_references(references, end=vocabulary.end_id)

    def __call__(self, model: CaptionerModel, batch: Batch, *, progress: float) -> Lesson:
        """The batch's own captions are not used: the references are all captions of an image."""
        model.eval()
        captioner = plain(model)
        with self.autocast():
            features = (model if isinstance(model, Recorded) else captioner).features(batch.inputs)
        with torch.inference_mode(), self.autocast():
            drawn = self._own.draw(model, features)  # (B,K,T)
            rewards = self.reward(drawn, batch.image_ids)  # (B,K)
            advantages = rewards - self._baseline(rewards, captioner, features, batch.image_ids)
        fed, targets = self._own.teach(drawn)
        with torch.backends.cudnn.flags(enabled=False):  # cuDNN's LSTM has no gradient in `eval()`
            output = model(features, fed)
        words = targets != PAD
        # What is never drawn is not part of the policy: probability pushed there would be lost unnoticed.
        never = torch.tensor(self._own.unspoken, device=targets.device)
        logits = output.logits[words].index_fill(-1, never, float("-inf"))
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

    def _baseline(
        self, rewards: NDArray[np.float64], captioner: CaptionerModel, features: Tensor, image_ids: Sequence[str]
    ) -> NDArray[np.float64]:
        if self.phase.baseline == "others":
            others: NDArray[np.float64] = (rewards.sum(1, keepdims=True) - rewards) / (rewards.shape[1] - 1)
            return others
        v = self.vocabulary
        options = SearchOptions(beam=1, max_length=self._own.options.max_length)
        found = beam_search(
            captioner.decoder, features, options=options, start_id=v.start_id, end_id=v.end_id,
            banned=self._own.unspoken,
        )  # fmt: skip
        greedy = torch.full((len(found), 1, options.max_length), v.end_id)  # a cut caption has no room for `<end>`
        for row, (best, *_) in zip(greedy, found, strict=True):
            row[0, : len(best.tokens)] = torch.tensor(best.tokens)
        return self.reward(greedy, image_ids)
