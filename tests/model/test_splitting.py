"""A network in two parts gives what the whole one gives, and the lower part is left as it is."""

from __future__ import annotations

import os
from pathlib import Path

import pytest
import torch
from torch import nn

from showtell.errors import RecipeError
from showtell.model.encoder import Encoder
from showtell.model.splitting import split

SHARED = Path(os.environ.get("SHOWTELL_SHARED", "../shared"))


@pytest.mark.parametrize(
    ("name", "layer", "module", "shape"),
    [
        ("small", "", "layers.conv2", (64, 8, 8)),
        ("small", "layers.relu2", "layers.norm1", (64, 8, 8)),
        ("test_resnet.r160_in1k", "layer4", "layer3", (48, 4, 4)),
        ("test_resnet.r160_in1k", ["layer3", "layer4"], "layer3", (48, 4, 4)),
        ("test_convnext.r160_in1k", "", "stages.2", (4, 4, 32)),  # its norm has turned the map
    ],
)
def test_the_parts_give_what_the_whole_gives(
    name: str, layer: str | list[str], module: str, shape: tuple[int, ...]
) -> None:
    torch.manual_seed(0)
    encoder = Encoder(name=name, layer=layer, image_size=32)
    images = torch.randn(3, 3, 32, 32)
    whole = encoder(images)
    names = set(encoder.state_dict())
    stem = encoder.part_before(module)
    assert stem.shape == shape
    rows = encoder.encode_below(images)
    assert rows.shape == (3, stem.regions, stem.feature_size)
    maps = stem.unpack(rows)
    assert maps.ndim == 4
    torch.testing.assert_close(encoder.encode(maps), encoder.encode(images))
    torch.testing.assert_close(encoder(images), whole)  # images are taken as before
    assert set(encoder.state_dict()) == names
    trained = {n for n, p in encoder.named_parameters() if p.requires_grad}
    assert trained
    assert not any(p.requires_grad for p in stem.below.parameters())
    encoder(maps.clone()).sum().backward()  # inference tensors know no gradients
    assert {n for n, p in encoder.named_parameters() if p.grad is not None} <= trained
    assert any(p.grad is not None for p in encoder.parameters())


def test_the_parts_share_their_weights() -> None:
    encoder = Encoder(name="small", image_size=32)
    images = torch.randn(2, 3, 32, 32)
    stem = encoder.part_before("layers.conv2")
    maps, before = stem.unpack(encoder.encode_below(images)), encoder.encode(images)
    with torch.no_grad():
        encoder.get_submodule("network.layers.conv3").weight.mul_(2)  # type: ignore[operator, union-attr]
    assert not torch.equal(encoder.encode(images), before)
    torch.testing.assert_close(encoder.encode(maps), encoder.encode(images))
    assert encoder.part_before("layers.conv2").fingerprint == stem.fingerprint
    with torch.no_grad():
        encoder.get_submodule("network.layers.conv0").weight.mul_(2)  # type: ignore[operator, union-attr]
    assert encoder.part_before("layers.conv2").fingerprint != stem.fingerprint


def test_fingerprints_know_the_images_size_and_the_place() -> None:
    def stem(size: int, module: str) -> str:
        torch.manual_seed(0)
        return Encoder(name="small", image_size=size).part_before(module).fingerprint

    found = [stem(32, "layers.conv2"), stem(48, "layers.conv2"), stem(32, "layers.conv3")]
    assert len(set(found)) == 3
    assert stem(32, "layers.conv2") == found[0]


def test_fingerprints_know_the_layers_settings() -> None:
    """Weights and code alike, the network another: its maps must not be taken for the first one's."""

    class Plain(nn.Module):
        def __init__(self, activation: nn.Module, eps: float = 1e-5) -> None:
            super().__init__()
            torch.manual_seed(0)
            self.first, self.norm, self.act = nn.Conv2d(3, 4, 3, stride=2), nn.GroupNorm(2, 4, eps=eps), activation
            self.last = nn.Conv2d(4, 4, 1)

        def forward(self, images: torch.Tensor) -> torch.Tensor:
            """images (B,3,S,S) -> (B,4,s,s)"""
            return self.last(self.act(self.norm(self.first(images))))  # type: ignore[no-any-return]

    networks = [Plain(nn.ReLU()), Plain(nn.GELU()), Plain(nn.ReLU(), eps=0.1), Plain(nn.ReLU())]
    found = [split(network, "last", torch.zeros(2, 3, 8, 8), facts=[]).fingerprint for network in networks]
    assert found[0] == found[3]
    assert len(set(found)) == 3


class Forked(nn.Module):
    """Two tensors pass from one half to the other."""

    def __init__(self) -> None:
        super().__init__()
        self.one, self.two, self.last = (nn.Conv2d(3, 3, 1) for _ in range(3))

    def forward(self, images: torch.Tensor) -> torch.Tensor:
        """images (B,3,S,S) -> (B,3,S,S)"""
        return self.last(self.one(images)) + self.two(images)  # type: ignore[no-any-return]


class Silent(nn.Module):
    """Its error says nothing."""

    def __init__(self) -> None:
        super().__init__()
        self.last = nn.Conv2d(3, 3, 1)

    def forward(self, images: torch.Tensor) -> torch.Tensor:
        """images (B,3,S,S) -> never"""
        raise AssertionError


class Straight(nn.Module):
    """What passes to the last layer has the shape of the images."""

    def __init__(self) -> None:
        super().__init__()
        self.first, self.last, self.unused = nn.Conv2d(3, 3, 1), nn.Conv2d(3, 3, 1), nn.Conv2d(3, 3, 1)

    def forward(self, images: torch.Tensor) -> torch.Tensor:
        """images (B,3,S,S) -> (B,3,S,S)"""
        return self.last(self.first(images))  # type: ignore[no-any-return]


class Untraceable(nn.Module):
    """What it does depends on what it sees."""

    def __init__(self) -> None:
        super().__init__()
        self.last = nn.Conv2d(3, 3, 1)

    def forward(self, images: torch.Tensor) -> torch.Tensor:
        """images (B,3,S,S) -> (B,3,S,S)"""
        return self.last(images) if images.sum() > 0 else images  # type: ignore[no-any-return]


@pytest.mark.parametrize(
    ("network", "module", "match"),
    [
        (Forked(), "last", "2 values pass from below last"),
        (Untraceable(), "last", "traced: symbolically"),
        (Silent(), "last", "traced: AssertionError"),
        (Straight(), "last", "like the images themselves"),
        (Straight(), "first", "nothing is below first"),
        (Straight(), "unused", "unused is nothing that the network computes with"),
    ],
)
def test_what_cannot_be_parted_is_said(network: nn.Module, module: str, match: str) -> None:
    with pytest.raises(RecipeError, match=match) as caught:
        split(network, module, torch.zeros(2, 3, 4, 4), facts=[])
    assert "\n" not in str(caught.value)


def test_several_encoders_are_not_parted() -> None:
    encoder = Encoder(name=["small", "test_resnet.r160_in1k"], layer=["layers", "layer4"], image_size=32)
    with pytest.raises(RecipeError, match="single encoder"):
        encoder.part_before("small")


def test_what_has_no_weights_is_not_trained_from() -> None:
    with pytest.raises(RecipeError, match=r"encoder_from is 'layers.relu3', and nothing from there on has weights"):
        Encoder(name="small", image_size=32).part_before("layers.relu3")


def test_what_is_trained_has_to_lie_above() -> None:
    """Modules that follow in name and come before in the network would be trained, and their maps be old."""

    class Crossed(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.upper, self.lower = nn.Conv2d(8, 4, 1), nn.Conv2d(3, 8, 3, stride=2)

        def forward(self, images: torch.Tensor) -> torch.Tensor:
            """images (B,3,S,S) -> (B,4,s,s)"""
            return self.upper(self.lower(images))  # type: ignore[no-any-return]

    encoder = Encoder(name="small", image_size=32)
    encoder.network = Crossed()
    with pytest.raises(RecipeError, match="comes before it in the network"):
        encoder.part_before("upper")


@pytest.mark.slow
def test_inception_is_parted_exactly() -> None:
    weights = SHARED / "weights" / "inception_v3.tf_in1k.safetensors"
    if not weights.is_file():
        pytest.skip(f"no {weights}")
    encoder = Encoder(name="inception_v3.tf_in1k", layer="Mixed_7a", weights=weights)
    images = torch.randn(2, 3, 299, 299)
    stem = encoder.part_before("Mixed_6e")
    assert stem.shape == (768, 17, 17)
    torch.testing.assert_close(encoder.encode(stem.unpack(encoder.encode_below(images))), encoder.encode(images))
