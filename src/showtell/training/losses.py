"""Losses over all steps at once. B images · K captions of an image · T steps · R regions · V vocabulary"""

from __future__ import annotations

from typing import Any

import torch
from torch import Tensor
from torch.autograd import Function

from showtell.model.contract import Output
from showtell.writing import PAD


def caption_loss(
    output: Output, targets: Tensor, *, label_smoothing: float = 0.0, doubly_stochastic: float = 0.0
) -> Tensor:
    """Mean cross-entropy per word in nats, `<end>` counted, padding not; a scalar.

    output.logits (B,K,T,V) predict targets (B,K,T); the caller shifts by one token: `model(inputs, tokens[..., :-1])`
    against `tokens[..., 1:]`. `doubly_stochastic` is λ of Show, Attend and Tell's equation (14), here with a mean over
    regions: each should be looked at about once over a caption.
    """
    words = targets != PAD
    loss = cross_entropy(output.logits[words], targets[words], label_smoothing).mean()
    if doubly_stochastic and output.attention is not None:
        spoken = words.float()  # (B,K,T)
        looked = (output.attention.float() * spoken[..., None]).sum(2)  # (B,K,R)
        real = spoken.amax(-1)  # (B,K): 0 for rows of padding only
        loss = loss + doubly_stochastic * ((1 - looked).square().mean(-1) * real).sum() / real.sum()
    return loss


def cross_entropy(logits: Tensor, targets: Tensor, smoothing: float = 0.0) -> Tensor:
    """logits (N,V), targets (N,) -> the cross-entropy of each row in nats (N,), label smoothing as in PyTorch's.

    One matrix (N,V) is kept and turned into the gradient in place, where autograd would make five of them.
    """
    losses: Tensor = _CrossEntropy.apply(logits, targets, smoothing)
    return losses


class _CrossEntropy(Function):
    @staticmethod
    def forward(ctx: Any, logits: Tensor, targets: Tensor, smoothing: float) -> Tensor:
        largest = logits.amax(-1, keepdim=True).float()
        shifted = logits.float() - largest  # (N,V)
        of_target = shifted.gather(-1, targets[:, None])[:, 0]
        mean = shifted.mean(-1) if smoothing else of_target
        total = shifted.exp_().sum(-1)
        ctx.save_for_backward(shifted.div_(total[:, None]), targets)
        ctx.smoothing, ctx.dtype = smoothing, logits.dtype
        return total.log() - (1 - smoothing) * of_target - smoothing * mean

    @staticmethod
    def backward(ctx: Any, grad: Tensor) -> tuple[Tensor, None, None]:
        probabilities, targets = ctx.saved_tensors
        wanted = torch.full_like(targets, -(1 - ctx.smoothing), dtype=probabilities.dtype)
        probabilities.sub_(ctx.smoothing / probabilities.shape[-1]).scatter_add_(-1, targets[:, None], wanted[:, None])
        return probabilities.mul_(grad[:, None]).to(ctx.dtype), None, None
