"""The same pictures and captions in four layouts train by the same command, to the same captioner where the splits agree."""

from __future__ import annotations

import json
import shutil
from collections.abc import Callable
from pathlib import Path

import pytest
import torch
from safetensors.torch import load_file

from showtell.bundle import load_bundle
from showtell.data.annotations import CaptionedImage, read_annotations
from showtell.recipe import load_recipe
from showtell.training.run import train

Images = tuple[CaptionedImage, ...]
OPTIONS = [
    "encoder.image_size=32", "decoder.embedding=16", "decoder.hidden=16", "decoder.attention=8", "search.max_length=8",
    "train.phases=[{epochs=1}]", "data.min_count=1", "data.val=0.2",
]  # fmt: skip


def copy(images: Images, folder: Path) -> None:
    folder.mkdir(parents=True)
    for image in images:
        shutil.copy(image.path, folder / image.path.name)


def rows(images: Images) -> list[tuple[str, int, str]]:
    return [(image.path.name, index, caption) for image in images for index, caption in enumerate(image.captions)]


def text_folder(images: Images, root: Path, pictures: str = "Flicker8k_Dataset", texts: str = "Flickr8k_text") -> None:
    copy(images, root / pictures)
    (root / texts).mkdir()
    lines = "".join(f"{name}#{index}\t{caption}\n" for name, index, caption in rows(images))
    (root / texts / "Flickr8k.token.txt").write_text(lines, encoding="utf-8")
    for split, word in (("train", "train"), ("val", "dev"), ("test", "test")):
        names = "".join(f"{image.path.name}\n" for image in images if image.split == split)
        (root / texts / f"Flickr_8k.{word}Images.txt").write_text(names, encoding="utf-8")


def seed_layout(images: Images, root: Path) -> None:
    text_folder(images, root, "images", "captions")


def karpathy(images: Images, root: Path) -> None:
    copy(images, root / "images")
    entries = [
        {"filename": image.path.name, "split": image.split, "sentences": [{"raw": c} for c in image.captions]}
        for image in images
    ]
    (root / "dataset_flickr8k.json").write_text(json.dumps({"images": entries}), encoding="utf-8")


def kaggle(images: Images, root: Path) -> None:
    copy(images, root / "Images")
    lines = "".join(f"{name},{caption}\n" for name, _, caption in rows(images))
    (root / "captions.txt").write_text("image,caption\n" + lines, encoding="utf-8")


def trained(layout: Callable[[Images, Path], None], scenes: Path, folder: Path) -> dict[str, torch.Tensor]:
    layout(read_annotations(scenes).images, folder / "data")
    result = train(load_recipe("scenes", OPTIONS), data=folder / "data", out=folder / "run")
    return load_file(result.bundle / "model.safetensors")


@pytest.mark.slow
@pytest.mark.parametrize("layout", [seed_layout, karpathy])
def test_layouts_with_the_same_splits_give_the_same_weights(
    layout: Callable[[Images, Path], None], scenes: Path, tmp_path: Path
) -> None:
    expected = trained(text_folder, scenes, tmp_path / "text")
    found = trained(layout, scenes, tmp_path / "other")
    assert all(torch.equal(found[name], expected[name]) for name in expected)


def test_kaggles_table_trains_with_splits_of_our_own(scenes: Path, tmp_path: Path) -> None:
    """The table names none: what was trained on is the recipe's draw, and not the scenes' own splits."""
    images = read_annotations(scenes).images
    assert trained(kaggle, scenes, tmp_path)
    drawn = read_annotations(tmp_path / "data", val=0.2)
    assert not drawn.given
    sizes = {split: len(drawn.split(split)) for split in ("train", "val", "test")}
    assert sizes == {"train": 28, "val": 8, "test": 4}
    own, ours = ({i.path.name: i.split for i in some} for some in (images, drawn.images))
    assert own.keys() == ours.keys() and own != ours
    training = load_bundle(tmp_path / "run" / "bundle").config["training"]
    assert training["train_images"] == sizes["train"]
    protocol = training["protocol"]
    assert protocol["images"] == sizes["val"]
    assert protocol["dataset"] == f"data ({drawn.drawn})" == "data (split by seed 0, val 0.2, test 0.1)"
