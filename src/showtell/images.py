"""Safe decoding of images, and the one path from pixels to model input in training, evaluation and serving."""

from __future__ import annotations

import contextlib
import glob
import io
import itertools
import os
import warnings
from collections import Counter
from collections.abc import Iterable, Iterator
from dataclasses import asdict, dataclass, replace
from pathlib import Path
from typing import Any, BinaryIO, Literal, Self

import numpy as np
from numpy.typing import NDArray
from PIL import Image, ImageOps, UnidentifiedImageError

from showtell.errors import DataError, ImageError

# Damaged EXIF blocks and palettes with transparency are handled below. The filter is set once, because `catch_warnings`
# changes filters for all threads and may leave them changed.
warnings.filterwarnings("ignore", module=r"PIL\.")

SUFFIXES = frozenset(
    [".jpg", ".jpeg", ".jpe", ".jfif", ".png", ".webp", ".gif", ".bmp", ".tif", ".tiff", ".ppm", ".pgm", ".avif"]
)
# What else pictures end in, phones' and cameras' above all: not read, and so named where they are passed over.
UNREAD = frozenset(
    [".heic", ".heif", ".hif", ".jp2", ".j2k", ".jxl", ".svg", ".psd", ".raw", ".dng", ".cr2", ".cr3", ".nef", ".arw", ".orf", ".raf", ".rw2"]
)  # fmt: skip
MAX_PIXELS = 100_000_000
MAX_BYTES = 256 * 1024 * 1024

Source = str | Path | bytes | BinaryIO | Image.Image

# The formats behind SUFFIXES and their camera variants. Pillow knows more, one of which starts another program.
_FORMATS = {
    "JPEG": ".jpg", "MPO": ".jpg", "PNG": ".png", "WEBP": ".webp", "GIF": ".gif", "BMP": ".bmp", "DIB": ".bmp", "TIFF": ".tif",
    "PPM": ".ppm", "AVIF": ".avif",
}  # fmt: skip

# What is often taken for one of them, by its first bytes in small letters.
_HEIC = tuple(b"ftyp" + brand for brand in (b"heic", b"heix", b"heim", b"heis", b"hevc", b"hevx", b"mif1", b"msf1"))
_PAGE = (b"<!doctype html", b"<html", b"<head")

_INTERPOLATION = {"bilinear": Image.Resampling.BILINEAR, "bicubic": Image.Resampling.BICUBIC}


@dataclass(frozen=True, slots=True)
class ImageTransform:
    """How pixels become numbers. Caches and bundles are compatible only where their transforms are equal.

    "center": the shorter side is resized to `resize` pixels and the middle `size`×`size` is kept; "squash": the whole
    frame is resized to `size`×`size`. `mean` and `std` are of RGB in 0 … 1.
    """

    size: int
    resize: int
    crop_mode: Literal["center", "squash"]
    mean: tuple[float, float, float]
    std: tuple[float, float, float]
    interpolation: Literal["bilinear", "bicubic"]

    def __call__(self, image: Image.Image) -> NDArray[np.float32]:
        """An RGB image -> float32 (3,size,size), normalised."""
        box = self.crop_box(*image.size)
        resized = image.resize((self.size, self.size), _INTERPOLATION[self.interpolation], box=box)
        pixels = np.asarray(resized)  # (S,S,3)
        normalised = np.empty((3, self.size, self.size), dtype=np.float32)
        for channel, (mean, std) in enumerate(zip(self.mean, self.std, strict=True)):
            np.multiply(pixels[..., channel], np.float32(1 / (255 * std)), out=normalised[channel])
            normalised[channel] -= np.float32(mean / std)
        return normalised

    @property
    def enough(self) -> int:
        """Pixels that the shorter side needs for `open_image`: twice what is left, so that resizing still averages."""
        return 2 * max(self.size, self.resize)

    def crop_box(self, width: int, height: int) -> tuple[float, float, float, float]:
        """(left, top, right, bottom) of what the encoder sees, in pixels of a `width`×`height` image."""
        if self.crop_mode == "squash":
            return (0.0, 0.0, float(width), float(height))
        side = min(width, height) * min(1.0, self.size / self.resize)
        left, top = (width - side) / 2, (height - side) / 2
        return (left, top, left + side, top + side)

    def to_dict(self) -> dict[str, Any]:
        """The transform as config.json keeps it."""
        return {**asdict(self), "mean": list(self.mean), "std": list(self.std)}

    @classmethod
    def from_dict(cls, values: dict[str, Any]) -> Self:
        """The transform that `to_dict` wrote."""
        return cls(**{**values, "mean": tuple(values["mean"]), "std": tuple(values["std"])})


@dataclass(frozen=True, slots=True)
class View:
    """One way to look at an image: a transform, then quarter turns (counterclockwise), then perhaps a mirror."""

    transform: ImageTransform
    mirrored: bool = False
    quarters: int = 0

    def __call__(self, image: Image.Image) -> NDArray[np.float32]:
        """An RGB image -> float32 (3,size,size)."""
        return self.turn(self.transform(image))

    def turn(self, pixels: NDArray[np.float32]) -> NDArray[np.float32]:
        """Turns and mirrors the output of `transform` (3,S,S)."""
        pixels = np.rot90(pixels, self.quarters, axes=(1, 2))
        return np.ascontiguousarray(pixels[..., ::-1] if self.mirrored else pixels)

    @property
    def swaps_sides(self) -> bool:
        """Whether what is on the left of the picture is on the right of this view."""
        return self.quarters == (0 if self.mirrored else 2)


def views_of(transform: ImageTransform, count: int, *, turned: bool = False) -> tuple[View, ...]:
    """The first `count` views: as `transform` sees it, the same mirrored, then two more or, with `turned`, six.

    The two are another crop, plain and mirrored: the middle seven eighths of the shorter side where `transform` sees
    the whole frame, and the whole frame where it sees the middle. The six are turned by two, one and three quarters,
    each plain and mirrored.
    """
    both = (False, True)
    if turned:
        return tuple(View(transform, mirrored, quarters) for quarters in (0, 2, 1, 3) for mirrored in both)[:count]
    other = replace(transform, crop_mode="squash")
    if transform.crop_mode == "squash":
        other = replace(transform, crop_mode="center", resize=transform.size * 8 // 7)
    return tuple(View(way, mirrored) for way in (transform, other) for mirrored in both)[:count]


def open_image(source: Source, *, max_pixels: int = MAX_PIXELS, name: str = "", enough: int = 0) -> Image.Image:
    """The picture as RGB: upright, first frame, transparency on white, 16 bits scaled to 8.

    Raises `ImageError` for anything that is not a whole image or has more than `max_pixels`, which the header tells
    before a pixel is decoded. The error calls it `name`, by default its path or "image". With `enough`, a JPEG whose
    shorter side has at least twice as many pixels is decoded at a half, a quarter or an eighth of its size, no side
    shorter than `enough`: a camera's photo takes a quarter of the time and a tenth of the memory.
    """
    return open_sized(source, max_pixels=max_pixels, name=name, enough=enough)[0]


def open_sized(
    source: Source, *, max_pixels: int = MAX_PIXELS, name: str = "", enough: int = 0
) -> tuple[Image.Image, tuple[int, int]]:
    """What `open_image` returns, and the (width, height) of the whole picture, upright."""
    name = name or (str(source) if isinstance(source, str | Path) else "image")
    try:
        return _decode(source, name, max_pixels, enough)
    except ImageError:
        raise
    except FileNotFoundError:
        raise ImageError(f"{name}: no such file") from None
    except Exception as error:  # Pillow's plugins raise nearly anything on damaged data
        raise ImageError(f"{name}: cannot be read as an image ({_reason(error)})") from None


def suffix_of(content: bytes) -> str:
    """The suffix, one of `SUFFIXES`, that an image file of this content should have; `ImageError` where its header is no
    image's. No pixel is decoded."""
    try:
        with _opened(io.BytesIO(content)) as image:
            return _FORMATS[str(image.format)]
    except Exception as error:  # Pillow's plugins raise nearly anything on damaged data
        raise ImageError(_reason(error)) from None


def pixels_decoded(content: bytes, *, enough: int = 0) -> int:
    """How many pixels `open_image` decodes of an image file, by its header; 0 for what is no image."""
    try:
        with _opened(io.BytesIO(content)) as image:
            if enough:
                image.draft(None, (enough, enough))
            return image.width * image.height
    except Exception:  # `open_image` says what is wrong with it
        return 0


def decoding_threads() -> int:
    """One per core that this process may use, at most eight; processes that train together share the cores."""
    allowed = len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count() or 1
    together = int(os.environ.get("LOCAL_WORLD_SIZE") or 1)  # torchrun's
    return max(1, min(8, allowed // together))


def find_images(arguments: Iterable[str], unread: Counter[str] | None = None) -> Iterator[Path]:
    """The files that `photo.jpg folder/ '*.png'` name: folders are searched recursively, patterns expanded, sorted.

    Folders are read one at a time, so that not all names are in memory; pictures in them that are not read are counted
    in `unread`, by suffix. Raises `DataError` for a folder without images and a pattern without matches; a missing file
    is passed on.
    """
    unread = Counter() if unread is None else unread
    for argument in arguments:
        path = Path(argument)
        if path.is_dir():
            before, found = unread.copy(), _images_below(path, unread)
            first = next(found, None)
            if first is None:
                missed = unread - before
                advice = f"; {told_unread(missed)}; convert to JPEG" if missed else ""
                raise DataError(
                    f"no image in {argument}: expected files ending in {', '.join(sorted(SUFFIXES))}{advice}"
                )
            yield from itertools.chain([first], found)
        elif path.exists() or not glob.has_magic(argument):
            yield path  # a missing file is reported when it is opened, and the rest goes on
        else:
            matches = sorted(Path(p) for p in glob.glob(argument, recursive=True))
            files = [p for p in matches if p.is_file()]
            if not files:
                only = f"; it matches {len(matches)} folder{'s' * (len(matches) > 1)}, which are searched when named themselves"
                raise DataError(f"no file matches '{argument}'{only * bool(matches)}")
            yield from files


def told_unread(unread: Counter[str]) -> str:
    """How many pictures of which suffixes were not read: "2 files ending in .heic were not read"."""
    count = unread.total()
    what = "1 file" if count == 1 else f"{count} files"
    return f"{what} ending in {' or '.join(sorted(unread))} {'was' if count == 1 else 'were'} not read"


def _images_below(folder: Path, unread: Counter[str]) -> Iterator[Path]:
    """The images in a folder and its subfolders, sorted by path; other pictures are counted by suffix.

    Links to folders are skipped, and so are folders that may not be read or have disappeared.
    """
    try:
        with os.scandir(folder) as entries:
            wanted = (entry for entry in entries if _is_wanted(entry, unread))
            folders = {entry.name: entry.is_dir(follow_symlinks=False) for entry in wanted}
    except (PermissionError, FileNotFoundError, NotADirectoryError):
        return
    for name in sorted(folders):
        path = folder / name
        if folders[name]:
            yield from _images_below(path, unread)
        elif path.is_file():
            yield path


def _is_wanted(entry: os.DirEntry[str], unread: Counter[str]) -> bool:
    suffix = os.path.splitext(entry.name)[1].lower()
    if suffix in SUFFIXES or entry.is_dir(follow_symlinks=False):
        return True
    if suffix in UNREAD and not entry.name.startswith("._"):  # macOS writes "._" files beside others
        unread[suffix] += 1
    return False


def _decode(source: Source, name: str, max_pixels: int, enough: int) -> tuple[Image.Image, tuple[int, int]]:
    if isinstance(source, Image.Image):
        upright = _upright_rgb(source)
        return upright, upright.size
    if isinstance(source, str | Path):
        path = Path(source)
        if path.is_dir():
            raise ImageError(f"{name}: a folder, expected an image")
        if path.stat().st_size > MAX_BYTES:
            raise ImageError(f"{name}: {path.stat().st_size / 2**20:.0f} MiB, expected at most {MAX_BYTES // 2**20}")
        source = path.read_bytes()
    if not isinstance(source, bytes) and not hasattr(source, "read"):
        kind = type(source).__name__
        raise ImageError(f"{name}: of type {kind}, expected a path, bytes, a file or a PIL image")
    with _opened(io.BytesIO(source) if isinstance(source, bytes) else source) as image:
        width, height = image.size
        if width * height > max_pixels:
            raise ImageError(f"{name}: {width}×{height} pixels, expected at most {max_pixels:,} in all")
        if enough:
            image.draft(None, (enough, enough))  # only affects JPEGs
        image.load()
        upright = _upright_rgb(image)
        lies = (upright.width > upright.height) != (image.width > image.height)
        return upright, (height, width) if lies else (width, height)


def _opened(stream: BinaryIO) -> Image.Image:
    """The image whose header begins a stream; its pixels are read later."""
    Image.init()
    known = [kind for kind in _FORMATS if kind in Image.OPEN]  # Pillow may be built without some
    # Pillow's own limit only warns between one and two times its size; ours is exact and comes first. The limit is global
    # and stays lifted: setting it back would race with other threads.
    Image.MAX_IMAGE_PIXELS = None
    try:
        return Image.open(stream, formats=known)
    except UnidentifiedImageError:
        raise ValueError(_instead(stream)) from None


def _instead(stream: BinaryIO) -> str:
    """What a stream holds that begins as no image does."""
    head = b""
    with contextlib.suppress(Exception):  # a stream of somebody's own may not go back
        stream.seek(0)
        head = stream.read(256).lower()
        if not head:
            return "it is empty"
    if head[4:].startswith(_HEIC):
        return "it is HEIC, which showtell does not read; convert it to JPEG"
    if head.removeprefix(b"\xef\xbb\xbf").lstrip().startswith(_PAGE):
        return "it is a web page, not an image"
    return f"not an image, or none of {', '.join(_FORMATS)}"


def _upright_rgb(image: Image.Image) -> Image.Image:
    with contextlib.suppress(Exception):  # a damaged EXIF block: the picture itself is whole
        image = ImageOps.exif_transpose(image)
    if image.mode.startswith("I") or image.mode == "F":
        return _eight_bits(image).convert("RGB")
    if image.mode in ("LA", "PA", "RGBA", "La", "RGBa") or "transparency" in image.info:
        layered = image.convert("RGBA")
        white = Image.new("RGBA", layered.size, "white")
        return Image.alpha_composite(white, layered).convert("RGB")
    return image.convert("RGB")


def _eight_bits(image: Image.Image) -> Image.Image:
    """Integer and float greyscale -> L: 16 bits are divided by 257, floats in 0 … 1 multiplied by 255."""
    values = np.asarray(image).astype(np.float32)
    largest = float(values.max(initial=0))
    if image.mode == "F":
        scale = 255.0 if largest <= 1 else 255.0 / max(largest, 255.0)
    else:
        scale = 1.0 if largest <= 255 and not image.mode.startswith("I;16") else 255.0 / max(65535.0, largest)
    return Image.fromarray(np.clip(np.nan_to_num(values) * scale, 0, 255).round().astype(np.uint8))


def _reason(error: Exception) -> str:
    return str(error).split("<")[0].strip() or type(error).__name__
