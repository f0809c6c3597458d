"""Gradient checkpointing changes what is kept, not what comes out."""

from __future__ import annotations

import pytest
import torch
from torch import Tensor, nn
from torch.autograd.graph import saved_tensors_hooks

from showtell.errors import RecipeError
from showtell.model.checkpointing import checkpointed
from showtell.model.encoder import Encoder

CASES = [
    ("small", "", "layers.conv1", 64),
    ("test_resnet.r160_in1k", "", "conv1", 64),
    ("test_resnet.r160_in1k", ["layer3", "layer4"], "layer2", 64),
    ("test_efficientnet.r160_in1k", "", "blocks", 64),  # activations in place, which a second look would change
    ("mobilenetv3_small_050", "", "blocks.2", 64),
    ("test_vit3.r160_in1k", "", "blocks.2", 160),
    ("test_convnext.r160_in1k", "", "stages.1", 64),
]


def _lesson(encoder: Encoder, inputs: Tensor) -> tuple[Tensor, dict[str, Tensor]]:
    """Features, and gradients by parameter."""
    encoder.zero_grad()
    features = encoder(inputs.clone())
    features.square().mean().backward()
    return features.detach(), {name: p.grad.clone() for name, p in encoder.named_parameters() if p.grad is not None}


def _kept(encoder: Encoder, inputs: Tensor) -> int:
    """Bytes that a pass keeps for gradients; taken alone, as tensors that pass through hooks are not looked after."""
    kept: dict[int, int] = {}

    def keep(tensor: Tensor) -> Tensor:
        if not isinstance(tensor, nn.Parameter):
            kept[tensor.untyped_storage().data_ptr()] = tensor.untyped_storage().nbytes()
        return tensor

    with saved_tensors_hooks(keep, lambda tensor: tensor):
        features = encoder(inputs.clone())
    assert features.requires_grad
    return sum(kept.values())


@pytest.mark.slow
@pytest.mark.parametrize(("name", "layer", "module", "size"), CASES)
def test_features_and_gradients_are_the_same_and_less_is_kept(
    name: str, layer: str | list[str], module: str, size: int
) -> None:
    torch.manual_seed(0)
    encoder = Encoder(name=name, layer=layer, image_size=size)
    encoder.unfreeze_from(module)
    images = torch.randn(4, 3, size, size)
    (features, gradients), kept = _lesson(encoder, images), _kept(encoder, images)
    names = set(encoder.state_dict())
    encoder.checkpoint_gradients(True)
    same, again = _lesson(encoder, images)
    torch.testing.assert_close(same, features)
    torch.testing.assert_close(again, gradients)
    assert _kept(encoder, images) < 0.7 * kept
    assert set(encoder.state_dict()) == names  # no second name for a weight
    encoder.checkpoint_gradients(False)
    assert _kept(encoder, images) == kept


def test_casts_that_autocast_remembers_have_gradients() -> None:
    """The first pass in a context is the one that could be spoilt."""
    torch.manual_seed(0)
    encoder = Encoder(name="test_resnet.r160_in1k", image_size=64)
    encoder.unfreeze_from("layer2")
    images = torch.randn(2, 3, 64, 64)
    found = []
    for wanted in (False, True):
        encoder.checkpoint_gradients(wanted)
        with torch.autocast("cpu", torch.bfloat16):
            found.append(_lesson(encoder, images))
    torch.testing.assert_close(found[1], found[0])


def test_what_a_stem_gave_is_taken_too() -> None:
    torch.manual_seed(0)
    encoder = Encoder(name="test_resnet.r160_in1k", layer="layer4", image_size=64)
    images = torch.randn(2, 3, 64, 64)
    stem = encoder.part_before("layer3")
    maps = stem.below(images).detach()  # in single precision
    (features, gradients), kept = _lesson(encoder, maps), _kept(encoder, maps)
    encoder.checkpoint_gradients(True)
    for inputs in (maps, images, maps):
        same, again = _lesson(encoder, inputs)
        torch.testing.assert_close(same, features)
        torch.testing.assert_close(again, gradients)
        assert _kept(encoder, inputs) < kept


def test_inputs_that_are_overwritten_later_are_not_read_again() -> None:
    class Overwriting(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.one, self.two = nn.Conv2d(4, 4, 1), nn.Conv2d(4, 4, 1)

        def forward(self, maps: Tensor) -> Tensor:
            """maps (B,4,h,w) -> (B,4,h,w)"""
            left = self.one(maps * 2)
            return self.two(left * torch.nn.functional.silu(maps, inplace=True))  # type: ignore[no-any-return]

    network, maps = Overwriting(), torch.randn(2, 4, 3, 3)
    found = []
    for each in (network, checkpointed(network, maps)):
        network.zero_grad()
        output = each(maps.clone())
        output = output if isinstance(output, Tensor) else output["features"]
        output.square().mean().backward()
        found.append((output.detach(), {name: p.grad for name, p in network.named_parameters()}))
    torch.testing.assert_close(found[1], found[0])


def test_only_what_is_trained_is_computed_twice() -> None:
    encoder = Encoder(name="small", image_size=32)
    runs: list[str] = []
    for name in ("conv0", "conv2"):
        layer = encoder.get_submodule(f"network.layers.{name}")
        layer.register_forward_hook(lambda *_, name=name: runs.append(name))
    encoder.unfreeze_from("layers.conv2")
    encoder.checkpoint_gradients(True)
    images = torch.randn(2, 3, 32, 32)
    runs.clear()  # sizes were looked at
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
        def __init__(self) -> None:
            super().__init__()
            self.layer = nn.Conv2d(3, 3, 1)

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
