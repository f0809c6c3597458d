"""The bundle: what was saved is what is loaded, and what is not a bundle is said to be none."""

from __future__ import annotations

import errno
import json
import shutil
import stat
from collections.abc import Callable
from pathlib import Path

import pytest
import torch
from safetensors.torch import load_file, save_file

from showtell.bundle import build_encoder, build_model, load_bundle, save_bundle, unique_tensors
from showtell.data.vocabulary import Vocabulary
from showtell.errors import BundleError
from showtell.hub import HubId, prepare_upload
from showtell.paths import saved_together, write_whole
from showtell.recipe import load_recipe

KINDS = [
    ["decoder.name=lstm", "decoder.tied=true"],
    ["decoder.name=lstm", "decoder.tied=false", "decoder.inject=state"],
    ["decoder.name=attention", "decoder.tied=true"],
    ["decoder.name=attention", "decoder.tied=false", "decoder.attention_kind=dot", "decoder.heads=4"],
    ["decoder.name=adaptive", "decoder.tied=true"],
    ["decoder.name=updown", "decoder.tied=true"],
    ["decoder.name=transformer", "decoder.tied=true", "decoder.layers=2"],
    ["decoder.name=attention", "encoder.pooled=both"],
    ["decoder.name=attention", 'encoder.layer=["layers.conv1", "layers.conv3"]'],
    ["decoder.name=lstm", "encoder.pooled=true", 'encoder.name=["small", "test_convnext.r160_in1k"]'],
]


@pytest.mark.parametrize("kind", KINDS, ids=" ".join)
def test_what_was_saved_is_loaded(kind: list[str], tmp_path: Path) -> None:
    recipe = load_recipe("scenes", [*kind, "decoder.embedding=24", "decoder.hidden=24"])
    vocabulary = Vocabulary.train(["a red circle above a blue house"], min_count=1)
    torch.manual_seed(1)
    model = build_model(recipe, build_encoder(recipe), len(vocabulary)).eval()
    save_bundle(tmp_path / "b", model=model, vocabulary=vocabulary, recipe=recipe, training={"epoch": 1})
    loaded = load_bundle(tmp_path / "b")
    size = model.encoder.transform.size
    images, tokens = torch.randn(2, 3, size, size), torch.randint(0, len(vocabulary), (2, 3, 5))
    with torch.no_grad():
        expected = model(images, tokens).logits
        found = loaded.decoder(loaded.encoder(images), tokens).logits
    torch.testing.assert_close(found, expected)
    assert not any(p.requires_grad for p in loaded.decoder.parameters())
    assert loaded.transform == model.encoder.transform
    assert loaded.grid == model.encoder.grid
    assert loaded.config["training"] == {"epoch": 1}
    stored = load_file(tmp_path / "b" / "model.safetensors")
    assert stored.keys() == unique_tensors(model).keys()
    assert all(torch.equal(stored[name], tensor) for name, tensor in unique_tensors(model).items())
    assert sorted(path.name for path in (tmp_path / "b").iterdir()) == [
        "README.md", "config.json", "model.safetensors", "tokenizer.json"
    ]  # fmt: skip


def no_tensor(folder: Path) -> None:
    tensors = load_file(folder / "model.safetensors")
    tensors.popitem()
    save_file(tensors, folder / "model.safetensors")


def edit(**changes: object) -> Callable[[Path], None]:
    def change(folder: Path) -> None:
        config = json.loads((folder / "config.json").read_text(encoding="utf-8"))
        (folder / "config.json").write_text(json.dumps({**config, **changes}), encoding="utf-8")

    return change


def resize(key: str, size: int) -> Callable[[Path], None]:
    """Another size in config.json than the weights have."""

    def change(folder: Path) -> None:
        config = json.loads((folder / "config.json").read_text(encoding="utf-8"))
        section, name = key.split(".")
        config["recipe"][section][name] = size
        (folder / "config.json").write_text(json.dumps(config), encoding="utf-8")

    return change


@pytest.mark.parametrize(
    ("damage", "words"),
    [
        (lambda f: shutil.rmtree(f), ["not a bundle", "missing"]),
        (lambda f: (f / "tokenizer.json").unlink(), ["tokenizer.json is missing"]),
        (lambda f: (f / "tokenizer.json").write_text("{"), ["bundle/tokenizer.json: not a tokenizer.json"]),
        (lambda f: (f / "tokenizer.json").write_bytes(b"\xff{"), ["bundle/tokenizer.json: not a tokenizer.json"]),
        (lambda f: (f / "config.json").write_text("{"), ["config.json", "broken"]),
        (lambda f: (f / "config.json").write_text("[1]"), ["config.json", "broken"]),
        (lambda f: (f / "model.safetensors").write_bytes(b"\x00" * 20), ["model.safetensors", "cannot be read"]),
        (no_tensor, ["do not fit"]),
        (edit(format_version=99), ["99", "newer showtell"]),
        (edit(vocabulary_size=3), ["tokenizer.json"]),
        (edit(recipe={"decoder": {"name": "perceptron"}}), ["perceptron"]),
        (edit(recipe={"decoder": {"telepathy": True}}), ["telepathy", "install a newer one"]),
        (edit(transform={}), ["transform"]),
        (edit(transform="no"), ["config.json", "broken"]),
        (resize("decoder.hidden", 2_000_000), ["do not fit", "first decoder."]),
        (resize("decoder.attention", 10**9), ["do not fit", "first decoder."]),
        (resize("decoder.hidden", 10**12), ["impossible size"]),
        (resize("decoder.embedding", 10**40), ["impossible size"]),
        (resize("encoder.image_size", 50_000), ["transform"]),
    ],
)
def test_what_is_no_bundle_is_said(
    damage: Callable[[Path], None], words: list[str], tiny_bundle: Path, tmp_path: Path
) -> None:
    folder = tmp_path / "bundle"
    shutil.copytree(tiny_bundle, folder)
    damage(folder)
    with pytest.raises(Exception) as caught:  # noqa: PT011 (its class is looked at below)
        load_bundle(folder)
    assert type(caught.value).__module__ == "showtell.errors"
    assert "\n" not in str(caught.value)
    for word in words:
        assert word in str(caught.value)


def test_others_may_read_it(tiny_bundle: Path) -> None:
    readable = {path.name for path in tiny_bundle.iterdir() if path.stat().st_mode & stat.S_IROTH}
    assert readable == {"README.md", "config.json", "model.safetensors", "tokenizer.json"}


def test_a_full_disk_leaves_what_was_there(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    def full(file: int) -> None:
        raise OSError(errno.ENOSPC, "No space left on device")

    write_whole(tmp_path / "weights", b"old")
    monkeypatch.setattr("os.fsync", full)
    with pytest.raises(OSError, match=r"weights") as caught:
        write_whole(tmp_path / "weights", b"new")
    assert caught.value.errno == errno.ENOSPC
    assert [(path.name, path.read_bytes()) for path in tmp_path.iterdir()] == [("weights", b"old")]


def test_a_runs_folder_is_recognised(tiny_bundle: Path) -> None:
    with pytest.raises(BundleError, match="did you mean"):
        load_bundle(tiny_bundle.parent)


def test_new_weights_beside_an_old_config_are_refused(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """As a run leaves them that is killed while it saves its second epoch."""
    recipe = load_recipe("scenes")
    vocabulary = Vocabulary.train(["a red circle above a blue house"], min_count=1)

    def save(epoch: int) -> None:
        model = build_model(recipe, build_encoder(recipe), len(vocabulary))
        save_bundle(tmp_path / "b", model=model, vocabulary=vocabulary, recipe=recipe, training={"epoch": epoch})

    def killed(path: Path, value: object) -> None:
        raise KeyboardInterrupt

    save(1)
    before = (tmp_path / "b" / "config.json").read_bytes()
    with monkeypatch.context() as patch:
        patch.setattr("showtell.bundle._write_json", killed)
        with pytest.raises(KeyboardInterrupt):
            save(2)
    assert (tmp_path / "b" / "config.json").read_bytes() == before
    assert not saved_together(tmp_path / "b")
    with pytest.raises(BundleError, match="--resume"):
        load_bundle(tmp_path / "b")
    with pytest.raises(BundleError, match="--resume"):
        prepare_upload(tmp_path / "b", HubId("ada/b", None), license="mit")
    save(2)
    assert load_bundle(tmp_path / "b").config["training"] == {"epoch": 2}
    config = json.loads(before)
    del config["saved"]  # as earlier versions wrote it
    (tmp_path / "b" / "config.json").write_text(json.dumps(config), encoding="utf-8")
    assert not saved_together(tmp_path / "b")
    save_file(load_file(tmp_path / "b" / "model.safetensors"), tmp_path / "b" / "model.safetensors")
    assert load_bundle(tmp_path / "b").config["training"] == {"epoch": 1}
