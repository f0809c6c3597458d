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
    """`network` up to the outputs of `layers`, which it returns under their keys; traced as in `eval()`, with the same
    weights.

    Nothing runs whose result is not needed for them. Of a layer that runs several times, the last output is taken, and
    of a single operation the first; of a list of blocks, which does not run itself, its last block's. `ValueError` for a
    layer that does not run, or a block that returns several values; what cannot be traced raises many kinds.
    """
    graph, returned = _trace(network)
    return _returning(network, graph, {key: _output_of(layer, returned) for key, layer in layers.items()})


def whole(network: nn.Module) -> GraphModule:
    """`network` as a graph that returns its output as "features"; otherwise as `cut`."""
    graph, _ = _trace(network)
    output = list(graph.nodes)[-1].args[0]
    if not isinstance(output, fx.Node):
        raise ValueError("it returns several values")
    return _returning(network, graph, {"features": output})


def drop_unused(graph: fx.Graph) -> None:
    """Removes what nothing reads. Batch norm too, which may write to its statistics, so that fx would keep it."""
    graph.eliminate_dead_code(is_impure_node=lambda node: node.op in ("placeholder", "output"))


class _Tracer(fx.Tracer):
    """Remembers what each module returned."""

    def __init__(self) -> None:
        super().__init__()
        self.returned: dict[str, Any] = {}

    def call_module(
        self, m: nn.Module, forward: Callable[..., Any], args: tuple[Any, ...], kwargs: dict[str, Any]
    ) -> Any:
        """Goes into modules of modules, and records the others as one operation each."""
        name = self.path_of_module(m)
        if self.is_leaf_module(m, name):
            proxy = self.create_proxy("call_module", name, args, kwargs)
            self.returned.setdefault(name, proxy)
            return proxy
        found = forward(*args, **kwargs)
        self.returned.pop(name, None)  # in the order in which they return
        self.returned[name] = found
        return found


def _trace(network: nn.Module) -> tuple[fx.Graph, dict[str, Any]]:
    tracer, modes = _Tracer(), [(module, module.training) for module in network.modules()]
    try:
        return tracer.trace(network.eval()), tracer.returned
    finally:
        for module, training in modes:
            module.training = training


def _output_of(layer: str, returned: dict[str, Any]) -> fx.Node:
    ran = layer if layer in returned else next((n for n in reversed(returned) if n.startswith(f"{layer}.")), None)
    if ran is None:  # neither it nor, as in a list of blocks, what it holds
        raise ValueError(f"{layer} does not run")
    if not isinstance(returned[ran], fx.Proxy):
        raise ValueError(f"{layer} returns several values")
    return returned[ran].node  # type: ignore[no-any-return]


def _returning(network: nn.Module, graph: fx.Graph, outputs: dict[str, fx.Node]) -> GraphModule:
    nodes = list(graph.nodes)
    graph.erase_node(nodes[-1])
    order = {node: place for place, node in enumerate(nodes)}
    with graph.inserting_after(nodes[-2]):
        graph.output(dict(sorted(outputs.items(), key=lambda output: order[output[1]])))
    drop_unused(graph)
    return GraphModule(network, graph, class_name=type(network).__name__)
