"""Joins several networks, or several layers of one, into one map of regions.

B images · R regions (h·w of a grid) · F feature size · S side of the input in pixels
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from showtell.errors import RecipeError
from showtell.images import ImageTransform

Grid = tuple[int, int]


@dataclass(frozen=True)
class Backbone:
    """A network, cut to return the sources `outputs`, and the transform that it expects of images."""

    name: str
    module: nn.Module  # images -> a Tensor, or a dict of them by the names of `outputs`
    outputs: tuple[str, ...]
    transform: ImageTransform
    prefix_tokens: int  # a transformer's, before the regions and not regions themselves
    layout: torch.memory_format  # of its weights and its input images

    def run(self, images: Tensor) -> dict[str, Tensor]:
        """images (B,3,S,S) -> its outputs by name, in the network's own layouts."""
        found: Tensor | dict[str, Tensor] = self.module(images)
        return found if isinstance(found, dict) else {self.outputs[0]: found}


def pair_sources(name: str | Sequence[str], layer: str | Sequence[str]) -> list[tuple[str, str]]:
    """The (name, layer) of each source; a single name goes with all layers, a single layer with all names."""
    names = [name] if isinstance(name, str) else list(name)
    layers = [layer] if isinstance(layer, str) else list(layer)
    if len(names) == 1:
        names *= len(layers)
    if len(layers) == 1:
        layers *= len(names)
    if len(names) != len(layers) or not names:
        raise RecipeError(
            f"encoder.name has {len(names)} entries and encoder.layer {len(layers)}; expected equally many, or one of them"
        )
    pairs = list(zip(names, layers, strict=True))
    for pair in pairs:
        if pairs.count(pair) > 1:
            raise RecipeError(f"encoder.name and encoder.layer ask twice for {pair}; name another layer, or drop one")
    return pairs


class Networks(nn.Module):
    """Several networks that see the same picture, each at its own size, with its own mean and deviation."""

    def __init__(self, backbones: Sequence[Backbone], *, common: ImageTransform) -> None:
        super().__init__()
        self._backbones = tuple(backbones)
        same = [backbone.transform == common for backbone in backbones]
        self.views = nn.ModuleList(
            nn.Identity() if equal else View(common, backbone.transform)
            for equal, backbone in zip(same, backbones, strict=True)
        )
        for backbone in backbones:
            self.add_module(backbone.name.replace(".", "_"), backbone.module)

    def forward(self, images: Tensor) -> dict[str, Tensor]:
        """images (B,3,S,S), normalised by the common transform -> all outputs by name."""
        found: dict[str, Tensor] = {}
        for view, backbone in zip(self.views, self._backbones, strict=True):
            found |= backbone.run(view(images).contiguous(memory_format=backbone.layout))
        return found


class View(nn.Module):
    """Turns images made by one transform into (nearly) those of another: resampled and renormalised.

    Both must keep the same part of the picture. Resampling is one matrix per side, so that it can be exported.
    """

    scale: Tensor
    shift: Tensor
    resample: Tensor

    def __init__(self, old: ImageTransform, new: ImageTransform) -> None:
        super().__init__()
        old_mean, old_std, mean, std = (torch.tensor(x)[:, None, None] for x in (old.mean, old.std, new.mean, new.std))
        self.register_buffer("scale", old_std / std, persistent=False)  # (3,1,1)
        self.register_buffer("shift", (old_mean - mean) / std, persistent=False)
        identity = torch.eye(old.size)[None, None]
        resample = F.interpolate(identity, (new.size, old.size), mode=new.interpolation, antialias=True)[0, 0]
        self.register_buffer("resample", resample, persistent=False)  # (S',S)

    def forward(self, images: Tensor) -> Tensor:
        """images (B,3,S,S) -> (B,3,S',S')"""
        return self.resample @ (images * self.scale + self.shift) @ self.resample.T


class JoinRegions(nn.Module):
    """Brings maps of regions to one grid and concatenates their features.

    Finer grids are averaged over cells; a source that is a single vector is repeated for every region. Each source is
    normalised over its features (a layer norm without weights), so that none drowns out the others by its scale; the
    decoder projects them together, which equals the sum of one projection each.
    """

    def __init__(self, grids: Sequence[Grid | None], *, onto: Grid) -> None:
        super().__init__()
        for index, grid in enumerate(grids):
            if grid is None:
                raise RecipeError(
                    "encoder: several sources need grids, and one gives regions in no square; choose another"
                )
            self.register_buffer(f"average{index}", _averages(grid, onto), persistent=False)

    def forward(self, maps: Sequence[Tensor]) -> Tensor:
        """maps (B,Rᵢ,Fᵢ) -> (B,R,ΣFᵢ)"""
        aligned = [getattr(self, f"average{index}") @ regions for index, regions in enumerate(maps)]
        return torch.cat([F.layer_norm(regions, regions.shape[-1:]) for regions in aligned], -1)


def coarsest(grids: Sequence[Grid | None]) -> Grid | None:
    """The grid with the fewest cells among those that have more than one; None if there is none."""
    return min((g for g in grids if g is not None and g != (1, 1)), key=lambda g: g[0] * g[1], default=None)


def _averages(grid: Grid, onto: Grid) -> Tensor:
    """(R',R): each row averages the cells of `grid` that lie in one cell of `onto`."""
    cells = grid[0] * grid[1]
    basis = torch.eye(cells).view(cells, 1, *grid)
    return F.adaptive_avg_pool2d(basis, onto).flatten(1).T.contiguous()
