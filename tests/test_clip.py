"""CLIPScore is what the paper says it is, of what transformers' own CLIP computes; what cannot be scored is one sentence."""

from __future__ import annotations

import json
import shutil
import sys
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from clip_model import SIZE, WORDS, clip_model
from command_line import IDS, make_captioned, refused, run, write_predictions
from hub_server import Repository, hub
from PIL import Image
from safetensors.torch import load_file, save_file

from showtell import Caption
from showtell.clip import ClipScorer, Judge
from showtell.data.annotations import read_annotations
from showtell.errors import BundleError, DataError
from showtell.evaluation import derange

pytestmark = pytest.mark.slow  # transformers takes seconds to import

__all__ = ["clip_model", "hub"]

CAPTIONS = ["the dog runs", "two boats at sea, and one more on the beach", "a red door", "a red door"]
REFERENCES = [["a dog", "the dog is running"], ["boats"], ["a door", "red", "the door is shut"], ["a red door"]]


@pytest.fixture
def pictures(tmp_path: Path) -> list[Path]:
    """Four pictures of noise, wide and tall; so wide that transformers and torchvision round to the same crop."""
    draw = np.random.default_rng(0)
    paths = [tmp_path / f"{place}.png" for place in range(4)]
    for path, size in zip(paths, [(48, 40), (40, 61), (SIZE, SIZE), (91, 33)], strict=True):
        Image.fromarray(draw.integers(0, 255, (size[1], size[0], 3), dtype=np.uint8)).save(path)
    return paths


def cosines(folder: Path, pictures: list[Path], texts: list[str]) -> Any:
    """What the whole model of transformers, with its own image processor, makes of pictures and texts (images,texts)."""
    transformers: Any = pytest.importorskip("transformers")
    kind = getattr(transformers, "CLIPImageProcessorPil", transformers.CLIPImageProcessor)
    model = transformers.CLIPModel.from_pretrained(folder).eval()
    tokenizer = transformers.AutoTokenizer.from_pretrained(folder)
    pixels = kind.from_pretrained(folder)([Image.open(path) for path in pictures], return_tensors="pt")["pixel_values"]
    rows = []
    for text in texts:  # one by one, so that nothing is padded
        tokens = tokenizer([f"A photo depicts {text}"], return_tensors="pt", truncation=True, max_length=WORDS)
        with torch.no_grad():
            found = model(input_ids=tokens["input_ids"], pixel_values=pixels)
            rows.append(found.logits_per_image[:, 0] / model.logit_scale.exp())
    return torch.stack(rows, dim=1).numpy()


@pytest.mark.slow
def test_it_is_the_cosine_of_transformers_clip(
    clip_model: Path, pictures: list[Path], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("showtell.clip._BATCH", 3)
    scorer = ClipScorer.load(clip_model)
    found = scorer.look_at(pictures, REFERENCES)(CAPTIONS)["clip_s"]
    expected = 2.5 * np.maximum(np.diagonal(cosines(clip_model, pictures, CAPTIONS)), 0)
    assert np.ptp(expected) > 0.05  # or it could be anything
    assert found == pytest.approx(expected, abs=1e-5)


def test_references_count_by_the_nearest(clip_model: Path, pictures: list[Path]) -> None:
    scorer = ClipScorer.load(clip_model)
    scores = scorer.look_at(pictures, REFERENCES)(CAPTIONS)
    for place, (caption, written) in enumerate(zip(CAPTIONS, REFERENCES, strict=True)):
        said, others = scorer.read([caption])[0], scorer.read(written)
        alike, fits = max(0.0, max(float(said @ other) for other in others)), scores["clip_s"][place]
        assert scores["ref_clip_s"][place] == pytest.approx(
            2 * fits * alike / (fits + alike) if fits else 0.0, abs=1e-6
        )
    assert scorer.look_at(pictures)(CAPTIONS) == {"clip_s": scores["clip_s"]}  # without references


def test_a_caption_that_does_not_fit_scores_nothing() -> None:
    class Reader:
        def read(self, captions: list[str]) -> torch.Tensor:
            known = {"fits": [1.0, 0.0], "half": [0.6, 0.8], "beside": [0.0, 1.0], "against": [-1.0, 0.0]}
            return torch.tensor([known[caption] for caption in captions])

    reader: Any = Reader()
    images, captions = torch.tensor([[1.0, 0.0]] * 4), ["fits", "half", "beside", "against"]
    judge = Judge(reader, images, [reader.read(["half", "beside"])] * 4)
    scores = judge(captions)
    assert scores["clip_s"] == pytest.approx([2.5, 1.5, 0, 0])
    assert scores["ref_clip_s"] == pytest.approx([2 * 2.5 * 0.6 / 3.1, 2 * 1.5 * 1.0 / 2.5, 0, 0])


def test_each_image_has_a_caption_and_references(clip_model: Path, pictures: list[Path]) -> None:
    scorer = ClipScorer.load(clip_model)
    for wrong in ([["a dog"]], [["a"], ["b"], [], ["c"]]):
        with pytest.raises(DataError, match=r"4 images and \d lists of references; expected one for each"):
            scorer.look_at(pictures, wrong)
    judge = scorer.look_at(pictures, REFERENCES)
    for captions in (CAPTIONS[:3], "four"):
        with pytest.raises(DataError, match="captions for 4 images; expected one for each"):
            judge(captions)


def test_long_captions_are_cut(clip_model: Path) -> None:
    scorer = ClipScorer.load(clip_model)
    long = scorer.read(["dog " * 100, "dog " * 200])
    assert torch.equal(long[0], long[1])


@pytest.fixture
def things(tmp_path: Path) -> Path:
    return make_captioned(tmp_path)


def test_scores_by_command(clip_model: Path, things: Path) -> None:
    file, out = write_predictions(things / "said.json"), things / "scored.json"
    common = ("evaluate", "--predictions", file, "--data", things, "--metrics", "clip", "--clip", clip_model)
    result = run(*common, "--json", "--captions", out)
    assert result.exit_code == 0, result.output
    found, rows = json.loads(result.stdout), json.loads(out.read_text())
    images = sorted((things / "images").iterdir())
    written = [[f"a {word} thing number {i}" for word in ("small", "plain", "flat")] for i in range(4)]
    judge = ClipScorer.load(clip_model).look_at(images, written)
    expected = judge([f"a small thing number {i}" for i in range(4)])
    for name in ("clip_s", "ref_clip_s"):
        assert [row[name] for row in rows] == pytest.approx(expected[name], abs=1e-5)
        assert found[name] == pytest.approx(np.mean(expected[name]), abs=1e-5)
        low, high = found["intervals"][name]
        assert low <= found[name] <= high
    assert found["protocol"]["clip"] == clip_model.name
    table = run(*common).stdout
    assert f"CLIP-S   {100 * found['clip_s']:9.2f}" in table and f"RefCLIP-S{100 * found['ref_clip_s']:9.2f}" in table


def test_floors_have_them_too(
    clip_model: Path, tiny_bundle: Path, scenes: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Of a captioner that says something else of each image."""
    images = read_annotations(scenes).split("test")
    said = [" ".join(["dog", "boats at sea", "the", "red"][: 1 + place % 4]) for place in range(len(images))]
    results = [Caption(text=text, log_prob=0.0, score=0.0, words=()) for text in said]
    monkeypatch.setattr("showtell.captioner.Captioner.caption_each", lambda *_, **__: iter(results))
    result = run("evaluate", tiny_bundle, "--data", scenes, "--metrics", "clip", "--clip", clip_model, "--json")
    assert result.exit_code == 0, result.output
    found, scorer = json.loads(result.stdout), ClipScorer.load(clip_model)
    judge = scorer.look_at([image.path for image in images], [image.captions for image in images])
    for floor, captions in (
        (found, said),
        (found["floors"]["shuffled"], derange(said, seed=0)),
        (found["floors"]["constant"], [found["constant_caption"]] * len(images)),
    ):
        for name, each in judge(captions).items():
            assert floor[name] == pytest.approx(np.mean(each), abs=1e-5)
    assert len({round(floor["clip_s"], 6) for floor in (found, *found["floors"].values())}) == 3


def test_comparisons_have_them_too(clip_model: Path, things: Path) -> None:
    write_predictions(things / "own.json", IDS[1:])
    other = [{"image_id": f"{name}.png", "caption": f"a red door and {name}"} for name in IDS[:3]]
    (things / "other.json").write_text(json.dumps(other))
    (things / "images" / "b.png").unlink()
    arguments = ("--predictions", things / "own.json", "--against", things / "other.json", "--data", things, "--json")
    with_clip = (*arguments, "--metrics", "clip", "--clip", clip_model)
    gone = run("evaluate", *with_clip)
    assert gone.exit_code == 2 and "no prediction" in gone.stderr
    result = run("evaluate", *with_clip, "--allow-missing")
    assert result.exit_code == 0 and "1 images without a file" in result.stderr, result.output
    found = json.loads(result.stdout)
    judge = ClipScorer.load(clip_model).look_at([things / "images" / "c.png"])
    own, theirs = judge(["a small thing number 2"])["clip_s"][0], judge(["a red door and c"])["clip_s"][0]
    assert abs(own - theirs) > 1e-3
    assert found["against"]["differences"]["clip_s"]["difference"] == pytest.approx(own - theirs, abs=1e-5)


def test_what_cannot_be_scored_is_a_sentence(
    clip_model: Path, tiny_bundle: Path, things: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    file = write_predictions(things / "said.json")
    common = ("evaluate", "--predictions", file, "--data", things)
    assert "--metrics clip, which is missing" in run(*common, "--clip", clip_model).stderr
    refused(run(*common, "--metrics", "clop"), "no metric 'clop'", "meteor, spice or clip")
    with_clip = (*common, "--metrics", "clip", "--clip")
    silent = run(*with_clip, tiny_bundle)
    assert silent.exit_code == 2 and silent.stdout == "" and "expected a CLIP model" in silent.stderr
    broken = shutil.copytree(clip_model, things / "broken")
    (broken / "model.safetensors").write_bytes(b"no weights")
    assert "broken cannot be read as a CLIP model" in run(*with_clip, broken).stderr
    shutil.copytree(clip_model, things / "other")
    (things / "other" / "config.json").write_text('{"model_type": "siglip"}')
    assert "other is a model of the kind 'siglip'; expected a CLIP model" in run(*with_clip, things / "other").stderr
    part = shutil.copytree(clip_model, things / "part")
    tensors = load_file(part / "model.safetensors")
    kept = {name: tensor for name, tensor in tensors.items() if not name.startswith("text_model")}
    save_file(kept, part / "model.safetensors", metadata={"format": "pt"})
    assert "of a CLIP model's weights (first text_model." in run(*with_clip, part).stderr
    other = shutil.copytree(clip_model, things / "prepared")
    settings = json.loads((other / "preprocessor_config.json").read_text())
    for key, value in (("do_center_crop", False), ("size", {"height": 32, "width": 32}), ("resample", 0)):
        (other / "preprocessor_config.json").write_text(json.dumps({**settings, key: value}))
        assert "prepared prepares its pictures in another way than CLIP" in run(*with_clip, other).stderr
    (other / "preprocessor_config.json").unlink()
    assert "has no preprocessor_config.json or processor_config.json" in run(*with_clip, other).stderr
    (things / "none.json").write_text("[]")
    early = run("evaluate", "--predictions", things / "none.json", "--data", things, "--metrics", "clip")
    assert early.exit_code == 2 and "CLIP" not in early.stderr  # nothing is fetched for it
    (things / "images" / "c.png").unlink()
    gone = run(*with_clip, clip_model)
    assert gone.exit_code == 2 and "1 of 4 files are missing (first" in gone.stderr and "c.png" in gone.stderr
    monkeypatch.setitem(sys.modules, "transformers", None)
    assert "pip install 'showtell[clip]'" in run(*with_clip, clip_model).stderr


def test_a_missing_folder_is_said() -> None:
    with pytest.raises(BundleError, match="'no/such/folder' is not a folder; expected one, or user/name"):
        ClipScorer.load("no/such/folder")


def test_a_processor_of_transformers_5_is_read(clip_model: Path, pictures: list[Path], tmp_path: Path) -> None:
    folder = shutil.copytree(clip_model, tmp_path / "five")
    settings = json.loads((folder / "preprocessor_config.json").read_text())
    (folder / "preprocessor_config.json").unlink()
    (folder / "processor_config.json").write_text(json.dumps({"image_processor": settings}))
    both = [ClipScorer.load(place).look_at(pictures)(CAPTIONS) for place in (clip_model, folder)]
    assert both[0] == both[1]


def publish(hub: Any, name: str, folder: Path, *, without: str = "", **more: bytes) -> None:
    files = {path.name: path.read_bytes() for path in folder.iterdir() if path.name != without}
    hub.repositories.setdefault(name, Repository(private=False)).commit("main", {**files, **more}, "next")


def test_it_comes_from_the_hub(clip_model: Path, hub: Any, monkeypatch: pytest.MonkeyPatch) -> None:
    publish(hub, "ada/clip", clip_model, **{"tf_model.h5": b"large"})
    first = hub.repositories["ada/clip"].branches["main"]
    here, there = ClipScorer.load(clip_model), ClipScorer.load("ada/clip")
    assert torch.equal(here.read(CAPTIONS), there.read(CAPTIONS))
    assert there.name == f"ada/clip@{first[:7]}"
    assert not any("tf_model.h5" in asked for asked in hub.asked)
    publish(hub, "ada/clip", clip_model, without="model.safetensors")
    with pytest.raises(BundleError, match=r"ada/clip: found no model.safetensors or pytorch_model.bin"):
        ClipScorer.load("ada/clip")
    assert ClipScorer.load(f"ada/clip@{first}").name == there.name
    monkeypatch.setattr("huggingface_hub.constants.HF_HUB_OFFLINE", True)
    assert ClipScorer.load(f"ada/clip@{first}").name == there.name
    monkeypatch.setattr("huggingface_hub.constants.HF_HUB_OFFLINE", False)
    with pytest.raises(BundleError, match="ada/nobody"):
        ClipScorer.load("ada/nobody")


def test_what_is_no_clip_model_is_not_fetched(clip_model: Path, hub: Any) -> None:
    publish(hub, "ada/other", clip_model, **{"config.json": b'{"model_type": "siglip"}'})
    with pytest.raises(BundleError, match="ada/other is a model of the kind 'siglip'"):
        ClipScorer.load("ada/other")
    assert not any("model.safetensors" in asked for asked in hub.asked)


def test_a_branch_that_moves_meanwhile_is_one_commit(
    clip_model: Path, hub: Any, monkeypatch: pytest.MonkeyPatch
) -> None:
    publish(hub, "ada/clip", clip_model)
    first = hub.repositories["ada/clip"].branches["main"]

    def move(folder: Path, source: str | Path) -> None:
        publish(hub, "ada/clip", clip_model, **{"model.safetensors": b"other weights"})

    monkeypatch.setattr("showtell.clip._check", move)
    assert ClipScorer.load("ada/clip").name == f"ada/clip@{first[:7]}"


def test_older_weights_are_read_as_tensors_alone(clip_model: Path, hub: Any, tmp_path: Path) -> None:
    folder = shutil.copytree(clip_model, tmp_path / "older")
    torch.save(load_file(folder / "model.safetensors"), folder / "pytorch_model.bin")
    (folder / "model.safetensors").unlink()
    publish(hub, "ada/older", folder)
    assert torch.equal(ClipScorer.load("ada/older").read(CAPTIONS), ClipScorer.load(clip_model).read(CAPTIONS))


def test_a_broken_picture_is_named(clip_model: Path, tmp_path: Path) -> None:
    (tmp_path / "bad.jpg").write_bytes(b"not a picture")
    with pytest.raises(DataError, match=r"CLIPScore needs every image: .*bad.jpg"):
        ClipScorer.load(clip_model).look_at([tmp_path / "bad.jpg"], [["a"]])
