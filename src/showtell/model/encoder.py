"""The CNN: images (B,3,S,S) to features (B,R,F). Any timm model, at any named layer; several of both side by side.

B images · R regions (h·w of the grid, 1 when pooled, h·w + 1 for both) · F feature size · S side of the input in pixels
"""

from __future__ import annotations

import contextlib
import hashlib
import itertools
import json
import logging
import math
import operator
import re
from collections.abc import Callable, Iterator, Sequence
from pathlib import Path
from typing import Literal

import timm
import torch
from safetensors import SafetensorError
from safetensors.torch import load_file
from timm.data import resolve_model_data_config
from torch import Tensor, nn
from torch.fx import GraphModule
from torch.torch_version import TorchVersion
from torchvision.models.feature_extraction import create_feature_extractor

from showtell.errors import RecipeError, WeightsError, first_line, meant
from showtell.images import ImageTransform
from showtell.model.checkpointing import checkpointed
from showtell.model.joining import Backbone, Grid, JoinRegions, Networks, coarsest, pair_sources
from showtell.model.splitting import Stem, split
from showtell.paths import why_no_hub

Pooled = bool | Literal["both"]


class Encoder(nn.Module):
    """A timm model cut after one layer. `forward` returns features (B,R,F) in single precision.

    `name` and `layer` may be lists: several layers of one model, a layer each of several models, or pairs. What they give
    is brought to the coarsest of their grids and stands side by side in F (`JoinRegions`). `pooled`: the mean region
    instead of the grid; "both": the grid, and then its mean as one more region.

    It stays in `eval()` whatever `train()` says: its batch-norm statistics never drift, frozen or fine-tuned. Once parted
    (`part_before`), it also takes what the lower part gave, in the place of images.
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
        for model, file in _weight_files([model for model, _ in sources], weights).items():
            layers = {o: at for o, (owner, at) in zip(self._outputs, sources, strict=True) if owner == model}
            backbones.append(
                _backbone(model, layers, image_size=image_size, crop=crop, pretrained=pretrained, weights=file)
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
        """images (B,3,S,S), normalised by `transform`, or what a stem's `unpack` gave -> features (B,R,F), R = 1 when pooled."""
        return self._regions(self._run(images.contiguous(memory_format=self._layout))).float()

    @torch.inference_mode()
    def encode_below(self, images: Tensor) -> Tensor:
        """images (B,3,S,S) -> what the stem gives (B,C,h·w), in the precision of `encode`; the encoder has to be parted."""
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
        """Never leaves `eval()`: see the class. Once there, its hundreds of modules are not asked again at each step."""
        return super().train(False) if self.training else self

    def unfreeze_from(self, module: str) -> list[list[nn.Parameter]]:
        """Makes `module` and all that follows it trainable, batch norm left out; returns those parameters by block.

        A block is a child of the network, or a numbered part of one: `Mixed_6e`, `stages.3`; what holds norms and biases alone
        belongs to the block before it. Of several networks, those of the later ones come after.
        """
        self.requires_grad_(False)
        modules = dict(self.network.named_modules())  # in order, a module before its children
        if module not in modules or not module:
            weighty = (name for name, part in modules.items() if name and any(True for _ in _without_norms(part)))
            names = list(dict.fromkeys(map(self._block_of, weighty)))
            raise RecipeError(f"encoder_from is '{module}', which this encoder does not have; {_some(names, module)}")
        following = list(modules.items())[list(modules).index(module) :]
        blocks: dict[str, list[nn.Parameter]] = {}
        for name, part in following:
            for parameter in _without_norms(part):
                parameter.requires_grad_(True)
                blocks.setdefault(self._block_of(name), []).append(parameter)
        chosen: list[list[nn.Parameter]] = []
        for block in blocks.values():
            if chosen and not any(parameter.ndim > 1 for parameter in block):
                chosen[-1] += block
            else:
                chosen.append(block)
        return chosen

    def _block_of(self, name: str) -> str:
        """The block that a module belongs to, by its name."""
        parts, module, depth = name.split("."), self.network, 1
        while depth < len(parts) and (isinstance(module, Networks) or len(list(module.children())) == 1):
            module, depth = module.get_submodule(parts[depth - 1]), depth + 1  # a wrapper of all the rest is no block
        numbered = len(parts) > depth and parts[depth].isdigit()
        return ".".join(parts[: depth + numbered])

    def part_before(self, module: str) -> Stem:
        """Unfreezes as `unfreeze_from(module)` does, and returns what lies below, which stays as it is meanwhile; from now on `forward`
        also takes what that gave. `RecipeError` where there is no such module, or no such part."""
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
        """Whether activations of the layers that are trainable now are recomputed for their gradients instead of kept
        (`checkpointed`): less memory, more time. `RecipeError` if this network cannot do it."""
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
        """A hash of all that decides a feature: weights, layer, pooling, transform, the precision of the device where they lie."""
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
        """What each source gives, in its own layout."""
        network, takes = self.network, "images"
        if self._stem is not None and images.shape[1:] != (3, self.transform.size, self.transform.size):
            network, takes = self._stem.above, "maps"
            images = images.reshape(len(images), *self._stem.shape)
        if torch.is_grad_enabled():
            network = self._checkpointed.get(takes, network)
        found: Tensor | dict[str, Tensor] = network(images)
        return [found[output] for output in self._outputs] if isinstance(found, dict) else [found]

    def _regions(self, found: list[Tensor]) -> Tensor:
        """What the sources gave, in any layout -> (B,R,F)."""
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
    """The (h,w) of a layer's regions; (1,1) for a vector, None for tokens that are no square."""
    if output.ndim == 4:
        return (output.shape[1], output.shape[2]) if _channels_last(output) else (output.shape[2], output.shape[3])
    cells = 1 if output.ndim == 2 else output.shape[1] - prefix
    side = math.isqrt(cells)
    return (side, side) if side * side == cells else None


def _channels_last(output: Tensor) -> bool:
    """Images are square, and so are grids."""
    return output.shape[1] == output.shape[2] != output.shape[3]


def transform_of(model: nn.Module, *, image_size: int = 0, crop: str = "") -> ImageTransform:
    """The transform that comes with a timm model's weights, at another size or crop where asked for."""
    known = resolve_model_data_config(model)
    size = image_size or int(known["input_size"][-1])
    crop_mode: Literal["center", "squash"] = "squash" if (crop or known["crop_mode"]) == "squash" else "center"
    resize = size if crop_mode == "squash" else int(size / float(known["crop_pct"]))
    interpolation: Literal["bilinear", "bicubic"] = "bilinear" if known["interpolation"] == "bilinear" else "bicubic"
    r, g, b = (float(x) for x in known["mean"])
    sr, sg, sb = (float(x) for x in known["std"])
    return ImageTransform(
        size=size, resize=resize, crop_mode=crop_mode, mean=(r, g, b), std=(sr, sg, sb), interpolation=interpolation
    )


def _weight_files(names: Sequence[str], weights: Path | None) -> dict[str, Path | None]:
    """The file of each network's weights, if they come from files: a folder holds NAME.safetensors of each."""
    unique = dict.fromkeys(names)
    if weights is not None and weights.is_dir():
        return {name: weights / f"{name}.safetensors" for name in unique}
    if weights is not None and len(unique) > 1:
        files = ", ".join(f"{name}.safetensors" for name in unique)
        raise RecipeError(f"--encoder-weights {weights}: there are {len(unique)} encoders; give a folder with {files}")
    return dict.fromkeys(unique, weights)


def _backbone(
    name: str,
    layers: dict[str, str],
    *,
    image_size: int,
    crop: str,
    pretrained: bool,
    weights: Path | None,
) -> Backbone:
    """The network called `name`, its weights loaded, cut to give `layers` under their keys."""
    model = _create(name, pretrained=pretrained and weights is None)
    if weights is not None:
        _load(model, weights)
    transform = transform_of(model, image_size=image_size, crop=crop)
    prefix = int(getattr(model, "num_prefix_tokens", 0))
    layout = _layout(model)
    network = _cut(model, name, layers).to(memory_format=layout)
    return Backbone(name, network, tuple(layers), transform, prefix, layout)


def _layout(model: nn.Module) -> torch.memory_format:
    """Channels last, in which convolutions are fast. Networks with group norms keep their layout before torch 2.14: in
    channels last, the gradient of a group norm whose input needs none ends the process there."""
    crashes = TorchVersion(torch.__version__) < "2.14" and any(isinstance(m, nn.GroupNorm) for m in model.modules())
    return torch.contiguous_format if crashes else torch.channels_last


def _create(name: str, *, pretrained: bool) -> nn.Module:
    if name == "small":
        return SmallCNN()
    if not timm.is_model(name.split(".")[0]):
        near = timm.list_models(f"*{re.split('[._]', name)[0]}*")[:5]
        raise RecipeError(
            f"encoder.name is '{name}', which timm does not know; near it: {', '.join(near) or 'nothing'}"
        )
    try:
        with _quiet("huggingface_hub"):
            return timm.create_model(name, pretrained=pretrained, num_classes=0, global_pool="")  # type: ignore[no-any-return]
    except Exception as error:  # the hub's client raises many kinds
        if not pretrained:
            raise RecipeError(f"encoder.name '{name}' cannot be built: {error}") from error
        kind = type(error).__name__
        why = why_no_hub() if kind == "LocalEntryNotFoundError" else f"the hub's client raised {kind}"
        raise WeightsError(
            f"the weights of '{name}' cannot be had: {why}; connect once, or give a file with --encoder-weights"
        ) from error


@contextlib.contextmanager
def _quiet(logger: str) -> Iterator[None]:
    """Without a connection the hub's client tells of each of its many tries; the error at the end says it once."""
    client = logging.getLogger(logger)
    before = client.level
    client.setLevel(logging.ERROR)
    try:
        yield
    finally:
        client.setLevel(before)


def _load(model: nn.Module, path: Path) -> None:
    """Loads a .safetensors file under timm's parameter names; a classifier in it is left out."""
    if not path.is_file():
        raise WeightsError(f"--encoder-weights {path}: no such file; expected a .safetensors file of this encoder")
    try:
        state = {name: tensor.float() for name, tensor in load_file(path).items()}
    except SafetensorError as error:
        raise WeightsError(f"--encoder-weights {path}: not a safetensors file ({error})") from None
    wanted = model.state_dict()
    wrong = [
        n
        for n in wanted
        if not n.endswith("num_batches_tracked") and (n not in state or state[n].shape != wanted[n].shape)
    ]
    if wrong:
        raise WeightsError(
            f"--encoder-weights {path}: {len(wrong)} of {len(wanted)} tensors are missing or of another shape "
            f"({', '.join(wrong[:3])} …); expected the weights of this very encoder under timm's names"
        )
    model.load_state_dict({name: state[name] for name in wanted if name in state}, strict=False)


def _cut(model: nn.Module, name: str, layers: dict[str, str]) -> nn.Module:
    """The part of `model` that computes `layers`, given by the keys for them; what comes after the last is never run."""
    if list(layers.values()) == [""]:
        return model
    for layer in layers.values():
        if not layer or layer not in dict(model.named_modules()):
            names = [n for n, _ in model.named_children()]
            raise RecipeError(f"encoder.layer is '{layer}', which {name} does not have; {_some(names, layer)}")
    try:
        graph = create_feature_extractor(model, {layer: key for key, layer in layers.items()}).eval_graph
    except Exception as error:  # what cannot be traced raises many kinds
        raise RecipeError(
            f"{name} cannot be cut at encoder.layer {', '.join(layers.values())} ({first_line(error)}); "
            "leave encoder.layer empty"
        ) from error
    # Batch norm may write to its statistics, so fx takes it for something that has to run even where nothing reads it.
    graph.eliminate_dead_code(is_impure_node=lambda node: node.op in ("placeholder", "output"))
    return GraphModule(model, graph, class_name=type(model).__name__)


def _without_norms(module: nn.Module) -> Iterator[nn.Parameter]:
    """A module's own parameters, not its children's; none of batch norm."""
    if not isinstance(module, nn.modules.batchnorm._BatchNorm):
        yield from module.parameters(recurse=False)


def _some(names: list[str], wrong: str) -> str:
    return meant(wrong, names, f"expected one of {', '.join(names)}")


def _without_tf32() -> contextlib.AbstractContextManager[None]:
    cudnn = torch.backends.cudnn
    return cudnn.flags(enabled=True, benchmark=cudnn.benchmark, deterministic=cudnn.deterministic, allow_tf32=False)


def fast_bfloat16(device: str) -> bool:
    """Whether a device of that kind multiplies bfloat16 natively; older GPUs emulate it, slowly."""
    if device == "cuda":
        return torch.cuda.is_available() and torch.cuda.is_bf16_supported(including_emulation=False)
    return device == "cpu" and torch.cpu._is_avx512_bf16_supported()


class SmallCNN(nn.Module):
    """Four strided 3×3 convolutions, trained from scratch: the encoder of the demo's drawn scenes.

    images (B,3,S,S) -> (B,F,S/16,S/16). Group norm, so that batches of any size and `eval()` mean the same.
    """

    def __init__(self, num_features: int = 128) -> None:
        super().__init__()
        self.num_features = num_features
        self.pretrained_cfg = {
            "input_size": (3, 96, 96), "mean": (0.5, 0.5, 0.5), "std": (0.5, 0.5, 0.5),
            "interpolation": "bilinear", "crop_pct": 1.0, "crop_mode": "squash",
        }  # fmt: skip
        widths = (3, 32, 64, 96, num_features)
        self.layers = nn.Sequential()
        for index, (i, o) in enumerate(itertools.pairwise(widths)):
            self.layers.add_module(f"conv{index}", nn.Conv2d(i, o, 3, stride=2, padding=1))
            self.layers.add_module(f"norm{index}", nn.GroupNorm(8, o))
            self.layers.add_module(f"relu{index}", nn.ReLU())

    def forward(self, images: Tensor) -> Tensor:
        """images (B,3,S,S) -> feature map (B,F,S/16,S/16)."""
        features: Tensor = self.layers(images)
        return features
