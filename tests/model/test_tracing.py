"""Graphs of networks are those of torchvision's feature extraction, to the last character of their code."""

from __future__ import annotations

import pytest
import timm
import torch
from torch import Tensor, nn
from torch.fx import GraphModule
from torchvision.models.feature_extraction import create_feature_extractor, get_graph_node_names

from showtell.model.small import SmallCNN
from showtell.model.tracing import cut, whole


def network(name: str) -> nn.Module:
    if name == "small":
        return SmallCNN()
    return timm.create_model(name, pretrained=False, num_classes=0, global_pool="")  # type: ignore[no-any-return]


def torchvisions(model: nn.Module, layers: dict[str, str]) -> GraphModule:
    graph = create_feature_extractor(model, {layer: key for key, layer in layers.items()}).eval_graph
    graph.eliminate_dead_code(is_impure_node=lambda node: node.op in ("placeholder", "output"))
    return GraphModule(model, graph, class_name=type(model).__name__)


@pytest.mark.parametrize(
    ("name", "layers"),
    [
        ("small", {"features": "layers"}),
        ("test_resnet", {"features": "layer3"}),
        ("test_resnet", {"features0": "layer4.0", "features1": "layer2"}),
        ("test_efficientnet", {"features": "blocks.2"}),
        ("test_convnext", {"features": "stages.1"}),
        ("inception_v3", {"features": "Mixed_7a"}),
    ],
)
def test_it_is_cut_as_torchvision_cuts(name: str, layers: dict[str, str]) -> None:
    model = network(name)
    assert str(cut(model, layers)) == str(torchvisions(model, layers))


@pytest.mark.parametrize("name", ["small", "test_resnet", "test_convnext"])
def test_the_whole_is_torchvisions(name: str) -> None:
    model = network(name)
    last = get_graph_node_names(model)[1][-1]
    assert str(whole(model)) == str(torchvisions(model, {"features": last}))


class Twice(nn.Module):
    """One operation that runs twice, in a block; one module that never does."""

    def __init__(self) -> None:
        super().__init__()
        self.block, self.idle = nn.Sequential(nn.Linear(2, 2), nn.Dropout()), nn.Linear(2, 2)
        self.act = nn.Tanh()

    def forward(self, images: Tensor) -> Tensor:
        images = self.act(self.block(images)) + 1
        return self.act(self.block(images)) * 2 if self.training else self.act(self.block(images))


@pytest.mark.parametrize("layer", ["act", "block", "block.0"])
def test_a_layer_that_runs_twice(layer: str) -> None:
    model = Twice().eval()
    assert cut(model, {"features": layer}).code == torchvisions(model, {"features": layer}).code
    images = torch.randn(3, 2)
    expected, out = model.act(model.block(images)), cut(model, {"features": "act"})(images)["features"]
    assert torch.equal(out, expected)


def test_it_stays_in_training_and_shares_its_weights() -> None:
    model = Twice().train()
    parted = cut(model, {"features": "block"})
    assert model.training and model.block.training
    assert parted.get_parameter("block.0.weight") is model.block[0].weight
    assert not hasattr(parted, "idle")
    with pytest.raises(ValueError, match="idle does not run"):
        cut(model, {"features": "idle"})
