"""Gradient checkpointing: a network in segments, whose activations are recomputed for the gradient instead of kept.

Chen et al., "Training Deep Nets with Sublinear Memory Cost", 2016, section 4.2. Deviation: a segment ends where a single
value passes to the rest (a residual sum, a concatenation), and there are as many segments as keep least at once, not √n.
B images · S side of the input in pixels
"""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import Any

import torch
from torch import Tensor, fx, nn
from torch.fx import GraphModule
from torch.fx.passes.split_module import split_module
from torch.utils.checkpoint import checkpoint

from showtell.model.splitting import traced

_MOST = 64  # segments: each keeps its input


class Recomputed(nn.Module):
    """A segment that forgets what it computed, and computes it again when gradients pass."""

    def __init__(self, part: nn.Module) -> None:
        super().__init__()
        self.part = part

    def forward(self, *values: Any) -> Any:
        """The segment's output. Encoders draw nothing (they stay in `eval()`), so no random state is restored."""
        return checkpoint(self.part, *values, use_reentrant=False, preserve_rng_state=False)


def checkpointed(network: nn.Module, images: Tensor) -> GraphModule:
    """A network with the same outputs and the same weights, which keeps less for the gradients of those that are trainable now.

    `images` (B,3,S,S), or whatever `network` takes, show the sizes. `RecipeError` if the network cannot be traced.
    """
    whole = traced(network)
    seen = Watch.of(whole, images)
    nodes = [node for node in whole.graph.nodes if node.op not in ("placeholder", "output")]
    first = _first_segment(whole, nodes, seen)
    segment = dict.fromkeys(nodes[:first], 0) | _segments(nodes[first:], seen)
    parted = split_module(whole, whole, segment.__getitem__)
    for number in set(segment.values()) - {0}:
        name = f"submod_{number}"
        parted.set_submodule(name, Recomputed(parted.get_submodule(name)))
    return parted


@dataclass
class Watch:
    """What a run of a graph showed of its nodes."""

    place: dict[fx.Node, int] = field(default_factory=dict)  # in the order of execution
    numbers: dict[fx.Node, int] = field(default_factory=dict)  # that a node holds; 0 for views and in-place results
    owner: dict[fx.Node, fx.Node] = field(default_factory=dict)  # the node that allocated a node's memory
    last_write: dict[fx.Node, int] = field(default_factory=dict)  # by owner: the place of the last in-place operation

    @classmethod
    def of(cls, whole: GraphModule, images: Tensor) -> Watch:
        """Runs `whole` once, without gradients, on a copy of `images`."""
        seen = cls(place={node: place for place, node in enumerate(whole.graph.nodes)})

        class Run(fx.Interpreter):
            def run_node(self, n: fx.Node) -> Any:
                inputs = {node: self.env[node] for node in n.all_input_nodes if isinstance(self.env[node], Tensor)}
                versions = {node: value._version for node, value in inputs.items()}
                given = super().run_node(n)
                seen._note(n, given, inputs)
                for node, value in inputs.items():
                    if value._version != versions[node]:
                        seen.last_write[seen.owner[node]] = seen.place[n]
                return given

        with torch.no_grad():
            Run(whole).run(images.clone())
        return seen

    def _note(self, node: fx.Node, given: Any, inputs: dict[fx.Node, Tensor]) -> None:
        self.owner[node], self.numbers[node] = node, 0
        if isinstance(given, Tensor):
            memory = given.untyped_storage().data_ptr()
            shared = next((n for n, value in inputs.items() if value.untyped_storage().data_ptr() == memory), None)
            self.owner[node] = node if shared is None else self.owner[shared]
            self.numbers[node] = given.numel() if shared is None else 0

    def written_after(self, node: fx.Node, place: int) -> bool:
        """Whether the memory of a node's output is written in place after `place`."""
        return self.last_write.get(self.owner[node], -1) > place


def _first_segment(whole: GraphModule, nodes: list[fx.Node], seen: Watch) -> int:
    """The place in `nodes` from which on activations are recomputed: the first trainable layer, or later, where nothing
    from below is overwritten any more."""
    first = next((i for i, node in enumerate(nodes) if _is_trainable(whole, node)), len(nodes))
    while first < len(nodes):
        start = seen.place[nodes[first]]
        below = (node for node in whole.graph.nodes if seen.place[node] < start)
        passing = (node for node in below if any(seen.place[user] >= start for user in node.users))
        writes = [seen.last_write[seen.owner[node]] for node in passing if seen.written_after(node, start - 1)]
        if not writes:
            break
        first = next((i for i, node in enumerate(nodes) if seen.place[node] > max(writes)), len(nodes))
    return first


def _is_trainable(whole: GraphModule, node: fx.Node) -> bool:
    if node.op == "call_module":
        return any(parameter.requires_grad for parameter in whole.get_submodule(str(node.target)).parameters())
    if node.op == "get_attr":
        owner, _, name = str(node.target).rpartition(".")
        return bool(getattr(whole.get_submodule(owner), name).requires_grad)
    return False


def _segments(nodes: list[fx.Node], seen: Watch) -> dict[fx.Node, int]:
    """The segment of each node, counted from 1: of all numbers of segments, the one that keeps least at once.

    What passes from each segment to the next is kept, and everything that the largest segment computes. A value may pass
    only if nothing overwrites it afterwards.
    """
    place = {node: i for i, node in enumerate(nodes)}
    last_use = [max((place[user] for user in node.users if user in place), default=i) for i, node in enumerate(nodes)]
    total, best, chosen = sum(seen.numbers[node] for node in nodes), float("inf"), dict.fromkeys(nodes, 1)
    for wanted in range(1, _MOST + 1):
        found, segment, inside, kept, largest = {}, 1, 0, 0, 0
        passing: set[int] = set()
        for i, node in enumerate(nodes):
            found[node] = segment
            inside += seen.numbers[node]
            largest = max(largest, inside)
            passing = {j for j in passing | {i} if last_use[j] > i}
            if inside >= total / wanted and passing == {i} and not seen.written_after(node, seen.place[node]):
                kept, inside, segment = kept + seen.numbers[seen.owner[node]], 0, segment + 1
        if kept + largest < best:
            best, chosen = kept + largest, found
    return chosen
