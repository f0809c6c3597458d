"""Gradient checkpointing: a network in segments whose activations are not kept for the gradient but computed again.

Chen et al., "Training Deep Nets with Sublinear Memory Cost", 2016, section 4.2. Deviation: segments end where a single value passes (a
residual sum, a concatenation), and are as many as keep least at once, not √n.
B images · S side of the input in pixels
"""

from __future__ import annotations

from typing import Any

import torch
from torch import Tensor, fx, nn
from torch.fx import GraphModule
from torch.fx.passes.split_module import split_module
from torch.utils.checkpoint import checkpoint

from showtell.model.splitting import traced

_MOST = 64  # segments; each has at least its own start to keep


class Again(nn.Module):
    """A segment: what it computed is forgotten, and computed once more where gradients pass."""

    def __init__(self, part: nn.Module) -> None:
        super().__init__()
        self.part = part

    def forward(self, *values: Tensor) -> Any:
        """What the segment gives. Nothing in an encoder is drawn (it stays in `eval()`), so no random state is restored."""
        return checkpoint(self.part, *values, use_reentrant=False, preserve_rng_state=False)


def checkpointed(network: nn.Module, images: Tensor) -> GraphModule:
    """What gives the same as `network` and shares its weights, and keeps less of what those need that are trained now.

    `images` (B,3,S,S), or whatever `network` takes, show the sizes. `RecipeError` where the network cannot be traced.
    """
    whole = traced(network)
    nodes = [node for node in whole.graph.nodes if node.op not in ("placeholder", "output")]
    first = next((i for i, node in enumerate(nodes) if _trained(whole, node)), len(nodes))
    segment = dict.fromkeys(nodes[:first], 0) | _segments(nodes[first:], _sizes(whole, images))
    parted = split_module(whole, whole, segment.__getitem__)
    for number in set(segment.values()) - {0}:
        parted.set_submodule(f"submod_{number}", Again(parted.get_submodule(f"submod_{number}")))
    return parted


def _trained(whole: GraphModule, node: fx.Node) -> bool:
    if node.op == "call_module":
        return any(parameter.requires_grad for parameter in whole.get_submodule(str(node.target)).parameters())
    if node.op == "get_attr":
        owner, _, name = str(node.target).rpartition(".")
        return bool(getattr(whole.get_submodule(owner), name).requires_grad)
    return False


def _sizes(whole: GraphModule, images: Tensor) -> dict[fx.Node, int]:
    """How many numbers each node gives."""
    sizes: dict[fx.Node, int] = {}

    class Sizes(fx.Interpreter):
        def run_node(self, n: fx.Node) -> Any:
            given = super().run_node(n)
            sizes[n] = given.numel() if isinstance(given, Tensor) else 0
            return given

    with torch.no_grad():
        Sizes(whole).run(images)
    return sizes


def _segments(nodes: list[fx.Node], sizes: dict[fx.Node, int]) -> dict[fx.Node, int]:
    """The segment of each node, counted from 1: of all numbers of segments, those that keep least at once.

    Kept are what passes from each segment to the next, and all that the largest of them computes.
    """
    place = {node: i for i, node in enumerate(nodes)}
    last_use = [max((place[user] for user in node.users if user in place), default=i) for i, node in enumerate(nodes)]
    total, best, chosen = sum(sizes[node] for node in nodes), float("inf"), dict.fromkeys(nodes, 1)
    for wanted in range(1, _MOST + 1):
        found, segment, inside, kept, largest = {}, 1, 0, 0, 0
        passing: set[int] = set()
        for i, node in enumerate(nodes):
            found[node] = segment
            inside += sizes[node]
            largest = max(largest, inside)
            passing = {j for j in passing | {i} if last_use[j] > i}
            if inside >= total / wanted and passing == {i}:
                kept, inside, segment = kept + sizes[node], 0, segment + 1
        if kept + largest < best:
            best, chosen = kept + largest, found
    return chosen
