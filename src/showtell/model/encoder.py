"""The CNN: images (B,3,S,S) to features (B,R,F). Any timm model, at any named layer.

B images · R regions (h·w of the grid, or 1 when pooled) · F feature size · S side of the input in pixels
"""

from __future__ import annotations

import hashlib
import itertools
import json
import re
from collections.abc import Iterator
from pathlib import Path
from typing import Literal

import timm
import torch
from safetensors import SafetensorError
from safetensors.torch import load_file
from timm.data import resolve_model_data_config
from torch import Tensor, nn
from torchvision.models.feature_extraction import create_feature_extractor

from showtell.errors import RecipeError
from showtell.images import ImageTransform


class Encoder(nn.Module):
    """A timm model cut after one layer. `forward` returns features (B,R,F) in single precision.

    It stays in `eval()` whatever `train()` says: its batch-norm statistics never drift, frozen or fine-tuned.
    """

    def __init__(
        self,
        *,
        name: str,
        layer: str = "",
        pooled: bool = False,
        image_size: int = 0,
        crop: Literal["", "center", "squash"] = "",
        pretrained: bool = False,
        weights: Path | None = None,
    ) -> None:
        super().__init__()
        model = _create(name, pretrained=pretrained and weights is None)
        if weights is not None:
            _load(model, weights)
        self.transform = transform_of(model, image_size=image_size, crop=crop)
        self.pooled = pooled
        self._channels = int(model.num_features)  # type: ignore[arg-type]
        self._prefix_tokens = int(getattr(model, "num_prefix_tokens", 0))
        self.network = _cut(model, name, layer).to(memory_format=torch.channels_last)
        self.eval().requires_grad_(False)
        with torch.inference_mode():
            probe = self._run(torch.zeros(1, 3, self.transform.size, self.transform.size))
        self.grid: tuple[int, int] | None = None if pooled or probe.ndim != 4 else (probe.shape[2], probe.shape[3])
        self.feature_size = int(self._regions(probe).shape[2])
        self.regions = int(self._regions(probe).shape[1])

    def forward(self, images: Tensor) -> Tensor:
        """images (B,3,S,S), normalised by `transform` -> features (B,R,F), R = 1 when pooled."""
        return self._regions(self._run(images.contiguous(memory_format=torch.channels_last))).float()

    @torch.inference_mode()
    def encode(self, images: Tensor, *, exact: bool = False) -> Tensor:
        """`forward` without gradients, in bfloat16 where the processor multiplies it natively: the path of the
        feature cache, of validation and of captioning alike. `exact` keeps single precision."""
        device = images.device.type
        with torch.autocast(device, torch.bfloat16, enabled=not exact and fast_bfloat16(device)):
            return self(images)  # type: ignore[no-any-return]

    def train(self, mode: bool = True) -> Encoder:
        """Never leaves `eval()`: see the class."""
        return super().train(False)

    def unfreeze_from(self, module: str) -> list[nn.Parameter]:
        """Makes `module` and all that follows it trainable, batch norm left out; returns those parameters."""
        self.requires_grad_(False)
        names = [name for name, _ in self.network.named_children()]
        if module not in names:
            raise RecipeError(
                f"train.phases.encoder_from is '{module}', which this encoder does not have: {_some(names)}"
            )
        chosen = [p for name in names[names.index(module) :] for p in _without_norms(self.network.get_submodule(name))]
        for parameter in chosen:
            parameter.requires_grad_(True)
        return chosen

    def fingerprint(self) -> str:
        """A hash of all that decides a feature: weights, layer, pooling, transform, precision."""
        digest = hashlib.sha256(json.dumps([self.transform.to_dict(), self.pooled, fast_bfloat16("cpu")]).encode())
        digest.update(str(self.network).encode())
        for name, tensor in sorted(self.network.state_dict().items()):
            digest.update(name.encode())
            digest.update(tensor.detach().cpu().contiguous().numpy().tobytes())
        return digest.hexdigest()

    def _run(self, images: Tensor) -> Tensor:
        output: Tensor | dict[str, Tensor] = self.network(images)
        return output["features"] if isinstance(output, dict) else output

    def _regions(self, output: Tensor) -> Tensor:
        """A layer's output in any of its layouts -> (B,R,F)."""
        if output.ndim == 2:  # (B,F)
            return output[:, None]
        if output.ndim == 4 and output.shape[1] != self._channels and output.shape[3] == self._channels:
            output = output.permute(0, 3, 1, 2)  # (B,h,w,F) -> (B,F,h,w)
        if output.ndim == 4:
            output = output.flatten(2).transpose(1, 2)  # (B,F,h,w) -> (B,R,F)
        else:
            output = output[:, self._prefix_tokens :]  # (B,P+R,F) -> (B,R,F)
        return output.mean(1, keepdim=True) if self.pooled else output


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


def _create(name: str, *, pretrained: bool) -> nn.Module:
    if name == "small":
        return SmallCNN()
    if not timm.is_model(name.split(".")[0]):
        near = timm.list_models(f"*{re.split('[._]', name)[0]}*")[:5]
        raise RecipeError(
            f"encoder.name is '{name}', which timm does not know; near it: {', '.join(near) or 'nothing'}"
        )
    try:
        return timm.create_model(name, pretrained=pretrained, num_classes=0, global_pool="")  # type: ignore[no-any-return]
    except Exception as error:  # the hub's client raises many kinds
        if not pretrained:
            raise RecipeError(f"encoder.name '{name}' cannot be built: {error}") from error
        raise RecipeError(
            f"the weights of '{name}' cannot be had from the hub ({type(error).__name__}); "
            "connect once, or give a file with --encoder-weights"
        ) from error


def _load(model: nn.Module, path: Path) -> None:
    """Loads a .safetensors file under timm's parameter names; a classifier in it is left out."""
    if not path.is_file():
        raise RecipeError(f"--encoder-weights {path}: no such file; expected a .safetensors file of this encoder")
    try:
        state = {name: tensor.float() for name, tensor in load_file(path).items()}
    except SafetensorError as error:
        raise RecipeError(f"--encoder-weights {path}: not a safetensors file ({error})") from None
    wanted = model.state_dict()
    wrong = [
        n
        for n in wanted
        if not n.endswith("num_batches_tracked") and (n not in state or state[n].shape != wanted[n].shape)
    ]
    if wrong:
        raise RecipeError(
            f"--encoder-weights {path}: {len(wrong)} of {len(wanted)} tensors are missing or of another shape "
            f"({', '.join(wrong[:3])} …); expected the weights of this very encoder under timm's names"
        )
    model.load_state_dict({name: state[name] for name in wanted if name in state}, strict=False)


def _cut(model: nn.Module, name: str, layer: str) -> nn.Module:
    """The part of `model` that computes `layer`; what comes after it is never run."""
    if not layer:
        return model
    if layer not in dict(model.named_modules()):
        names = [n for n, _ in model.named_children()]
        raise RecipeError(f"encoder.layer is '{layer}', which {name} does not have: {_some(names)}")
    cut: nn.Module = create_feature_extractor(model, {layer: "features"})
    return cut


def _without_norms(module: nn.Module) -> Iterator[nn.Parameter]:
    for child in module.modules():
        if not isinstance(child, nn.modules.batchnorm._BatchNorm):
            yield from child.parameters(recurse=False)


def _some(names: list[str]) -> str:
    return f"expected one of {', '.join(names)}"


def fast_bfloat16(device: str) -> bool:
    """Whether the processor multiplies bfloat16 natively."""
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
