"""Splits a network in two, so that the part below its trained layers is computed only once per image.

B images · S side of the input in pixels · C, h, w channels and sides of a map
"""

from __future__ import annotations

import hashlib
import json
import math
from dataclasses import dataclass

import torch
from torch import Tensor, fx, nn
from torch.fx import GraphModule

from showtell.errors import RecipeError, first_line
from showtell.model.tracing import drop_unused, whole


@dataclass(frozen=True)
class Stem:
    """A network split before a module: the stem below, and the rest above. Both share the network's weights.

    The stem's output has shape (B, *shape), often (B,C,h,w). It is passed around with at least four dimensions, so that
    it is never mistaken for features (B,R,F).
    """

    below: GraphModule  # images (B,3,S,S) -> (B, *shape)
    above: GraphModule  # (B, *shape) -> the network's output
    shape: tuple[int, ...]
    fingerprint: str  # of everything that determines the stem's output

    @property
    def regions(self) -> int:
        """Rows of the matrix that holds the stem's output for one image: C."""
        return self.shape[0] if len(self.shape) > 1 else 1

    @property
    def feature_size(self) -> int:
        """Columns of that matrix: h·w."""
        return math.prod(self.shape) // self.regions

    def pack(self, images: Tensor) -> Tensor:
        """images (B,3,S,S) -> (B,C,h·w), as a feature cache stores it."""
        return self.below(images).reshape(len(images), self.regions, self.feature_size)  # type: ignore[no-any-return]

    def unpack(self, rows: Tensor) -> Tensor:
        """(B,C,h·w) -> (B, *shape), padded to at least four dimensions with ones after B."""
        return rows.reshape(len(rows), *(1,) * (3 - len(self.shape)), *self.shape)


def split(network: nn.Module, module: str, images: Tensor, *, facts: object) -> Stem:
    """Splits `network` before `module`. `RecipeError` if it cannot be traced, or if anything but a single tensor passes
    between the parts. `images` (B,3,S,S) show the shapes; `facts` about images go into the fingerprint."""
    try:
        nodes = list(traced(network).graph.nodes)
    except RecipeError as error:
        raise RecipeError(_cannot(str(error))) from error
    first = next((i for i, node in enumerate(nodes) if _within(node, module)), None)
    if first is None:
        raise RecipeError(
            _cannot(f"{module} is nothing that the network computes with by itself; name the block around it")
        )
    later = nodes[first:]
    before = set(nodes[:first])
    passing = list(
        dict.fromkeys(n for node in later for n in node.all_input_nodes if n in before and n.op != "get_attr")
    )
    if len(passing) != 1:
        raise RecipeError(_cannot(f"{len(passing)} values pass from below {module}, not one"))
    if passing[0].op == "placeholder":
        raise RecipeError(_cannot(f"nothing is below {module}"))
    below, above = _below(nodes[:first], passing[0]), _above(nodes, later, passing[0])
    parts = [GraphModule(network, part, class_name=type(network).__name__).eval() for part in (below, above)]
    with torch.no_grad():
        given = parts[0](images)
    if not isinstance(given, Tensor) or given.ndim not in (2, 3, 4) or len(given) != len(images):
        raise RecipeError(_cannot(f"what passes into {module} is no tensor with a row an image"))
    if given.shape == images.shape:
        raise RecipeError(_cannot(f"what passes into {module} looks like the images themselves"))
    return Stem(parts[0], parts[1], tuple(given.shape[1:]), _fingerprint(parts[0], facts))


def _fingerprint(below: GraphModule, facts: object) -> str:
    digest = hashlib.sha256(json.dumps(facts).encode())
    digest.update(str(below).encode())  # the modules' settings and the order in which they run
    for name, tensor in sorted(below.state_dict().items()):
        digest.update(name.encode())
        digest.update(tensor.detach().cpu().contiguous().numpy().tobytes())
    return digest.hexdigest()


def _cannot(why: str) -> str:
    return f"cached_views: what is below encoder_from cannot be cached ({why}); leave cached_views out of this phase"


def traced(network: nn.Module) -> GraphModule:
    """`network` as a graph that shares its weights; `RecipeError` if it cannot be traced."""
    if isinstance(network, GraphModule):
        return network
    try:
        return whole(network)
    except Exception as error:  # tracing fails with many kinds of error
        raise RecipeError(f"this network cannot be traced: {first_line(error)}") from error


def _within(node: fx.Node, module: str) -> bool:
    return node.op in ("call_module", "get_attr") and f"{node.target}.".startswith(f"{module}.")


def _below(nodes: list[fx.Node], last: fx.Node) -> fx.Graph:
    graph = fx.Graph()
    copies: dict[fx.Node, fx.Node] = {}
    for node in nodes:
        copies[node] = graph.node_copy(node, copies.__getitem__)
    graph.output(copies[last])
    drop_unused(graph)
    return graph


def _above(nodes: list[fx.Node], later: list[fx.Node], passing: fx.Node) -> fx.Graph:
    graph = fx.Graph()
    copies, wanted = {passing: graph.placeholder("maps")}, set(later)
    for node in nodes:
        if node in wanted or node.op == "get_attr":
            copies[node] = graph.node_copy(node, copies.__getitem__)
    drop_unused(graph)
    return graph
