"""CLIPScore (Hessel et al., EMNLP 2021): how well captions fit their images, as a CLIP model sees it.

It needs the images, and no references; RefCLIPScore weighs references in. The model is one of OpenAI's or of anybody who
trained another, in the format of the library `transformers`, which is the extra `clip`.
"""

from __future__ import annotations

import json
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Self

import torch
from PIL import Image
from torch import Tensor
from torch.nn import functional as F
from torchvision import transforms

from showtell.errors import BundleError, DataError, ImageError, MissingExtraError
from showtell.hub import fetch_model
from showtell.images import open_image

PAPERS = "openai/clip-vit-base-patch32"

_PROMPT = "A photo depicts "
_WEIGHT = 2.5  # stretches what cosines there are, 0 … 0.4, to 0 … 1
_SMALL = ("config.json", "preprocessor_config.json", "tokenizer*.json", "vocab.json", "merges.txt", "special_tokens_map.json")  # fmt: skip
_WEIGHTS = ("model.safetensors", "pytorch_model.bin")
_BATCH = 64

Progress = Callable[[str, int, int], None]


class ClipScorer:
    """A CLIP model that judges captions; `name` is where it came from."""

    def __init__(self, name: str, model: Any, tokenizer: Any, transform: Callable[[Image.Image], Tensor]) -> None:
        self.name = name
        self._model, self._tokenizer, self._transform = model, tokenizer, transform
        self._device = next(model.parameters()).device
        self._known: dict[str, Tensor] = {}

    @classmethod
    def load(cls, source: str | Path = PAPERS) -> Self:
        """Loads a folder, or `user/name[@revision]` of the hub, where it is fetched once; on a GPU if there is one.

        Raises `MissingExtraError` without the extra, `BundleError` for what is no CLIP model, `DownloadError` where the
        hub does not answer.
        """
        try:
            import transformers
        except ImportError:
            raise MissingExtraError("CLIPScore", "clip") from None
        folder = fetch_model(source, small=_SMALL, weights=_WEIGHTS)
        _check(folder, source)
        transformers.logging.set_verbosity_error()  # type: ignore[attr-defined,unused-ignore]
        transformers.logging.disable_progress_bar()
        try:
            model = transformers.CLIPModel.from_pretrained(folder, local_files_only=True)
            tokenizer = transformers.AutoTokenizer.from_pretrained(folder, local_files_only=True)
            transform = _transform(json.loads((folder / "preprocessor_config.json").read_text(encoding="utf-8")))
        except Exception as error:  # the loaders of three formats raise many kinds
            first = next((line for line in str(error).splitlines() if line.strip()), type(error).__name__)
            raise BundleError(f"{source} cannot be read as a CLIP model ({first}); fetch or save it again") from None
        device = "cuda" if torch.cuda.is_available() else "cpu"
        return cls(str(source), model.float().eval().to(device), tokenizer, transform)

    def look_at(
        self,
        images: Sequence[Path],
        references: Sequence[Sequence[str]],
        *,
        progress: Progress = lambda what, done, total: None,
    ) -> Judge:
        """Looks at the images once, and reads each one's references. `DataError` if an image is missing or broken."""
        seen: list[Tensor] = []
        for batch in _batches(images):
            try:
                pixels = torch.stack([self._transform(open_image(path)) for path in batch])
            except ImageError as error:
                raise DataError(f"CLIPScore needs every image: {error}") from None
            seen.extend(self._encode(self._model.vision_model, self._model.visual_projection, pixel_values=pixels))
            progress("looking at the images with CLIP", len(seen), len(images))
        return Judge(self, torch.stack(seen), [self.read(captions) for captions in references])

    def read(self, captions: Sequence[str]) -> Tensor:
        """Captions (N) -> unit vectors (N,D)."""
        new = [caption for caption in dict.fromkeys(captions) if caption not in self._known]
        for batch in _batches(new):
            tokens = self._tokenizer(
                [_PROMPT + caption for caption in batch], padding=True, truncation=True, return_tensors="pt",
                max_length=self._model.config.text_config.max_position_embeddings,
            )  # fmt: skip
            vectors = self._encode(
                self._model.text_model, self._model.text_projection,
                input_ids=tokens["input_ids"], attention_mask=tokens["attention_mask"],
            )  # fmt: skip
            self._known |= dict(zip(batch, vectors, strict=True))
        return torch.stack([self._known[caption] for caption in captions])

    @torch.inference_mode()
    def _encode(self, tower: Any, projection: Any, **inputs: Tensor) -> Tensor:
        pooled = tower(**{name: value.to(self._device) for name, value in inputs.items()}).pooler_output
        return F.normalize(projection(pooled), dim=-1).cpu()


@dataclass(frozen=True)
class Judge:
    """Images that a CLIP model has looked at, with their references: `images` (N,D), `references` N × (K,D)."""

    scorer: ClipScorer
    images: Tensor
    references: Sequence[Tensor]

    def __call__(self, captions: Sequence[str]) -> dict[str, list[float]]:
        """Each image's scores of one caption: `clip_s` is CLIPScore, 2.5 · max(cos, 0); `ref_clip_s` its harmonic mean
        with the caption's largest cosine to a reference, RefCLIPScore."""
        said = self.scorer.read(captions)
        fits = _WEIGHT * (said * self.images).sum(-1).clamp(min=0)
        alike = torch.stack([(written @ caption).max() for written, caption in zip(self.references, said, strict=True)])
        alike = alike.clamp(min=0)
        both = torch.where(fits + alike > 0, 2 * fits * alike / (fits + alike).clamp(min=1e-12), 0.0)
        return {"clip_s": fits.tolist(), "ref_clip_s": both.tolist()}


def _transform(settings: dict[str, Any]) -> Callable[[Image.Image], Tensor]:
    """The way in which OpenAI's code prepares a picture, with a model's own sizes and colours."""
    size, crop = settings["size"], settings["crop_size"]
    chain = transforms.Compose([
        transforms.Resize(
            size["shortest_edge"] if isinstance(size, dict) else size, transforms.InterpolationMode.BICUBIC
        ),
        transforms.CenterCrop((crop["height"], crop["width"]) if isinstance(crop, dict) else crop),
        transforms.ToTensor(),
        transforms.Normalize(settings["image_mean"], settings["image_std"]),
    ])  # fmt: skip
    return chain  # type: ignore[no-any-return,unused-ignore]


def _check(folder: Path, source: str | Path) -> None:
    try:
        kind = json.loads((folder / "config.json").read_text(encoding="utf-8")).get("model_type")
    except (OSError, ValueError, AttributeError):
        kind = None
    if kind != "clip":
        found = (
            f"is a model of the kind '{kind}'" if isinstance(kind, str) else "holds no model of transformers' format"
        )
        raise BundleError(f"{source} {found}; expected a CLIP model, such as {PAPERS}")


def _batches(items: Sequence[Any]) -> Iterator[Sequence[Any]]:
    return (items[start : start + _BATCH] for start in range(0, len(items), _BATCH))
