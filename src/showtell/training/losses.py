"""Losses over all steps at once. B images · K captions of an image · T steps · R regions · V vocabulary"""

from __future__ import annotations

from torch import Tensor
from torch.nn import functional as F

from showtell.model.contract import Output

PAD = 0


def caption_loss(
    output: Output, targets: Tensor, *, label_smoothing: float = 0.0, doubly_stochastic: float = 0.0
) -> Tensor:
    """Mean cross-entropy per word in nats, `<end>` counted, padding not; a scalar.

    output.logits (B,K,T,V) are those before each of targets (B,K,T): the one token shift is the caller's,
    `model(inputs, tokens[..., :-1])` against `tokens[..., 1:]`. `doubly_stochastic` is λ of Show, Attend and Tell's
    equation (14): every region should be looked at about once over a caption.
    """
    logits = output.logits.float().flatten(0, -2)
    loss = F.cross_entropy(logits, targets.flatten(), ignore_index=PAD, label_smoothing=label_smoothing)
    if doubly_stochastic and output.attention is not None:
        spoken = (targets != PAD).float()  # (B,K,T)
        looked = (output.attention.float() * spoken[..., None]).sum(2)  # (B,K,R)
        real = spoken.amax(-1)  # (B,K): 0 for rows that are padding alone
        loss = loss + doubly_stochastic * ((1 - looked).square().mean(-1) * real).sum() / real.sum()
    return loss
