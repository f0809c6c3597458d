"""Networks as graphs of torch.fx, with the outputs of chosen modules.

torchvision's `create_feature_extractor` makes the same graphs, but traces twice, for training too, and gives each node a
name of its own: seconds for each time that a captioner is opened.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from typing import Any

from torch import fx, nn
from torch.fx import GraphModule


def cut(network: nn.Module, layers: Mapping[str, str]) -> GraphModule:
    """`network` up to the outputs of `layers`, which it returns under their keys; it shares the weights, in `eval()`.

    Nothing runs whose result is not needed for them. A layer's output is the last value computed in it, and of a single
    operation the first. `ValueError` for a layer that does not run; what cannot be traced raises many kinds.
    """
    graph, owners = _trace(network)
    return _returning(network, graph, {key: _output_of(layer, owners) for key, layer in layers.items()})


def whole(network: nn.Module) -> GraphModule:
    """`network` up to the last value that it computes, returned as "features"; otherwise as `cut`."""
    graph, owners = _trace(network)
    return _returning(network, graph, {"features": next(reversed(owners))})


class _Tracer(fx.Tracer):
    """Remembers the module that each node belongs to."""

    def __init__(self) -> None:
        super().__init__()
        self.owners: dict[fx.Node, str] = {}
        self._module = ""

    def call_module(
        self, m: nn.Module, forward: Callable[..., Any], args: tuple[Any, ...], kwargs: dict[str, Any]
    ) -> Any:
        """Goes into modules of modules, and records the others as one operation each."""
        before, self._module = self._module, self.path_of_module(m)
        try:
            if self.is_leaf_module(m, self._module):
                return self.create_proxy("call_module", self._module, args, kwargs)
            return forward(*args, **kwargs)
        finally:
            self._module = before

    def create_proxy(self, *args: Any, **kwargs: Any) -> Any:
        """Records an operation."""
        proxy = super().create_proxy(*args, **kwargs)
        self.owners[proxy.node] = self._module
        return proxy


def _trace(network: nn.Module) -> tuple[fx.Graph, dict[fx.Node, str]]:
    training, tracer = network.training, _Tracer()
    try:
        return tracer.trace(network.eval()), tracer.owners
    finally:
        network.train(training)


def _output_of(layer: str, owners: Mapping[fx.Node, str]) -> fx.Node:
    nodes = [node for node, owner in owners.items() if f"{owner}.".startswith(f"{layer}.")]
    if not nodes:
        raise ValueError(f"{layer} does not run")
    return nodes[0] if all(node.op == "call_module" and owners[node] == layer for node in nodes) else nodes[-1]


def _returning(network: nn.Module, graph: fx.Graph, outputs: dict[str, fx.Node]) -> GraphModule:
    nodes = list(graph.nodes)
    graph.erase_node(nodes[-1])
    order = {node: place for place, node in enumerate(nodes)}
    with graph.inserting_after(nodes[-2]):
        graph.output(dict(sorted(outputs.items(), key=lambda output: order[output[1]])))
    # Batch norm may write to its statistics, so fx takes it for something that has to run even where nothing reads it.
    graph.eliminate_dead_code(is_impure_node=lambda node: node.op in ("placeholder", "output"))
    return GraphModule(network, graph, class_name=type(network).__name__)
