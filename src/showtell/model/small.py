"""The encoder of the demo's drawn scenes: a CNN small enough to be trained from scratch.

B images · F feature size · S side of the input in pixels
"""

from __future__ import annotations

import itertools

from torch import Tensor, nn


class SmallCNN(nn.Module):
    """Four strided 3×3 convolutions, trained from scratch: the encoder of the demo's drawn scenes.

    images (B,3,S,S) -> (B,F,S/16,S/16). Group norm, so that batches of any size and `eval()` mean the same.
    """

    def __init__(self, num_features: int = 128) -> None:
        super().__init__()
        self.num_features = num_features
        self.pretrained_cfg = {
            "input_size": (3, 96, 96), "mean": (0.5, 0.5, 0.5), "std": (0.5, 0.5, 0.5),
            "interpolation": "bilinear", "crop_pct": 1.0, "crop_mode": "squash",
        }  # fmt: skip
        widths = (3, 32, 64, 96, num_features)
        self.layers = nn.Sequential()
        for index, (i, o) in enumerate(itertools.pairwise(widths)):
            self.layers.add_module(f"conv{index}", nn.Conv2d(i, o, 3, stride=2, padding=1))
            self.layers.add_module(f"norm{index}", nn.GroupNorm(8, o))
            self.layers.add_module(f"relu{index}", nn.ReLU())

    def forward(self, images: Tensor) -> Tensor:
        """images (B,3,S,S) -> feature map (B,F,S/16,S/16)."""
        features: Tensor = self.layers(images)
        return features
