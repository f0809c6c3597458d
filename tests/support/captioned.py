"""Four images, their captions and splits, to be written in any format."""

from __future__ import annotations

from pathlib import Path

from PIL import Image

from showtell.data.annotations import Annotations

CAPTIONS = {
    "one.jpg": ["A cat, on a mat.", "the cat sits"],
    "two.jpg": ["Ein Mädchen läuft.", "a girl runs"],
    "three.jpg": ["two boats at sea", "boats, and more boats"],
    "four.jpg": ["a red door", "the door is shut"],
}


SPLITS = {"one.jpg": "train", "two.jpg": "train", "three.jpg": "val", "four.jpg": "test"}


ROWS = [(name, index, caption) for name, captions in CAPTIONS.items() for index, caption in enumerate(captions)]


def images(folder: Path) -> None:
    folder.mkdir(parents=True, exist_ok=True)
    for index, name in enumerate(CAPTIONS):
        Image.new("RGB", (8, 8), (40 * index, 0, 0)).save(folder / name)


def paint(*paths: Path) -> None:
    for index, path in enumerate(paths):
        path.parent.mkdir(parents=True, exist_ok=True)
        Image.new("RGB", (8, 8), (40 * index, 0, 0)).save(path)


def write(path: Path, text: str, encoding: str = "utf-8") -> None:
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_text(text, encoding=encoding)


def own_csv(root: Path) -> None:
    images(root / "images")
    rows = "".join(f'{name},{SPLITS[name]},"{caption}"\n' for name, _, caption in ROWS)
    write(root / "captions.csv", "image,split,caption\n" + rows)


def told(annotations: Annotations) -> dict[str, tuple[tuple[str, ...], str | None]]:
    return {image.path.name: (image.captions, image.split) for image in annotations.images}


WANTED = {name: (tuple(captions), SPLITS[name]) for name, captions in CAPTIONS.items()}
