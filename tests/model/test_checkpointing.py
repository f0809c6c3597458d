"""Gradient checkpointing changes what is kept, not what comes out."""

from __future__ import annotations

import pytest
import torch
from torch import Tensor, nn
from torch.autograd.graph import saved_tensors_hooks

from showtell.errors import RecipeError
from showtell.model.encoder import Encoder

CASES = [
    ("small", "", "layers.conv1", 64),
    ("test_resnet.r160_in1k", "", "conv1", 64),
    ("test_resnet.r160_in1k", ["layer3", "layer4"], "layer2", 64),
    ("test_vit3.r160_in1k", "", "blocks.2", 160),
    ("test_convnext.r160_in1k", "", "stages.1", 64),
]


def _lesson(encoder: Encoder, inputs: Tensor) -> tuple[Tensor, dict[str, Tensor], int]:
    """Features, gradients by parameter, and the bytes that were kept for them."""
    kept: dict[int, int] = {}

    def keep(tensor: Tensor) -> Tensor:
        if not isinstance(tensor, nn.Parameter):
            kept[tensor.untyped_storage().data_ptr()] = tensor.untyped_storage().nbytes()
        return tensor

    encoder.zero_grad()
    with saved_tensors_hooks(keep, lambda tensor: tensor):
        features = encoder(inputs)
    size = sum(kept.values())  # before gradients are taken, which keeps more, one segment at a time
    features.square().mean().backward()
    gradients = {name: p.grad.clone() for name, p in encoder.named_parameters() if p.grad is not None}
    return features.detach(), gradients, size


@pytest.mark.parametrize(("name", "layer", "module", "size"), CASES)
def test_features_and_gradients_are_the_same_and_less_is_kept(
    name: str, layer: str | list[str], module: str, size: int
) -> None:
    torch.manual_seed(0)
    encoder = Encoder(name=name, layer=layer, image_size=size)
    encoder.unfreeze_from(module)
    images = torch.randn(4, 3, size, size)
    features, gradients, kept = _lesson(encoder, images)
    names = set(encoder.state_dict())
    encoder.checkpoint_gradients(True)
    same, again, less = _lesson(encoder, images)
    torch.testing.assert_close(same, features)
    assert again.keys() == gradients.keys()
    for parameter, gradient in gradients.items():
        torch.testing.assert_close(again[parameter], gradient)
    assert less < 0.7 * kept
    assert set(encoder.state_dict()) == names  # no second name for a weight
    encoder.checkpoint_gradients(False)
    assert _lesson(encoder, images)[2] == kept


def test_what_a_stem_gave_is_taken_too() -> None:
    torch.manual_seed(0)
    encoder = Encoder(name="test_resnet.r160_in1k", layer="layer4", image_size=64)
    images = torch.randn(2, 3, 64, 64)
    stem = encoder.part_before("layer3")
    maps = stem.below(images).detach()  # in single precision
    features, gradients, kept = _lesson(encoder, maps)
    encoder.checkpoint_gradients(True)
    for inputs in (maps, images, maps):
        same, again, less = _lesson(encoder, inputs)
        torch.testing.assert_close(same, features)
        torch.testing.assert_close(again, gradients)
        assert less < kept


def test_only_what_is_trained_is_computed_twice() -> None:
    encoder = Encoder(name="small", image_size=32)
    runs: list[str] = []
    for name in ("conv0", "conv2"):
        layer = encoder.get_submodule(f"network.layers.{name}")
        layer.register_forward_hook(lambda *_, name=name: runs.append(name))
    encoder.unfreeze_from("layers.conv2")
    encoder.checkpoint_gradients(True)
    images = torch.randn(2, 3, 32, 32)
    encoder(images)  # the first time, sizes are looked at
    runs.clear()
    encoder(images).sum().backward()
    assert runs == ["conv0", "conv2", "conv2"]
    runs.clear()
    encoder.encode(images)
    assert runs == ["conv0", "conv2"]


def test_weights_that_change_are_seen() -> None:
    encoder = Encoder(name="small", image_size=32)
    encoder.unfreeze_from("layers.conv1")
    encoder.checkpoint_gradients(True)
    images = torch.randn(2, 3, 32, 32)
    before = encoder(images)
    with torch.no_grad():
        encoder.get_submodule("network.layers.conv3").weight.mul_(2)  # type: ignore[operator, union-attr]
    after = encoder(images)
    assert not torch.allclose(after, before)
    torch.testing.assert_close(after.detach(), encoder.encode(images, exact=True))


def test_what_cannot_be_cut_is_refused_in_a_sentence() -> None:
    class Branching(nn.Module):
        def forward(self, images: Tensor) -> Tensor:
            """images (B,3,S,S) as they are, or their negative"""
            return images if images.sum() > 0 else -images

    encoder = Encoder(name="small", image_size=32)
    encoder.network = Branching()
    with pytest.raises(RecipeError, match=r"train\.gradient_checkpointing: .* cannot be traced.*; set it to false"):
        encoder.checkpoint_gradients(True)
    two = Encoder(name=["small", "test_resnet.r160_in1k"], image_size=32)
    with pytest.raises(RecipeError, match="needs a single encoder"):
        two.checkpoint_gradients(True)
