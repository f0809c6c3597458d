"""The encoder: layouts, layers, freezing, weights from a file."""

from __future__ import annotations

import os
from pathlib import Path

import pytest
import torch
from safetensors.torch import save_file

from showtell.errors import RecipeError
from showtell.model.encoder import Encoder

SHARED = Path(os.environ.get("SHOWTELL_SHARED", "../shared"))


def small(**options: object) -> Encoder:
    torch.manual_seed(0)
    return Encoder(name="small", **options)  # type: ignore[arg-type]


def test_a_grid_and_its_mean() -> None:
    images = torch.randn(2, 3, 96, 96)
    grid, pooled = small(), small(pooled=True)
    assert (grid.grid, grid.regions, grid.feature_size) == ((6, 6), 36, 128)
    assert (pooled.grid, pooled.regions) == (None, 1)
    torch.testing.assert_close(grid(images).mean(1, keepdim=True), pooled(images))


def test_frozen_means_eval_and_no_drift() -> None:
    encoder = Encoder(name="test_resnet.r160_in1k", image_size=64)
    before = {name: tensor.clone() for name, tensor in encoder.state_dict().items()}
    encoder.train()
    encoder(torch.randn(2, 3, 64, 64))
    assert not any(module.training for module in encoder.modules())
    assert all(torch.equal(before[name], tensor) for name, tensor in encoder.state_dict().items())


def test_unfreezing_from_a_layer_leaves_out_what_comes_before_and_batch_norm() -> None:
    encoder = Encoder(name="test_resnet.r160_in1k", image_size=64)
    chosen = encoder.unfreeze_from("layer4")
    trainable = {name for name, p in encoder.network.named_parameters() if p.requires_grad}
    assert chosen and trainable and all(name.startswith("layer4") for name in trainable)
    assert not any(".bn" in name for name in trainable)


@pytest.mark.parametrize("name", ["test_vit.r160_in1k", "test_convnext.r160_in1k"])
def test_other_families_of_encoders_give_regions(name: str) -> None:
    encoder = Encoder(name=name)
    size = encoder.transform.size
    features = encoder(torch.randn(2, 3, size, size))
    assert features.shape == (2, encoder.regions, encoder.feature_size) and encoder.regions > 1


def test_another_layer_by_name() -> None:
    encoder = Encoder(name="test_resnet.r160_in1k", layer="layer2", image_size=64)
    last = Encoder(name="test_resnet.r160_in1k", image_size=64)
    assert encoder.regions > last.regions


def test_weights_from_a_file_and_a_fingerprint_that_knows_them(tmp_path: Path) -> None:
    first = small()
    torch.manual_seed(1)
    second = Encoder(name="small")
    assert first.fingerprint() != second.fingerprint()
    save_file({k: v.contiguous() for k, v in first.network.state_dict().items()}, tmp_path / "w.safetensors")
    assert Encoder(name="small", weights=tmp_path / "w.safetensors").fingerprint() == first.fingerprint()
    assert first.fingerprint() != small(pooled=True).fingerprint()


@pytest.mark.parametrize(
    ("options", "said"),
    [
        ({"name": "inception_v4x"}, "near it"),
        ({"name": "test_resnet.r160_in1k", "layer": "layer9"}, "layer4"),
        ({"name": "small", "weights": Path("nowhere.safetensors")}, "no such file"),
    ],
)
def test_wrong_input_is_answered_in_a_sentence(options: dict[str, object], said: str) -> None:
    with pytest.raises(RecipeError, match=said):
        Encoder(**options)  # type: ignore[arg-type]


def test_weights_of_another_encoder_are_refused(tmp_path: Path) -> None:
    save_file({"stem": torch.zeros(1)}, tmp_path / "w.safetensors")
    with pytest.raises(RecipeError, match="missing or of another shape"):
        Encoder(name="small", weights=tmp_path / "w.safetensors")


@pytest.mark.slow
def test_inception_v3_as_shared() -> None:
    weights = SHARED / "weights" / "inception_v3.tf_in1k.safetensors"
    if not weights.is_file():
        pytest.skip(f"no {weights}; SHOWTELL_SHARED names the folder that has it")
    encoder = Encoder(name="inception_v3.tf_in1k", layer="Mixed_7a", weights=weights)
    assert (encoder.grid, encoder.feature_size, encoder.transform.size) == ((8, 8), 1280, 299)
    assert encoder.transform.mean == (0.5, 0.5, 0.5)
    assert Encoder(name="inception_v3.tf_in1k", weights=weights).feature_size == 2048
