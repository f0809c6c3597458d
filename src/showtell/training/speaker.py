"""A captioner as self-critical training has it: images go in; out come captions that it draws, and how they surprise it.

B images · K captions of an image · T steps · N words of all captions · V vocabulary
"""

from __future__ import annotations

from typing import NamedTuple

import torch
from torch import Tensor, nn

from showtell.data.vocabulary import Vocabulary
from showtell.decoding import SearchOptions
from showtell.generate import unspoken
from showtell.model.captioner import CaptionerModel
from showtell.search import draw, pick
from showtell.search.protocol import start_rows
from showtell.training.losses import PAD, cross_entropy


class Spoken(NamedTuple):
    """What was drawn."""

    tokens: Tensor  # (B,K,T); what follows an `<end>` is `<end>`
    words: Tensor  # (B,K,T) whether a word stands there; `<end>` is one
    surprise: Tensor  # (N,) nats of each word, in their order, with their gradient
    features: Tensor  # (B,R,F) of the images, without one


class Speaker(nn.Module):
    """Draws `options.n` captions of each image from the policy: the softmax of logits / `options.temperature` over the words that may be said.

    With `dropout` the decoder's own dropout is on, and what is drawn is learnt by the part of it that was there: one pass, which
    records the gradient while it draws. Without it, what is drawn, which leaves the finished captions alone, is taught in a second
    pass, all steps at once.
    """

    def __init__(
        self, model: CaptionerModel, vocabulary: Vocabulary, options: SearchOptions, *, dropout: bool = False
    ) -> None:
        super().__init__()
        self.model, self.options, self.dropout = model, options, dropout
        self.start_id, self.end_id = vocabulary.start_id, vocabulary.end_id
        # Never drawn, so no part of the policy: probability that is pushed there would be lost unseen.
        self.unspoken = unspoken(vocabulary)

    def forward(self, inputs: Tensor) -> Spoken:
        """inputs: images (B,3,S,S), maps of the encoder's stem (B,C,h,w), or features (B,R,F)."""
        features = self.model.encoder(inputs) if inputs.ndim == 4 else inputs
        self.model.decoder.train(self.dropout)
        return self._in_one_pass(features) if self.dropout else self._in_two(features)

    def _in_one_pass(self, features: Tensor) -> Spoken:
        decoder = self.model.decoder
        memory, state, tokens = start_rows(decoder, features, self.options.n, self.start_id)
        ended = torch.zeros_like(tokens, dtype=torch.bool)
        said, words, surprise = [], [], []
        for _ in range(self.options.max_length):
            step = decoder.step(tokens, state, memory)
            policy = self._policy(step.logits)  # (B,K,V)
            tokens = pick(policy.detach().softmax(-1)).masked_fill(ended, self.end_id)
            surprise.append(cross_entropy(policy.flatten(0, 1), tokens.flatten()).view_as(tokens))
            said.append(tokens)
            words.append(~ended)
            state, ended = step.state, ended | (tokens == self.end_id)
            if ended.all():
                break
        spoken = torch.stack(words, -1)
        return Spoken(torch.stack(said, -1), spoken, torch.stack(surprise, -1)[spoken], features.detach())

    def _in_two(self, features: Tensor) -> Spoken:
        decoder = self.model.decoder
        with torch.inference_mode():
            drawn = draw(
                decoder, features, options=self.options, start_id=self.start_id, end_id=self.end_id, banned=self.unspoken
            ).tokens  # fmt: skip
        drawn = drawn.clone()  # a copy may be used where gradients are recorded
        fed, targets = teach(drawn, self.start_id, self.end_id)
        with torch.backends.cudnn.flags(enabled=False):  # its LSTM has no gradient in `eval()`
            logits = decoder(features, fed).logits
        words = targets != PAD
        surprise = cross_entropy(self._policy(logits[words]), targets[words])
        return Spoken(drawn, words, surprise, features.detach())

    def _policy(self, logits: Tensor) -> Tensor:
        """logits (…,V) -> those whose softmax is drawn from."""
        banned = torch.tensor(self.unspoken, device=logits.device)
        return logits.float().index_fill(-1, banned, float("-inf")) / self.options.temperature


def teach(drawn: Tensor, start: int, end: int) -> tuple[Tensor, Tensor]:
    """Drawn captions (B,K,T), `<end>` repeated after their end -> the words fed and those asked for, padded after `<end>`."""
    after = (drawn == end).cumsum(-1) - (drawn == end).long() > 0  # an `<end>` came before this place
    targets = drawn.masked_fill(after, PAD)
    fed = torch.cat((torch.full_like(drawn[..., :1], start), targets[..., :-1]), -1)
    return fed.masked_fill(fed == end, PAD), targets
