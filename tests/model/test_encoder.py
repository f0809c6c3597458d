"""The encoder: layouts, layers, freezing, weights from a file."""

from __future__ import annotations

import math
import os
from pathlib import Path

import pytest
import torch
from safetensors.torch import save_file
from torch.nn import functional as F

from showtell.errors import RecipeError, WeightsError
from showtell.model.encoder import Encoder, _flat, _grid
from showtell.model.joining import _averages

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


def test_the_mean_as_one_more_region() -> None:
    images = torch.randn(2, 3, 96, 96)
    both, grid = small(pooled="both"), small()
    assert (both.grid, both.regions, both.feature_size) == ((6, 6), 37, 128)
    expected = torch.cat((grid(images), grid(images).mean(1, keepdim=True)), 1)
    torch.testing.assert_close(both(images), expected)


def test_two_layers_stand_side_by_side_on_the_coarser_grid() -> None:
    torch.manual_seed(0)
    encoder = Encoder(name="test_resnet.r160_in1k", layer=["layer2", "layer4"], image_size=64)
    outputs = dict(zip(("fine", "coarse"), encoder._run(images := torch.randn(2, 3, 64, 64)), strict=True))
    assert [tuple(x.shape) for x in outputs.values()] == [(2, 48, 8, 8), (2, 96, 2, 2)]
    assert (encoder.grid, encoder.regions, encoder.feature_size) == ((2, 2), 4, 144)
    averaged = F.adaptive_avg_pool2d(outputs["fine"], (2, 2)).flatten(2).transpose(1, 2)
    coarse = outputs["coarse"].flatten(2).transpose(1, 2)
    expected = torch.cat([F.layer_norm(x, x.shape[-1:]) for x in (averaged, coarse)], -1)
    torch.testing.assert_close(encoder(images), expected)
    pooled = Encoder(name="test_resnet.r160_in1k", layer=["layer2", "layer4"], image_size=64, pooled=True)
    assert (pooled.grid, pooled.regions, pooled.feature_size) == (None, 1, 144)


def test_an_input_size_that_a_model_cannot_take_is_said() -> None:
    with pytest.raises(RecipeError, match=r"image_size is 32, which inception_v3\.tf_in1k cannot take \("):
        Encoder(name="inception_v3.tf_in1k", pretrained=False, image_size=32)


@pytest.mark.parametrize(("old", "new"), [((17, 17), (8, 8)), ((8, 8), (8, 8)), ((5, 7), (2, 3)), ((1, 1), (4, 4))])
def test_regions_are_averaged_onto_a_coarser_grid(old: tuple[int, int], new: tuple[int, int]) -> None:
    maps = torch.randn(2, 3, *old)
    found = _averages(old, new) @ maps.flatten(2).transpose(1, 2)
    torch.testing.assert_close(found, F.adaptive_avg_pool2d(maps, new).flatten(2).transpose(1, 2))


def test_several_models_see_the_same_picture_each_in_its_own_way() -> None:
    """What the second one gives is nearly what it gives alone, of the picture as its own transform would show it."""
    from PIL import Image

    names = ["small", "test_convnext.r160_in1k"]
    torch.manual_seed(0)
    both = Encoder(name=names, crop="squash")
    assert both.transform.size == 160 and both.regions == 25 and both.feature_size == 128 + 64
    gradient = torch.linspace(0, 255, 320).expand(320, 320)
    picture = Image.fromarray(torch.stack((gradient, gradient.T, 255 - gradient), -1).byte().numpy())
    small_alone, convnext_alone = (Encoder(name=name, crop="squash") for name in names)
    for alone, mangled in ((small_alone, "small"), (convnext_alone, "test_convnext_r160_in1k")):
        alone.network.load_state_dict(both.network.get_submodule(mangled).state_dict())
    assert small_alone.transform.size == 96
    found = both(torch.from_numpy(both.transform(picture))[None])
    for alone, part in ((small_alone, found[..., :128]), (convnext_alone, found[..., 128:])):
        seen = alone(torch.from_numpy(alone.transform(picture))[None])
        expected = F.layer_norm(_averages(alone.grid or (1, 1), (5, 5)) @ seen, seen.shape[-1:])
        assert (part - expected).abs().mean() < 0.05 * expected.abs().mean()


def test_what_is_fed_as_one_picture_is_cut_as_its_pairs_say() -> None:
    encoder = Encoder(name=["test_resnet.r160_in1k", "small", "test_resnet.r160_in1k"], layer=["layer4", "", "layer3"])
    sizes = [output.shape[1] for output in encoder._run(torch.zeros(1, 3, 160, 160))]
    alone = [Encoder(name=n, layer=x).feature_size for n, x in (("test_resnet.r160_in1k", "layer3"), ("small", ""))]
    assert sizes == [96, alone[1], alone[0]]
    assert len(encoder.unfreeze_from("small")) and not any(
        p.requires_grad for p in encoder.network.get_submodule("test_resnet_r160_in1k").parameters()
    )


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


def test_unfreezing_starts_at_a_part_of_a_part_as_well() -> None:
    encoder = Encoder(name="test_convnext.r160_in1k")
    blocks = encoder.unfreeze_from("stages.2")
    names = {id(p): name for name, p in encoder.network.named_parameters()}
    assert [{".".join(names[id(p)].split(".")[:2]) for p in block} for block in blocks] == [
        {"stages.2"},
        {"stages.3", "head.norm"},  # no block of its own: norms and biases alone
    ]
    encoder.unfreeze_from("stages.3")
    trainable = {name for name, p in encoder.network.named_parameters() if p.requires_grad}
    assert trainable and all(name.startswith(("stages.3", "norm_pre", "head")) for name in trainable)
    with pytest.raises(
        RecipeError, match=r"expected one of stem\.0, stem\.1, stages\.0, stages\.1, stages\.2, stages\.3, head$"
    ):
        encoder.unfreeze_from("no such")
    with pytest.raises(RecipeError, match=r"does not have; did you mean 'stages\.3'\?$"):
        encoder.unfreeze_from("stage.3")


def test_a_silent_hub_is_told(monkeypatch: pytest.MonkeyPatch) -> None:
    class LocalEntryNotFoundError(Exception):
        """As the hub's client calls it."""

    def silence(*_: object, **__: object) -> None:
        raise LocalEntryNotFoundError

    monkeypatch.setattr("timm.create_model", silence)
    with pytest.raises(WeightsError, match=r"'resnet18' cannot be had: the hub cannot be reached; connect once"):
        Encoder(name="resnet18", pretrained=True)


@pytest.mark.parametrize("name", ["test_vit.r160_in1k", "test_convnext.r160_in1k"])
def test_other_families_of_encoders_give_regions(name: str) -> None:
    encoder = Encoder(name=name)
    size = encoder.transform.size
    features = encoder(torch.randn(2, 3, size, size))
    assert features.shape == (2, encoder.regions, encoder.feature_size) and encoder.regions > 1
    assert encoder.grid is not None and encoder.grid[0] * encoder.grid[1] == encoder.regions


@pytest.mark.parametrize(
    ("layout", "prefix", "grid"),
    [
        ((2, 5), 0, (1, 1)),
        ((2, 10, 7), 1, (3, 3)),
        ((2, 9, 4, 4), 0, (4, 4)),
        ((2, 4, 4, 9), 0, (4, 4)),
        ((2, 8, 7), 0, None),
    ],
)
def test_layouts_of_layers(layout: tuple[int, ...], prefix: int, grid: tuple[int, int] | None) -> None:
    output = torch.arange(math.prod(layout)).reshape(layout)
    assert _grid(output, prefix) == grid
    flat = _flat(output, prefix)
    assert flat.ndim == 3 and flat.shape[0] == 2
    assert grid is None or flat.shape[1] == grid[0] * grid[1]
    if len(layout) == 4:
        pixel = output[1, :, 2, 3] if layout[1] == 9 else output[1, 2, 3]
        assert torch.equal(flat[1, 2 * 4 + 3], pixel)


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
    assert len({small(pooled=pooled).fingerprint() for pooled in (False, True, "both")}) == 3
    cut = {"name": "test_resnet.r160_in1k", "image_size": 64}
    several = []
    for layers in (["layer2", "layer4"], ["layer3", "layer4"], ["layer4", "layer2"], "layer4"):
        torch.manual_seed(0)
        several.append(Encoder(layer=layers, **cut).fingerprint())  # type: ignore[arg-type]
    assert len(set(several)) == 4


def test_weights_of_several_encoders_lie_in_a_folder(tmp_path: Path) -> None:
    names = ["small", "test_resnet.r160_in1k"]
    torch.manual_seed(1)
    source = Encoder(name=names)
    for name in names:
        tensors = source.network.get_submodule(name.replace(".", "_")).state_dict()
        save_file({k: v.contiguous() for k, v in tensors.items()}, tmp_path / f"{name}.safetensors")
    assert Encoder(name=names, weights=tmp_path).fingerprint() == source.fingerprint()
    Encoder(name="small", weights=tmp_path)
    with pytest.raises(RecipeError, match=r"give a folder with small\.safetensors, test_resnet"):
        Encoder(name=names, weights=tmp_path / "small.safetensors")
    (tmp_path / "small.safetensors").unlink()
    with pytest.raises(WeightsError, match=r"small\.safetensors: no such file"):
        Encoder(name=names, weights=tmp_path)


@pytest.mark.parametrize(
    ("options", "said"),
    [
        ({"name": "inception_v4x"}, "near it"),
        ({"name": "test_resnet.r160_in1k", "layer": "layer9"}, "layer4"),
        ({"name": ["small", "test_vit.r160_in1k"], "layer": ["", "", ""]}, "2 entries and encoder.layer 3"),
        ({"name": "test_resnet.r160_in1k", "layer": ["layer4", "layer4"]}, "ask twice"),
        ({"name": "test_resnet.r160_in1k", "layer": ["layer2", ""]}, "'', which"),
        ({"name": []}, "0 entries"),
    ],
)
def test_wrong_input_is_answered_in_a_sentence(options: dict[str, object], said: str) -> None:
    with pytest.raises(RecipeError, match=said):
        Encoder(**options)  # type: ignore[arg-type]


def test_weights_that_are_not_there() -> None:
    with pytest.raises(WeightsError, match="no such file"):
        Encoder(name="small", weights=Path("nowhere.safetensors"))


def test_weights_of_another_encoder_are_refused(tmp_path: Path) -> None:
    save_file({"stem": torch.zeros(1)}, tmp_path / "w.safetensors")
    with pytest.raises(WeightsError, match="missing or of another shape"):
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


def test_blocks_follow_each_other_in_one_network_and_are_level_in_several() -> None:
    small = Encoder(name="small", image_size=32)
    assert len(small.unfreeze_from("layers.conv1")) == 3
    both = Encoder(name=["test_resnet.r160_in1k", "test_vit.r160_in1k"])
    names = {id(p): name.replace("_r160_in1k", "") for name, p in both.network.named_parameters()}

    def blocks(module: str) -> list[set[str]]:
        found = [[names[id(p)].split(".") for p in block] for block in both.unfreeze_from(module)]
        return [
            {".".join(parts[: 2 + parts[2].isdigit()] if parts[2:] else parts) for parts in block} for block in found
        ]

    vit = [
        {"test_vit.cls_token", "test_vit.pos_embed", "test_vit.patch_embed"},
        *({f"test_vit.blocks.{number}"} for number in range(5)),
        {"test_vit.blocks.5", "test_vit.norm"},
    ]
    assert blocks("test_vit_r160_in1k") == vit
    resnet: list[set[str]] = [set()] * 5 + [{"test_resnet.layer3.0"}, {"test_resnet.layer4.0"}]
    assert blocks("test_resnet_r160_in1k.layer3") == [a | b for a, b in zip(resnet, vit, strict=True)]
    assert sum(map(len, both.unfreeze_from("test_resnet_r160_in1k"))) == len(
        {p for p in both.parameters() if p.requires_grad}
    )
    assert blocks("test_vit_r160_in1k.blocks.4") == vit[-2:]


def test_group_norms_keep_their_layout_where_their_gradient_would_end_the_process(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    images = torch.randn(2, 3, 64, 64)
    weights, features = [], []
    for version in ("2.14.0", "2.13.1+cpu"):
        monkeypatch.setattr(torch, "__version__", version)
        torch.manual_seed(0)
        encoder = Encoder(name="small", image_size=64)
        weights.append(encoder.get_parameter("network.layers.conv1.weight"))
        features.append(encoder(images))
    assert [weight.is_contiguous(memory_format=torch.channels_last) for weight in weights] == [True, False]
    torch.testing.assert_close(features[0], features[1])
    many = Encoder(name="test_resnet.r160_in1k", image_size=64).get_parameter("network.layer1.0.conv2.weight")
    assert many.is_contiguous(memory_format=torch.channels_last)  # it has none


def test_a_group_norm_above_frozen_layers_is_trained() -> None:
    """A process that torch ends says nothing: this is one where it did."""
    encoder = Encoder(name="small", image_size=64)
    encoder.unfreeze_from("layers.norm1")
    encoder(torch.randn(16, 3, 64, 64)).sum().backward()
    assert encoder.get_parameter("network.layers.norm1.weight").grad is not None
