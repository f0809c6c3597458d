"""The CNN: images (B,3,S,S) to features (B,R,F). Any timm model at any named layer, or several of both together.

B images · R regions (h·w of the grid, 1 when pooled, h·w + 1 for both) · F feature size · S side of the input in pixels
"""

from __future__ import annotations

import contextlib
import hashlib
import json
import math
import operator
from collections.abc import Callable, Iterator, Sequence
from itertools import chain, zip_longest
from pathlib import Path
from typing import Literal

import torch
from torch import Tensor, nn
from torch.fx import GraphModule

from showtell.errors import RecipeError, first_line
from showtell.model.backbones import load_backbone, one_of, weight_files
from showtell.model.checkpointing import checkpointed
from showtell.model.joining import Grid, JoinRegions, Networks, coarsest, pair_sources
from showtell.model.splitting import Stem, split

Pooled = bool | Literal["both"]


class Encoder(nn.Module):
    """A timm model cut after one layer. `forward` returns features (B,R,F) in single precision.

    `name` and `layer` may be lists: several layers of one model, one layer of each of several models, or pairs. Their
    outputs are resized to the coarsest of their grids and concatenated along F (`JoinRegions`). `pooled`: the mean
    region instead of the grid; "both": the grid, and then its mean as one more region.

    It stays in `eval()` whatever `train()` says: its batch-norm statistics never drift, frozen or fine-tuned. Once
    split (`part_before`), it also accepts the lower part's outputs in place of images.
    """

    def __init__(
        self,
        *,
        name: str | Sequence[str],
        layer: str | Sequence[str] = "",
        pooled: Pooled = False,
        image_size: int = 0,
        crop: Literal["", "center", "squash"] = "",
        pretrained: bool = False,
        weights: Path | None = None,
    ) -> None:
        super().__init__()
        self.pooled: Pooled = pooled
        sources = pair_sources(name, layer)
        self._stem: Stem | None = None
        self._checkpointed: dict[str, GraphModule] = {}  # by what they take, "images" or "maps"
        self._outputs = ["features"] if len(sources) == 1 else [f"features{i}" for i in range(len(sources))]
        backbones = []
        for model, file in weight_files([model for model, _ in sources], weights).items():
            layers = {o: at for o, (owner, at) in zip(self._outputs, sources, strict=True) if owner == model}
            backbones.append(
                load_backbone(model, layers, image_size=image_size, crop=crop, pretrained=pretrained, weights=file)
            )
        self.transform = max((backbone.transform for backbone in backbones), key=lambda transform: transform.size)
        self.network = backbones[0].module if len(backbones) == 1 else Networks(backbones, common=self.transform)
        self._layout = backbones[0].layout if len(backbones) == 1 else torch.channels_last
        prefixes = {output: backbone.prefix_tokens for backbone in backbones for output in backbone.outputs}
        self._prefixes = [prefixes[output] for output in self._outputs]
        self._joined = [
            (*source, b.transform.to_dict()) for b in backbones for source in sources if b.name == source[0]
        ]
        self.eval().requires_grad_(False)
        try:
            with torch.inference_mode():
                probe = self._run(torch.zeros(1, 3, self.transform.size, self.transform.size))
        except (AssertionError, RuntimeError) as error:
            if not image_size:
                raise
            raise RecipeError(
                f"encoder.image_size is {image_size}, which {' + '.join(model for model, _ in sources)} cannot take ({first_line(error)}); "
                "set another, or 0 for the weights' own"
            ) from error
        grids = [_grid(output, prefix) for output, prefix in zip(probe, self._prefixes, strict=True)]
        self.grid = None if pooled is True else coarsest(grids)
        self.join: Callable[[list[Tensor]], Tensor] = operator.itemgetter(0)
        if len(sources) > 1:
            self.join = JoinRegions(grids, onto=self.grid or (1, 1))
        self.regions, self.feature_size = (int(size) for size in self._regions(probe).shape[1:])

    def forward(self, images: Tensor) -> Tensor:
        """images (B,3,S,S), normalised by `transform`, or maps from a stem's `unpack` -> features (B,R,F), R = 1 when pooled."""
        return self._regions(self._run(images.contiguous(memory_format=self._layout))).float()

    @torch.inference_mode()
    def encode_below(self, images: Tensor) -> Tensor:
        """images (B,3,S,S) -> the stem's output (B,C,h·w), in the precision of `encode`. Needs `part_before` first."""
        assert self._stem is not None, "part_before comes first"
        device = images.device.type
        with torch.autocast(device, torch.bfloat16, enabled=fast_bfloat16(device)):
            return self._stem.pack(images.contiguous(memory_format=self._layout)).float()

    @torch.inference_mode()
    def encode(self, images: Tensor, *, exact: bool = False) -> Tensor:
        """`forward` without gradients, in bfloat16 where the processor multiplies it natively: the path of the
        feature cache, of validation and of captioning alike. `exact` keeps single precision, on a GPU too, whose
        convolutions would round to TF32."""
        device = images.device.type
        if exact:
            with _without_tf32() if device == "cuda" else contextlib.nullcontext():
                return self(images)  # type: ignore[no-any-return]
        with torch.autocast(device, torch.bfloat16, enabled=fast_bfloat16(device)):
            return self(images)  # type: ignore[no-any-return]

    def train(self, mode: bool = True) -> Encoder:
        """Never leaves `eval()`: see the class. Once there, it does not visit its hundreds of modules at each step."""
        return super().train(False) if self.training else self

    def unfreeze_from(self, module: str) -> list[list[nn.Parameter]]:
        """Makes `module` and everything after it trainable, except batch norm; returns those parameters by block.

        A block is a child of the network, or a numbered part of one: `Mixed_6e`, `stages.3`. A part with only norms and
        biases belongs to the block before it, parameters beside the blocks (`cls_token`) to the first. Of several
        networks, all that come after `module`'s are trained too, and blocks are counted from the end of each: the last
        ones are together, as are those before them. `RecipeError` if there is no such module.
        """
        self.requires_grad_(False)
        modules = dict(self.network.named_modules())  # in order, a module before its children
        if module not in modules or not module:
            weighty = (name for name, part in modules.items() if name and any(True for _ in _without_norms(part)))
            names = list(dict.fromkeys(map(self._block_of, weighty)))
            raise RecipeError(f"encoder_from is '{module}', which this encoder does not have; {one_of(names, module)}")
        following = list(modules.items())[list(modules).index(module) :]
        networks: dict[str, dict[str, list[nn.Parameter]]] = {}
        for name, part in following:
            network = name.partition(".")[0] if isinstance(self.network, Networks) else ""
            for parameter in _without_norms(part):
                parameter.requires_grad_(True)
                networks.setdefault(network, {}).setdefault(self._block_of(name), []).append(parameter)
        from_the_last = [reversed(_blocks(parts)) for parts in networks.values()]
        return [list(chain(*level)) for level in zip_longest(*from_the_last, fillvalue=[])][::-1]

    def _block_of(self, name: str) -> str:
        """The block that a module belongs to, by its name."""
        parts, module, depth = name.split("."), self.network, 1
        while depth < len(parts) and (isinstance(module, Networks) or len(list(module.children())) == 1):
            module, depth = module.get_submodule(parts[depth - 1]), depth + 1  # a wrapper of all the rest is no block
        numbered = len(parts) > depth and parts[depth].isdigit()
        return ".".join(parts[: depth + numbered])

    def part_before(self, module: str) -> Stem:
        """Unfreezes as `unfreeze_from(module)` does, and returns the part below, which stays frozen; from now on `forward`
        also accepts its outputs. `RecipeError` if there is no such module, or the network cannot be split there."""
        blocks = self.unfreeze_from(module)
        if isinstance(self.network, Networks):
            raise RecipeError("cached_views with encoder_from needs a single encoder; leave one of the two out")
        if not blocks:
            raise RecipeError(
                f"encoder_from is '{module}', and nothing from there on has weights to train; name a block before it"
            )
        images = torch.zeros(2, 3, self.transform.size, self.transform.size, device=blocks[0][0].device)
        facts = ["stem", self.transform.to_dict(), fast_bfloat16(images.device.type)]
        self._stem = split(self.network, module, images, facts=facts)
        if any(parameter.requires_grad for parameter in self._stem.below.parameters()):
            raise RecipeError(
                f"cached_views: some of what would be trained from {module} on comes before it in the network, so that it cannot be "
                "cached; leave cached_views out of this phase"
            )
        return self._stem

    def checkpoint_gradients(self, wanted: bool) -> None:
        """Switches on or off that the activations of the layers trainable now are recomputed for their gradients instead
        of kept (`checkpointed`): less memory, more time. `RecipeError` if this network cannot do it."""
        self._checkpointed = {}
        if not wanted:
            return
        device, side = next(self.network.parameters()).device, self.transform.size
        try:
            if isinstance(self.network, Networks):
                raise RecipeError("it needs a single encoder")
            # Outside autocast, which would remember casts that have no gradient.
            images = torch.zeros(2, 3, side, side, device=device).contiguous(memory_format=self._layout)
            self._checkpointed["images"] = checkpointed(self.network, images)
            if self._stem is not None:
                maps = self._stem.unpack(self.encode_below(images)).reshape(2, *self._stem.shape)
                self._checkpointed["maps"] = checkpointed(self._stem.above, maps)
        except RecipeError as error:
            raise RecipeError(f"train.gradient_checkpointing: {error}; set it to false") from error

    def fingerprint(self) -> str:
        """A hash of everything that features depend on: weights, layer, pooling, transform, the device's precision."""
        joined = self._joined if len(self._joined) > 1 else []
        device = next(self.network.parameters()).device.type
        facts = [self.transform.to_dict(), self.pooled, fast_bfloat16(device), *joined]
        digest = hashlib.sha256(json.dumps(facts).encode())
        digest.update(str(self.network).encode())
        for name, tensor in sorted(self.network.state_dict().items()):
            digest.update(name.encode())
            digest.update(tensor.detach().cpu().contiguous().numpy().tobytes())
        return digest.hexdigest()

    def _run(self, images: Tensor) -> list[Tensor]:
        """Each source's output, in its own layout."""
        network, takes = self.network, "images"
        if self._stem is not None and images.shape[1:] != (3, self.transform.size, self.transform.size):
            network, takes = self._stem.above, "maps"
            images = images.reshape(len(images), *self._stem.shape)
        if torch.is_grad_enabled():
            network = self._checkpointed.get(takes, network)
        found: Tensor | dict[str, Tensor] = network(images)
        return [found[output] for output in self._outputs] if isinstance(found, dict) else [found]

    def _regions(self, found: list[Tensor]) -> Tensor:
        """The sources' outputs, in any layout -> (B,R,F)."""
        regions = self.join([_flat(output, prefix) for output, prefix in zip(found, self._prefixes, strict=True)])
        return _POOLING[self.pooled](regions)


_POOLING: dict[Pooled, Callable[[Tensor], Tensor]] = {
    False: lambda regions: regions,
    True: lambda regions: regions.mean(1, keepdim=True),
    "both": lambda regions: torch.cat((regions, regions.mean(1, keepdim=True)), 1),
}


def _flat(output: Tensor, prefix: int) -> Tensor:
    """A layer's output in any of its layouts -> (B,R,F)."""
    if output.ndim == 2:  # (B,F)
        return output[:, None]
    if output.ndim == 3:  # (B,P+R,F)
        return output[:, prefix:]
    if _channels_last(output):  # (B,h,w,F)
        return output.flatten(1, 2)
    return output.flatten(2).transpose(1, 2)  # (B,F,h,w)


def _grid(output: Tensor, prefix: int) -> Grid | None:
    """The (h,w) of a layer's regions; (1,1) for a vector, None for tokens that do not form a square."""
    if output.ndim == 4:
        return (output.shape[1], output.shape[2]) if _channels_last(output) else (output.shape[2], output.shape[3])
    cells = 1 if output.ndim == 2 else output.shape[1] - prefix
    side = math.isqrt(cells)
    return (side, side) if side * side == cells else None


def _channels_last(output: Tensor) -> bool:
    """Images are square, and so are grids."""
    return output.shape[1] == output.shape[2] != output.shape[3]


def _blocks(parts: dict[str, list[nn.Parameter]]) -> list[list[nn.Parameter]]:
    """The blocks of one network: `parts` by name, joined as `Encoder.unfreeze_from` says."""
    chosen: list[list[nn.Parameter]] = []
    beside: list[nn.Parameter] = []
    for name, part in parts.items():
        if any(other.startswith(f"{name}.") for other in parts):
            beside += part
        elif chosen and not any(parameter.ndim > 1 for parameter in beside + part):
            chosen[-1] += part
        else:
            chosen.append(beside + part)
            beside = []
    return chosen


def _without_norms(module: nn.Module) -> Iterator[nn.Parameter]:
    """A module's own parameters, not its children's; none of batch norm."""
    if not isinstance(module, nn.modules.batchnorm._BatchNorm):
        yield from module.parameters(recurse=False)


def _without_tf32() -> contextlib.AbstractContextManager[None]:
    cudnn = torch.backends.cudnn
    return cudnn.flags(enabled=True, benchmark=cudnn.benchmark, deterministic=cudnn.deterministic, allow_tf32=False)


def fast_bfloat16(device: str) -> bool:
    """Whether a device of that kind multiplies bfloat16 natively; older GPUs emulate it, slowly."""
    if device == "cuda":
        return torch.cuda.is_available() and torch.cuda.is_bf16_supported(including_emulation=False)
    return device == "cpu" and torch.cpu._is_avx512_bf16_supported()
