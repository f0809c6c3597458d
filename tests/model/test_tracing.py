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
        pytest.param("inception_v3", {"features": "Mixed_7a"}, marks=pytest.mark.slow),
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


class Early(nn.Module):
    """Returns what it computed before the last."""

    def __init__(self) -> None:
        super().__init__()
        self.first, self.then = nn.Linear(2, 2), nn.Linear(2, 2)

    def forward(self, images: Tensor) -> Tensor:
        found = self.first(images)
        self.then(found)
        return found  # type: ignore[no-any-return]


class Several(nn.Module):
    """Returns a tuple."""

    def __init__(self) -> None:
        super().__init__()
        self.first, self.then = nn.Linear(2, 2), nn.Linear(2, 2)

    def forward(self, images: Tensor) -> tuple[Tensor, Tensor]:
        return self.first(images), self.then(images)


class Around(nn.Module):
    """One of them inside."""

    def __init__(self, inside: nn.Module) -> None:
        super().__init__()
        self.inside, self.last, self.several = inside, nn.Linear(2, 2), isinstance(inside, Several)

    def forward(self, images: Tensor) -> Tensor:
        found = self.inside(images)
        return self.last(found[0] if self.several else found)  # type: ignore[no-any-return]


@pytest.mark.parametrize(
    ("model", "layer", "call"),
    [
        (Twice(), "act", 0), (Twice(), "block", 1), (Twice(), "block.0", 0), (Around(Early()), "inside", 0),
        (Around(Early()), "inside.then", 0), (Around(Early()), "last", 0),
    ],
)  # fmt: skip
def test_a_layers_output_is_what_it_returns(model: nn.Module, layer: str, call: int) -> None:
    """The last of several, but of a single operation the first, as torchvision has it."""
    seen: list[Tensor] = []
    model.eval().get_submodule(layer).register_forward_hook(lambda module, given, output: seen.append(output))
    images = torch.randn(3, 2)
    model(images)
    assert torch.equal(cut(model, {"features": layer})(images)["features"], seen[call])


class Listed(nn.Module):
    """Runs a list of blocks, which itself never runs."""

    def __init__(self) -> None:
        super().__init__()
        self.blocks = nn.ModuleList([Twice(), nn.Sequential(nn.Linear(2, 2), nn.Tanh())])
        self.last = nn.Linear(2, 2)

    def forward(self, images: Tensor) -> Tensor:
        for block in self.blocks:
            images = block(images)
        return self.last(images)  # type: ignore[no-any-return]


def test_a_list_of_blocks_ends_with_its_last() -> None:
    model, images = Listed().eval(), torch.randn(3, 2)
    found = cut(model, {"features": "blocks"})
    assert torch.equal(found(images)["features"], model.blocks[1](model.blocks[0](images)))
    assert found.code == torchvisions(model, {"features": "blocks"}).code


def test_the_whole_is_what_the_network_returns() -> None:
    model, images = Early().eval(), torch.randn(3, 2)
    assert torch.equal(whole(model)(images)["features"], model(images))


def test_several_values_are_no_features() -> None:
    with pytest.raises(ValueError, match="it returns several values"):
        whole(Several())
    with pytest.raises(ValueError, match="inside returns several values"):
        cut(Around(Several()), {"features": "inside"})


def test_modes_stay_and_weights_are_shared() -> None:
    model = Twice().train()
    model.block.eval()
    parted = cut(model, {"features": "block"})
    assert model.training and model.act.training and not model.block.training and not model.block[1].training
    assert parted.get_parameter("block.0.weight") is model.block[0].weight
    assert not hasattr(parted, "idle")
    with pytest.raises(ValueError, match="idle does not run"):
        cut(model, {"features": "idle"})
