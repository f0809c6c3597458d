"""Exported captioners: the same captions as torch, without torch."""

from __future__ import annotations

import errno
import html
import json
import os
import shutil
import subprocess
import sys
from dataclasses import replace
from pathlib import Path
from typing import Literal

import numpy as np
import pytest
import torch
from typer.testing import CliRunner

import showtell
from showtell import Captioner, Sampling
from showtell.bundle import build_encoder, build_model, save_bundle
from showtell.cli import app
from showtell.data.annotations import read_annotations
from showtell.data.vocabulary import Vocabulary
from showtell.decoding import Wishes
from showtell.errors import BundleError, DataError
from showtell.export import export_onnx
from showtell.recipe import load_recipe
from showtell.runtime import OnnxEngine

SOME = ("word", "attention"), ("word", "lstm"), ("bpe", "attention"), ("word", "adaptive"), ("word", "transformer")


@pytest.fixture(scope="module")
def photos(scenes: Path) -> list[Path]:
    return [image.path for image in read_annotations(scenes).images[:12]]


@pytest.fixture(scope="module", params=SOME, ids="-".join)
def pair(
    request: pytest.FixtureRequest, tmp_path_factory: pytest.TempPathFactory, scenes: Path
) -> tuple[Captioner, Captioner]:
    """A bundle with large random weights, which says much, and its export."""
    kind, decoder = request.param
    torch.manual_seed(3)
    options = [
        f"decoder.name={decoder}", f"data.vocabulary={kind}", "search.max_length=9", "decoder.tied=false",
        "decoder.hidden=24", "decoder.embedding=24", f"decoder.layers={2 if decoder == 'lstm' else 1}",
    ]  # fmt: skip
    recipe = load_recipe("scenes", options)
    captions = [c for image in read_annotations(scenes).split("train") for c in image.captions]
    vocabulary = Vocabulary.train(captions, kind=kind, min_count=1, size=120)
    model = build_model(recipe, build_encoder(recipe), len(vocabulary))
    with torch.no_grad():
        for parameter in model.decoder.parameters():
            parameter.mul_(2)
        bias = model.decoder.output.bias
        assert bias is not None
        bias[vocabulary.end_id] -= 1.0
    folder = tmp_path_factory.mktemp("run") / "bundle"
    save_bundle(folder, model=model, vocabulary=vocabulary, recipe=recipe, training={})
    out = export_onnx(folder, folder.parent / "onnx")
    return Captioner.load(folder, device="cpu"), Captioner.load(out)


def test_an_error_names_the_folder_that_was_given(
    tiny_bundle: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def full(loaded: object, folder: Path, note: object) -> None:
        raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC), str(folder / "encoder.onnx"))

    monkeypatch.setattr("showtell.export._export_graphs", full)
    with pytest.raises(OSError, match=os.strerror(errno.ENOSPC)) as told:
        export_onnx(tiny_bundle, tmp_path / "onnx")
    assert (told.value.filename, told.value.errno) == (str(tmp_path / "onnx"), errno.ENOSPC)
    assert list(tmp_path.iterdir()) == []


@pytest.mark.slow
@pytest.mark.parametrize("changes", [{}, {"no_repeat_ngram": 1}, {"length_penalty": 0.0}, {"max_length": 3}], ids=str)
def test_the_same_captions_as_torch(
    pair: tuple[Captioner, Captioner], photos: list[Path], changes: dict[str, int], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("showtell.model.encoder.fast_bfloat16", lambda device: False)  # token for token means float32
    bundle, exported = pair
    for captioner in pair:
        monkeypatch.setattr(captioner.engine, "defaults", replace(captioner.defaults, **changes))
    for beam, n in ((1, 1), (5, 1), (5, 5)):
        expected = bundle.caption(photos, beam=beam, n=n)
        found = exported.caption(photos, beam=beam, n=n, batch_size=5)
        for one, other in zip(expected, found, strict=True):
            for a, b in zip((one, *one.alternatives), (other, *other.alternatives), strict=True):
                assert [word.text for word in a.words] == [word.text for word in b.words]
                assert a.text == b.text
                assert a.log_prob == pytest.approx(b.log_prob, abs=1e-3)
                assert a.score == pytest.approx(b.score, abs=1e-3)
                assert (a.finished, a.confidence) == (b.finished, pytest.approx(b.confidence, abs=1e-3))
                for x, y in zip(a.words, b.words, strict=True):
                    assert x.log_prob == pytest.approx(y.log_prob, abs=1e-3)
                    assert (x.attention is None) == (y.attention is None)
                    if x.attention is not None and y.attention is not None:
                        np.testing.assert_allclose(x.attention, y.attention, atol=1e-4)
    said = {other.text for caption in expected for other in (caption, *caption.alternatives)}
    assert len(said) >= 5


@pytest.fixture(scope="module")
def exported(tmp_path_factory: pytest.TempPathFactory, tiny_bundle: Path) -> Path:
    return export_onnx(tiny_bundle, tmp_path_factory.mktemp("exported") / "onnx")


@pytest.mark.slow
def test_torch_is_never_imported(exported: Path, photos: list[Path]) -> None:
    code = (
        "import sys; sys.modules['torch'] = None; sys.modules['tokenizers'] = None\n"
        "from showtell.cli import main; sys.argv[1:] = sys.argv[1:]; main()"
    )
    done = subprocess.run(
        [sys.executable, "-c", code, "caption", str(exported), str(photos[0]), "--format", "jsonl"],
        capture_output=True, text=True,
    )  # fmt: skip
    assert done.returncode == 0, done.stderr
    said = json.loads(done.stdout)
    assert said["image"] == str(photos[0])
    code = (
        "import sys; sys.modules['torch'] = None; from showtell import Captioner\n"
        "print(Captioner.load(sys.argv[1]).caption(sys.argv[2])[0].text)"
    )
    done = subprocess.run([sys.executable, "-c", code, exported, photos[0]], capture_output=True, text=True)
    assert (done.stdout, done.returncode) == (f"{said['caption']}\n", 0), done.stderr


@pytest.mark.slow
def test_a_script_without_spaces_has_none(exported: Path, photos: list[Path], tmp_path: Path) -> None:
    folder = tmp_path / "onnx"
    shutil.copytree(exported, folder)
    vocabulary = json.loads((folder / "vocabulary.json").read_text(encoding="utf-8"))
    characters = [chr(0x4E00 + i) for i in range(len(vocabulary["tokens"]))]
    vocabulary["tokens"][4:] = characters[4:]
    (folder / "vocabulary.json").write_text(json.dumps(vocabulary), encoding="utf-8")
    captions = Captioner.load(folder).caption(photos, sampling=Sampling(top_p=1.0))
    assert max(len(caption.words) for caption in captions) > 1
    assert all(caption.text == "".join(word.text for word in caption.words) for caption in captions)


@pytest.mark.slow
def test_commands_take_either_kind_of_folder(exported: Path, scenes: Path, tmp_path: Path) -> None:
    result = CliRunner().invoke(app, ["evaluate", str(exported), "--data", str(scenes), "--json"])
    assert result.exit_code == 0, result.stderr
    scored = json.loads(result.stdout)
    assert isinstance(Captioner.load(exported).engine, OnnxEngine)
    page = tmp_path / "report.html"
    result = CliRunner().invoke(app, ["report", str(exported), "--data", str(scenes), "--out", str(page)])
    assert result.exit_code == 0, result.stderr
    told = page.read_text(encoding="utf-8")
    assert f'<th scope="row" class="whole">BLEU-1</th>\n<td>{100 * scored["bleu_1"]:.1f} <small>' in told
    assert all(html.escape(image.captions[0]) in told for image in read_annotations(scenes).split("test"))


@pytest.mark.slow
@pytest.mark.parametrize(
    ("precision", "reduced_range", "size", "error"),
    [("float16", False, 0.6, 0.003), ("int8", False, 0.6, 0.1), ("int8", True, 0.6, 0.15)],
)
def test_a_smaller_export_still_sees(
    precision: Literal["float16", "int8"], reduced_range: bool, size: float, error: float,
    tiny_bundle: Path, exported: Path, photos: list[Path], tmp_path: Path,
) -> None:  # fmt: skip
    out = export_onnx(
        tiny_bundle, tmp_path / "out", precision=precision, reduced_range=reduced_range,
        calibration=photos if precision == "int8" else (),
    )  # fmt: skip
    for folder in (exported, out):
        check_that_nothing_names_a_folder(folder)
    assert (out / "encoder.onnx").stat().st_size < size * (exported / "encoder.onnx").stat().st_size
    captioner = Captioner.load(out)
    assert len(captioner.caption(photos)) == len(photos)
    pixels = np.stack([captioner.transform(_open(path)) for path in photos])
    whole, small = (OnnxEngine.load(f)._encoder.run(None, {"images": pixels})[0] for f in (exported, out))
    wrong = np.abs(whole - small).mean() / np.abs(whole).mean()
    assert 0 < wrong < error


def check_that_nothing_names_a_folder(exported: Path) -> None:
    """Of the machine that exported it: others get it from the hub."""
    ours = {str(Path(showtell.__file__).parent), sys.prefix, str(exported.parent)}
    for path in exported.iterdir():
        content = path.read_bytes()
        assert not [folder for folder in ours if folder.encode() in content], path


@pytest.mark.slow
def test_weights_of_the_reduced_range_leave_a_bit(tiny_bundle: Path, photos: list[Path], tmp_path: Path) -> None:
    import onnx

    for reduced_range, largest in ((False, 127), (True, 64)):
        out = export_onnx(
            tiny_bundle,
            tmp_path / f"{reduced_range}",
            precision="int8",
            calibration=photos,
            reduced_range=reduced_range,
        )
        tensors = [onnx.numpy_helper.to_array(t) for t in onnx.load(out / "encoder.onnx").graph.initializer]
        assert max(int(np.abs(t.astype(int)).max()) for t in tensors if t.dtype == np.int8 and t.ndim > 1) == largest


@pytest.mark.slow
def test_what_is_wrong_is_said(tiny_bundle: Path, exported: Path, photos: list[Path], tmp_path: Path) -> None:
    with pytest.raises(DataError, match="not an empty folder"):
        export_onnx(tiny_bundle, exported)
    with pytest.raises(DataError, match="--calibrate"):
        export_onnx(tiny_bundle, tmp_path / "x", precision="int8")
    assert not (tmp_path / "x").exists()
    with pytest.raises(BundleError, match="no exported captioner"):
        OnnxEngine.load(tiny_bundle)
    broken = tmp_path / "broken"
    shutil.copytree(exported, broken)
    (broken / "step.onnx").write_bytes(b"no")
    with pytest.raises(BundleError, match="cannot be read"):
        Captioner.load(broken)
    (broken / "step.onnx").unlink()
    with pytest.raises(BundleError, match=r"step\.onnx is missing"):
        Captioner.load(broken)
    config = json.loads((broken / "config.json").read_text())
    (broken / "config.json").write_text(json.dumps({**config, "onnx": 99}))
    with pytest.raises(BundleError, match="export version 99"):
        Captioner.load(broken)
    result = CliRunner().invoke(app, ["caption", str(exported), str(photos[0]), "--with", "red"])
    assert result.exit_code == 2
    result = CliRunner().invoke(app, ["caption", str(exported), str(photos[0]), "--device", "cuda"])
    assert result.exit_code == 2 and "runs on the cpu" in result.stderr


@pytest.mark.slow
@pytest.mark.filterwarnings("ignore:Specified provider")
def test_other_providers_than_the_cpu(exported: Path, photos: list[Path], monkeypatch: pytest.MonkeyPatch) -> None:
    import onnxruntime

    plain = Captioner.load(exported)
    named = Captioner.load(exported, providers=["CPUExecutionProvider"])
    assert [c.text for c in named.caption(photos)] == [c.text for c in plain.caption(photos)]
    monkeypatch.setattr(named.engine, "_on_cpu", False)  # a batch at once gives what one by one does
    pixels = np.random.default_rng(0).normal(size=(3, 3, 64, 64)).astype(np.float32)
    np.testing.assert_allclose(named.engine.features(pixels), plain.engine.features(pixels), atol=1e-4)
    with pytest.raises(DataError, match=r"no provider 'MadeUp'; expected some of .*CPUExecutionProvider"):
        Captioner.load(exported, providers=["MadeUp"])
    monkeypatch.setattr(onnxruntime, "get_available_providers", lambda: ["MadeUp", "CPUExecutionProvider"])
    with pytest.raises(DataError, match="'MadeUp' could not be started here"):
        Captioner.load(exported, providers=["MadeUp"])


@pytest.mark.slow
def test_an_export_says_that_no_caption_was_found(exported: Path, photos: list[Path]) -> None:
    wishes = Wishes(no_repeat_ngram=1, min_tokens=90, max_tokens=95)
    with pytest.raises(
        DataError,
        match=r"^no caption of 90 to 95 words, without the same word twice was found; ask for shorter captions",
    ):
        Captioner.load(exported).caption(photos[:1], wishes=wishes)


@pytest.mark.slow
def test_an_export_samples_by_its_seed(exported: Path, photos: list[Path]) -> None:
    def sampled(seed: int) -> str:
        command = ["caption", str(exported), *map(str, photos[:3]), "--sample", "--n", "5", "--seed", str(seed)]
        result = CliRunner().invoke(app, command)
        assert result.exit_code == 0, result.stderr
        return result.stdout

    assert sampled(1) == sampled(1) != sampled(2)


def _open(path: Path):  # type: ignore[no-untyped-def]
    from showtell.images import open_image

    return open_image(path)


@pytest.mark.slow
def test_what_the_other_kind_of_folder_takes_is_refused(exported: Path, tiny_bundle: Path) -> None:
    for options in ({"threads": 1}, {"providers": ["CPUExecutionProvider"]}):
        with pytest.raises(DataError, match="bundle is no exported captioner; expected threads and providers for one"):
            Captioner.load(tiny_bundle, **options)
    with pytest.raises(DataError, match=r"whose precision is that of its export; expected none, found 'float32'$"):
        Captioner.load(exported, precision="float32")
    with pytest.raises(DataError, match=r"which runs on the cpu; expected no device, found 'cuda:0'$"):
        Captioner.load(exported, torch.device("cuda:0"))
    assert Captioner.load(exported, torch.device("cpu"), threads=1).members == 1
