"""Encoder and decoder as one module: the model that is trained."""

from __future__ import annotations

from torch import Tensor, nn

from showtell.model.contract import Output
from showtell.model.decoders import Decoder
from showtell.model.encoder import Encoder


class CaptionerModel(nn.Module):
    """An image goes in, the logits of its captions come out."""

    def __init__(self, encoder: Encoder, decoder: Decoder) -> None:
        super().__init__()
        self.encoder, self.decoder = encoder, decoder

    def features(self, inputs: Tensor) -> Tensor:
        """inputs: images (B,3,S,S), maps of the encoder's stem (B,C,h,w), or features (B,R,F) -> features (B,R,F)"""
        features: Tensor = self.encoder(inputs) if inputs.ndim == 4 else inputs
        return features

    def forward(self, inputs: Tensor, tokens: Tensor) -> Output:
        """inputs as for `features`, tokens (B,K,T) -> logits (B,K,T,V), attention."""
        output: Output = self.decoder(self.features(inputs), tokens)
        return output
