"""CLIPScore (Hessel et al., EMNLP 2021): how well captions fit their images, as a CLIP model sees it.

It needs the images, and no references; RefCLIPScore weighs references in. The model is one of OpenAI's or of anybody who
trained another, in the format of the library `transformers`, which is the extra `clip`.
"""

from __future__ import annotations

import contextlib
import json
from collections.abc import Callable, Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Self

import torch
from PIL import Image
from torch import Tensor
from torch.nn import functional as F
from torchvision import transforms

from showtell.devices import choose_device
from showtell.errors import BundleError, DataError, ImageError, MissingExtraError, first_line
from showtell.hub import fetch_model
from showtell.images import decoding_threads, open_image
from showtell.progress import Progress, silent

PAPERS = "openai/clip-vit-base-patch32"

_PROMPT = "A photo depicts "
_WEIGHT = 2.5  # stretches what cosines there are, 0 … 0.4, to 0 … 1
_SETTINGS = ("preprocessor_config.json", "processor_config.json")  # the second as transformers 5 saves a processor
_SMALL = ("config.json", *_SETTINGS, "tokenizer*.json", "vocab.json", "merges.txt", "special_tokens_map.json")
_WEIGHTS = ("model.safetensors", "pytorch_model.bin")
_WAYS = {2: transforms.InterpolationMode.BILINEAR, 3: transforms.InterpolationMode.BICUBIC}  # by Pillow's numbers
_BATCH = 64


class ClipScorer:
    """A CLIP model that judges captions; `name` says which: its folder's name, or the hub's with the commit."""

    def __init__(self, name: str, model: Any, tokenizer: Any, transform: Callable[[Image.Image], Tensor]) -> None:
        self.name = name
        self._model, self._tokenizer, self._transform = model, tokenizer, transform
        self._device = next(model.parameters()).device
        self._seen: dict[Path, Tensor] = {}
        self._read: dict[str, Tensor] = {}

    @classmethod
    def load(cls, source: str | Path = PAPERS, *, device: str | torch.device | None = None) -> Self:
        """Loads a folder, or `user/name[@revision]` of the hub, where it is fetched once; without `device` on a GPU if
        there is one.

        Raises `MissingExtraError` without the extra, `BundleError` for what is no whole CLIP model, `DownloadError` where
        the hub does not answer, `DataError` for a device that is not there.
        """
        try:
            import transformers
        except ImportError:
            raise MissingExtraError("CLIPScore", "clip") from None
        chosen = choose_device(device)
        folder = fetch_model(source, small=_SMALL, weights=_WEIGHTS, check=lambda folder: _check(folder, source))
        transform = _transform(_settings(folder, source), source)
        try:
            with _silent(transformers.logging):
                model, found = transformers.CLIPModel.from_pretrained(
                    folder, local_files_only=True, output_loading_info=True
                )
                tokenizer = transformers.AutoTokenizer.from_pretrained(folder, local_files_only=True)
        except Exception as error:  # the loaders of three formats raise many kinds
            raise BundleError(
                f"{source} cannot be read as a CLIP model ({first_line(error)}); fetch or save it again"
            ) from None
        missing = sorted(name for name in found["missing_keys"] if not name.endswith("position_ids"))
        if missing:
            raise BundleError(
                f"{source} lacks {len(missing)} of a CLIP model's weights (first {missing[0]}); expected a whole one"
            )
        given = folder == Path(source)
        name = folder.resolve().name if given else f"{str(source).partition('@')[0]}@{folder.name[:7]}"
        return cls(name, model.float().eval().to(chosen), tokenizer, transform)

    def look_at(
        self,
        images: Sequence[Path],
        references: Sequence[Sequence[str]] | None = None,
        *,
        progress: Progress = silent,
    ) -> Judge:
        """Looks at the images, and reads each one's references, if there are any; what it has seen it remembers.

        `DataError` if an image is missing or broken, or if there are not as many lists of references as images.
        """
        if not images:
            raise DataError("no images to look at; expected at least one")
        if references is not None and (len(references) != len(images) or not all(references)):
            raise DataError(
                f"{len(images)} images and {sum(map(bool, references))} lists of references; expected one for each"
            )
        new = [path for path in dict.fromkeys(images) if path not in self._seen]
        missing = [path for path in new if not path.is_file()]
        if missing:
            raise DataError(
                f"CLIPScore needs the images, and {len(missing)} of {len(images)} files are missing (first '{missing[0]}'); "
                "restore them, or score without CLIP"
            )
        done = 0
        with ThreadPoolExecutor(decoding_threads()) as pool:
            for batch in _batches(new):
                pixels = torch.stack(list(pool.map(self._open, batch)))
                vectors = self._encode(self._model.vision_model, self._model.visual_projection, pixel_values=pixels)
                self._seen |= dict(zip(batch, vectors, strict=True))
                done += len(batch)
                progress("looking at the images with CLIP", done, len(new))
        written = None
        if references is not None:
            flat = self.read([caption for captions in references for caption in captions], progress=progress)
            written = torch.split(flat, [len(captions) for captions in references])
        seen = torch.stack([self._seen[path] for path in images])
        return Judge(self, seen, written)

    def read(self, captions: Sequence[str], *, progress: Progress = silent) -> Tensor:
        """Captions (N) -> unit vectors (N,D)."""
        new = [caption for caption in dict.fromkeys(captions) if caption not in self._read]
        done = 0
        for batch in _batches(new):
            tokens = self._tokenizer(
                [_PROMPT + caption for caption in batch], padding=True, truncation=True, return_tensors="pt",
                max_length=self._model.config.text_config.max_position_embeddings,
            )  # fmt: skip
            vectors = self._encode(
                self._model.text_model, self._model.text_projection,
                input_ids=tokens["input_ids"], attention_mask=tokens["attention_mask"],
            )  # fmt: skip
            self._read |= dict(zip(batch, vectors, strict=True))
            done += len(batch)
            progress("reading captions with CLIP", done, len(new))
        return torch.stack([self._read[caption] for caption in captions]) if captions else torch.empty(0)

    def _open(self, path: Path) -> Tensor:
        try:
            return self._transform(open_image(path))
        except ImageError as error:
            raise DataError(f"CLIPScore needs every image: {error}") from None

    @torch.inference_mode()
    def _encode(self, tower: Any, projection: Any, **inputs: Tensor) -> Tensor:
        pooled = tower(**{name: value.to(self._device) for name, value in inputs.items()}).pooler_output
        return F.normalize(projection(pooled), dim=-1).cpu()


@dataclass(frozen=True)
class Judge:
    """Images that a CLIP model has looked at, (N,D), and their references, N × (K,D), if there are any."""

    scorer: ClipScorer
    images: Tensor
    references: Sequence[Tensor] | None

    def __call__(self, captions: Sequence[str]) -> dict[str, list[float]]:
        """Each image's scores of one caption: `clip_s` is CLIPScore, 2.5 · max(cos, 0), 0 … 2.5; `ref_clip_s` its harmonic
        mean with the caption's largest cosine to a reference, RefCLIPScore. `DataError` unless there is one caption for
        each image."""
        if isinstance(captions, str) or len(captions) != len(self.images):
            raise DataError(f"{len(captions)} captions for {len(self.images)} images; expected one for each")
        said = self.scorer.read(captions)
        fits = _WEIGHT * (said * self.images).sum(-1).clamp(min=0)
        if self.references is None:
            return {"clip_s": fits.tolist()}
        alike = torch.stack([(written @ caption).max() for written, caption in zip(self.references, said, strict=True)])
        alike = alike.clamp(min=0)
        both = 2 * fits * alike / (fits + alike).clamp(min=1e-12)
        return {"clip_s": fits.tolist(), "ref_clip_s": both.tolist()}


def _settings(folder: Path, source: str | Path) -> dict[str, Any]:
    """How a model's pictures are prepared."""
    for name in _SETTINGS:
        try:
            found = json.loads((folder / name).read_text(encoding="utf-8"))
        except FileNotFoundError:
            continue
        except (OSError, ValueError):
            raise BundleError(f"{source}: {name} is not JSON; fetch or save the CLIP model again") from None
        return dict(found.get("image_processor", found))
    raise BundleError(f"{source} has no {' or '.join(_SETTINGS)}; expected a CLIP model with its image processor")


def _transform(settings: dict[str, Any], source: str | Path) -> Callable[[Image.Image], Tensor]:
    """The way in which OpenAI's code prepares a picture, with a model's own sizes and colours: resized, then cropped.

    `images.ImageTransform` crops first, which moves pixels by up to a half; scores would not be the paper's.
    """
    try:
        size, crop, way = settings["size"], settings["crop_size"], _WAYS[settings.get("resample", 3)]
        side = size if isinstance(size, int) else size["shortest_edge"]
        kept = (crop, crop) if isinstance(crop, int) else (crop["height"], crop["width"])
        colours = transforms.Normalize(settings["image_mean"], settings["image_std"])
        off = [key for key in ("do_resize", "do_center_crop", "do_normalize") if not settings.get(key, True)]
        if off:
            raise KeyError(off[0])
    except (KeyError, TypeError) as error:
        raise BundleError(
            f"{source} prepares its pictures in another way than CLIP ({first_line(error)}); expected a shortest_edge, a crop_size "
            "and the colours' mean and deviation"
        ) from None
    resize, centre = transforms.Resize(side, way), transforms.CenterCrop(kept)
    return transforms.Compose([resize, centre, transforms.ToTensor(), colours])  # type: ignore[no-any-return,unused-ignore]


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


@contextlib.contextmanager
def _silent(logging: Any) -> Iterator[None]:
    """Without the library's warnings and progress bars, which it gets back."""
    level, bars = logging.get_verbosity(), logging.is_progress_bar_enabled()
    logging.set_verbosity_error()
    logging.disable_progress_bar()
    try:
        yield
    finally:
        logging.set_verbosity(level)
        if bars:
            logging.enable_progress_bar()


def _batches(items: Sequence[Any]) -> Iterator[Sequence[Any]]:
    return (items[start : start + _BATCH] for start in range(0, len(items), _BATCH))
