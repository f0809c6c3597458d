"""What is pushed is what is loaded; what the hub refuses is one sentence."""

from __future__ import annotations

import json
import os
import re
import shutil
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest
from huggingface_hub import ModelCard
from PIL import Image
from typer.testing import CliRunner, Result

from showtell import Captioner
from showtell.card import model_card
from showtell.cli import app
from showtell.errors import BundleError, DownloadError
from showtell.hub import HubId, prepare_upload, resolve
from showtell.recipe import load_recipe

TRAINING = {
    "dataset": "photos", "epoch": 3, "train_images": 40, "scores": {"bleu_4": 0.25, "cider": 1.5},
    "protocol": {
        "dataset": "photos", "split": "val", "images": 10, "references_per_image": "5", "tokenizer": "PTB",
        "decoding": "beam 3", "version": "0.1.0",
    },
}  # fmt: skip


def run(*arguments: object) -> Result:
    return CliRunner().invoke(app, [str(a) for a in arguments], prog_name="showtell")


def refused(result: Result, *words: str) -> None:
    assert result.exit_code == 2, (result.exit_code, result.output, result.exception)
    assert result.stdout == ""
    lines = [line for line in result.stderr.splitlines() if line.startswith("showtell: ")]
    assert len(lines) == 1, result.stderr
    assert "Traceback" not in result.stderr
    for word in words:
        assert word in lines[0]


@pytest.fixture
def ada(hub: Any, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("HF_TOKEN", "hf_ada")


@pytest.fixture
def trained(tiny_bundle: Path, tmp_path: Path) -> Path:
    """A bundle that knows its validation scores."""
    folder = shutil.copytree(tiny_bundle, tmp_path / "bundle")
    config = json.loads((folder / "config.json").read_text())
    config["recipe"]["data"]["path"] = "photos"
    (folder / "config.json").write_text(json.dumps({**config, "training": TRAINING}))
    return folder


@pytest.fixture
def photo(tmp_path: Path) -> Path:
    Image.new("RGB", (40, 30), (200, 80, 20)).save(tmp_path / "photo.png")
    return tmp_path / "photo.png"


@pytest.mark.usefixtures("ada")
def test_what_was_pushed_captions_the_same(hub: Any, trained: Path, photo: Path) -> None:
    result = run("push", trained, "ada/scenes", "--license", "MIT", "--message", "first")
    assert result.exit_code == 0, (result.output, result.exception)
    repository = hub.repositories["ada/scenes"]
    assert repository.messages == ["initial commit", "first"]
    assert result.stdout.strip() == f"{hub.url}/ada/scenes/commit/{repository.branches['main']}"
    files = repository.commits[repository.branches["main"]]
    for name in ("config.json", "tokenizer.json", "model.safetensors"):
        assert files[name] == (trained / name).read_bytes()
    here, there = Captioner.load(trained, device="cpu"), Captioner.load("ada/scenes", device="cpu")
    (found,), (wanted,) = there.caption(photo, n=2), here.caption(photo, n=2)
    assert [(c.text, c.log_prob) for c in (found, *found.alternatives)] == [
        (c.text, c.log_prob) for c in (wanted, *wanted.alternatives)
    ]
    named, local = run("caption", "ada/scenes", photo), run("caption", trained, photo)
    assert named.exit_code == 0, named.output
    assert named.stdout == local.stdout


@pytest.mark.usefixtures("ada")
def test_it_is_fetched_once_and_found_without_network(hub: Any, trained: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    assert run("push", trained, "ada/scenes", "--license", "mit").exit_code == 0
    folder = resolve("ada/scenes")
    hub.asked.clear()
    assert resolve("ada/scenes") == folder
    assert not [line for line in hub.asked if "/resolve/" in line]
    hub.broken = "/"
    assert resolve("ada/scenes") == folder
    monkeypatch.setattr("huggingface_hub.constants.ENDPOINT", "http://127.0.0.1:9")
    assert resolve(Path("ada/scenes")) == folder
    assert {path.name for path in folder.iterdir()} == {
        "README.md",
        "config.json",
        "tokenizer.json",
        "model.safetensors",
    }


@pytest.mark.slow
@pytest.mark.usefixtures("ada")
def test_a_revision_is_a_branch_or_a_commit(hub: Any, trained: Path) -> None:
    assert run("push", trained, "ada/scenes", "--license", "mit").exit_code == 0
    first = hub.repositories["ada/scenes"].branches["main"]
    assert run("push", trained, "ada/scenes", "--license", "cc-by-4.0", "--revision", "new").exit_code == 0
    branches = hub.repositories["ada/scenes"].branches
    assert branches["main"] == first != branches["new"]
    assert "license: mit" in (resolve("ada/scenes") / "README.md").read_text()
    assert "license: cc-by-4.0" in (resolve("ada/scenes@new") / "README.md").read_text()
    assert resolve(f"ada/scenes@{first}") == resolve("ada/scenes")
    refused(run("caption", "ada/scenes@old", "x.png"), "no revision 'old'")


@pytest.mark.usefixtures("ada")
def test_files_of_the_captioner_before_go_away(hub: Any, trained: Path) -> None:
    assert run("push", trained, "ada/scenes", "--license", "mit").exit_code == 0
    repository = hub.repositories["ada/scenes"]
    files = repository.commits[repository.branches["main"]]
    repository.commit("main", {**files, "encoder.onnx": b"old", "notes.txt": b"mine"}, "by hand")
    assert run("push", trained, "ada/scenes", "--license", "mit", "--message", "again").exit_code == 0
    assert repository.messages[-1] == "again"
    names = set(repository.commits[repository.branches["main"]])
    assert "notes.txt" in names
    assert "encoder.onnx" not in names


def test_the_card_is_metadata_and_scores(trained: Path, tmp_path: Path) -> None:
    test = {
        "bleu_4": 0.3, "cider": 2.0, "clip_s": 0.75, "intervals": {"bleu_4": [0.25, 0.35], "cider": [1.5, 2.5]},
        "floors": {"constant": {"bleu_4": 0.1, "cider": 0.2}},
        "protocol": {**TRAINING["protocol"], "split": "test", "clip": "ada/clip@1234567"},
    }  # fmt: skip
    (tmp_path / "test.json").write_text(json.dumps(test))
    options = ("--license", "CC-BY-4.0", "--dataset", "ada/photos", "--scores", tmp_path / "test.json")
    result = run("push", trained, "ada/scenes", *options, "--dry-run")
    assert result.exit_code == 0, result.output
    text = result.stdout
    data = ModelCard(text).data
    assert (data.license, data.library_name, data.pipeline_tag) == ("cc-by-4.0", "showtell", "image-to-text")
    assert data.datasets == ["ada/photos"]
    assert "image-captioning" in data.tags
    found = {(r.dataset_split, r.metric_name): r.metric_value for r in data.eval_results}
    assert found == {
        ("test", "BLEU-4 ×100"): 30.0, ("test", "CIDEr ×100"): 200.0, ("test", "CLIP-S ×100"): 75.0,
        ("val", "BLEU-4 ×100"): 25.0, ("val", "CIDEr ×100"): 150.0,
    }  # fmt: skip
    assert "| CIDEr | 200.00 | 150.00 – 250.00 | 20.00 |" in text
    assert "photos test, 10 images, 5 references each, PTB tokens, beam 3, CLIP-S by ada/clip@1234567, showtell" in text
    assert {r.metric_type for r in data.eval_results} == {"bleu", "cider", "clip_score"}
    assert 'Captioner.load("ada/scenes")' in text
    assert "Made with" not in text  # of an earlier version, which did not keep it
    assert f"{(trained / 'model.safetensors').stat().st_size:,} bytes  model.safetensors" in text


@pytest.mark.parametrize(
    ("start", "base"), [("", None), ("bundle", None), ("bob/scenes", "bob/scenes"), ("bob/scenes@v2", "bob/scenes")]
)
def test_the_card_names_the_captioner_that_it_began_with(start: str, base: str | None) -> None:
    recipe = load_recipe("scenes", [f'train.start="{start}"'])
    assert ModelCard(model_card(recipe.given_away(), {})).data.base_model == base


@pytest.mark.usefixtures("ada")
def test_no_folder_of_this_machine_is_published(hub: Any, trained: Path) -> None:
    config = json.loads((trained / "config.json").read_text())
    config["recipe"]["data"] |= {"path": "/data/ada/photos", "cache": "/data/ada/cache"}
    (trained / "config.json").write_text(json.dumps(config))
    upload = prepare_upload(trained, HubId("ada/scenes", None), license="mit")
    assert b"/data" not in upload.config
    assert json.loads(upload.config)["recipe"]["data"]["path"] == "photos"
    assert run("push", trained, "ada/scenes", "--license", "mit").exit_code == 0
    sent = resolve("ada/scenes") / "config.json"
    assert sent.read_bytes() == upload.config


def test_a_run_that_was_nearly_named(trained: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    shutil.copytree(trained, trained.parent / "runs" / "photos" / "bundle")
    monkeypatch.chdir(trained.parent)
    monkeypatch.setenv("HF_HUB_OFFLINE", "1")
    for wrong in ("runs/photo", "runs/photos", "runs/photo/bundle", "runs/photos/bundel"):
        refused(run("trace", wrong, "x.png"), "did you mean 'runs/photos/bundle'?")


@pytest.mark.usefixtures("ada")
def test_a_dry_run_sends_nothing(hub: Any, trained: Path) -> None:
    before = (trained / "README.md").read_bytes()
    assert run("push", trained, "ada/scenes", "--license", "mit", "--dry-run").exit_code == 0
    assert not hub.asked
    assert (trained / "README.md").read_bytes() == before


@pytest.mark.slow
def test_private_and_tokens(hub: Any, trained: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    (tmp_path / "token").write_text("hf_ada\n")
    push = ("push", trained, "ada/scenes", "--license", "mit")
    assert run(*push, "--private", "--token-file", tmp_path / "token").exit_code == 0
    assert hub.repositories["ada/scenes"].private
    with pytest.raises(BundleError, match="no model of that name that you may read"):
        resolve("ada/scenes")  # before the next push has put it into the cache, from which older clients take it
    assert (
        run(*push, "--private", "--token-file", tmp_path / "token").exit_code == 0
    )  # reads what is there with that token, too
    monkeypatch.setenv("HF_TOKEN", "hf_ada")
    assert (resolve("ada/scenes") / "config.json").is_file()
    hub.repositories["ada/scenes"].private = False
    commits = len(hub.repositories["ada/scenes"].commits)
    refused(run(*push, "--private"), "is public")
    assert len(hub.repositories["ada/scenes"].commits) == commits


def test_refusals_are_sentences(hub: Any, trained: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    push = ("push", trained, "ada/scenes", "--license", "mit")
    refused(run(*push), "no login", "HF_TOKEN", "--token-file")
    monkeypatch.setenv("HF_TOKEN", "hf_nobody")
    refused(run(*push), "does not accept this login (401)")
    monkeypatch.setenv("HF_TOKEN", "hf_bob")
    refused(run(*push), "may not write to ada/scenes (403)")
    monkeypatch.setenv("HF_TOKEN", "hf_ada")
    hub.broken = "/commit/"
    refused(run(*push), "answers 500")
    assert set(hub.repositories["ada/scenes"].commits[hub.repositories["ada/scenes"].branches["main"]]) == {
        ".gitattributes"
    }
    hub.broken = ""
    monkeypatch.setenv("HF_TOKEN", "hf_bob")
    refused(run(*push), "(403)")
    (tmp_path / "token").write_text("")
    refused(run(*push, "--token-file", tmp_path / "token"), "0 words")
    refused(run(*push, "--token-file", tmp_path / "none"), "no such file")


def test_wrong_arguments_are_sentences_before_anything_is_sent(hub: Any, trained: Path, tmp_path: Path) -> None:
    for name in ("scenes", "ada/sce nes", "ada/a/b", "/scenes", "ada/x--y", "ada/-x"):
        refused(run("push", trained, name, "--license", "mit"), "no name on the hub")
    refused(run("push", trained, "ada/scenes"), "--license is missing", "apache-2.0")
    refused(run("push", trained, "ada/scenes", "--license", "do what you want"), "do what you want", "cc-by-4.0")
    refused(run("push", trained, "ada/scenes", "--license", "mit", "--dataset", "my photos"), "my photos")
    refused(run("push", tmp_path / "none", "ada/scenes", "--license", "mit"), "is not a folder")
    (tmp_path / "s.json").write_text('{"cider": 1}')
    refused(run("push", trained, "ada/scenes", "--license", "mit", "--scores", tmp_path / "s.json"), "evaluate --json")
    (trained / "model.safetensors").unlink()
    refused(run("push", trained, "ada/scenes", "--license", "mit"), "model.safetensors is missing")
    assert not hub.asked


def test_what_is_not_there_is_said_of_both_places(hub: Any, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    refused(run("caption", "runs/x/bundel", "x.png"), "'runs/x/bundel' is not a folder", "config.json")
    assert not hub.asked
    refused(run("caption", "runs/bundel", "x.png"), "no folder here", "no model of that name")
    hub.broken = "/"
    refused(run("caption", "runs/bundel", "x.png"), "no folder here", "answers 500")
    monkeypatch.setattr("huggingface_hub.constants.ENDPOINT", "http://127.0.0.1:9")
    with pytest.raises(DownloadError, match="no folder here, and the hub cannot be reached"):
        resolve("runs/bundel")
    monkeypatch.setenv("HF_HUB_OFFLINE", "1")
    monkeypatch.setattr("huggingface_hub.constants.HF_HUB_OFFLINE", True)
    with pytest.raises(DownloadError, match="HF_HUB_OFFLINE"):
        resolve("runs/bundel")
    (tmp_path / "runs" / "bundel").mkdir(parents=True)
    assert resolve("runs/bundel") == Path("runs/bundel")


@pytest.mark.usefixtures("ada")
def test_pushing_without_a_network_is_one_sentence(hub: Any, trained: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("huggingface_hub.constants.ENDPOINT", "http://127.0.0.1:9")
    refused(run("push", trained, "ada/scenes", "--license", "mit"), "cannot be reached", "nothing was published")


@pytest.mark.usefixtures("ada")
def test_what_was_fetched_stays_as_it_was(hub: Any, trained: Path, scenes: Path) -> None:
    assert run("push", trained, "ada/scenes", "--license", "mit").exit_code == 0
    refused(run("decoding", "ada/scenes", "--data", scenes), "is on the hub", "--dry-run")


@pytest.mark.usefixtures("ada")
def test_a_strangers_model_is_not_fetched(hub: Any, trained: Path) -> None:
    assert run("push", trained, "ada/scenes", "--license", "mit").exit_code == 0
    repository = hub.repositories["ada/scenes"]
    files = repository.commits[repository.branches["main"]]
    repository.commit("main", {**files, "config.json": b'{"model_type": "bert"}', "evil.py": b""}, "another model")
    hub.asked.clear()
    with pytest.raises(BundleError, match="was not made by showtell"):
        resolve("ada/scenes")
    assert not [line for line in hub.asked if "safetensors" in line or "evil" in line]


def test_names() -> None:
    assert HubId.parse("ada/scenes") == HubId("ada/scenes", None)
    assert HubId.parse("ada/scenes@v1.0") == HubId("ada/scenes", "v1.0")
    for text in ("ada", "a/b/c", "./bundle", "../bundle", "ada/", "/ada", "ada/x@", "ada/x.git", "~/bundle", "a b/c"):
        assert HubId.parse(text) is None


@pytest.mark.slow
@pytest.mark.usefixtures("ada")
def test_an_exported_folder_travels_too(
    hub: Any,
    trained: Path,
    photo: Path,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    capsys: pytest.CaptureFixture[str],
) -> None:
    pytest.importorskip("onnxscript", reason="needs the extra 'onnx'")
    assert run("export", trained, "--onnx", tmp_path / "onnx").exit_code == 0
    assert run("push", tmp_path / "onnx", "ada/small", "--license", "mit").exit_code == 0
    card = ModelCard(
        hub.repositories["ada/small"].commits[hub.repositories["ada/small"].branches["main"]]["README.md"].decode()
    )
    assert "onnx" in card.data.tags
    (example,) = re.findall(r"```python\n(.*?)```", card.content, re.DOTALL)
    monkeypatch.chdir(photo.parent)
    exec(example.replace("photo.jpg", photo.name), {})
    assert capsys.readouterr().out.strip() == run("caption", tmp_path / "onnx", photo).stdout.strip().split(": ", 1)[1]
    assert {r.metric_name for r in card.data.eval_results} == {"BLEU-4 ×100", "CIDEr ×100"}
    assert run("caption", "ada/small", photo).stdout == run("caption", tmp_path / "onnx", photo).stdout != ""


@pytest.mark.slow
def test_the_environment_names_the_hub(hub: Any, trained: Path, photo: Path, tmp_path: Path) -> None:
    """As a user has it: another process, `HF_ENDPOINT`, and no network the second time."""
    own = {"HF_HOME": str(tmp_path / "home"), "HF_ENDPOINT": hub.url, "HF_HUB_DISABLE_XET": "1", "HF_TOKEN": "hf_ada"}

    def showtell(*arguments: object, **more: str) -> str:
        command = [sys.executable, "-m", "showtell", *map(str, arguments)]
        done = subprocess.run(command, env={**os.environ, **own, **more}, capture_output=True, text=True)
        assert done.returncode == 0, done.stderr
        return done.stdout

    showtell("push", trained, "ada/scenes", "--license", "mit")
    first = showtell("caption", "ada/scenes", photo)
    asked = len(hub.asked)
    assert showtell("caption", "ada/scenes", photo, HF_HUB_OFFLINE="1") == first
    assert CliRunner().invoke(app, ["caption", str(trained), str(photo)]).stdout == first
    assert len(hub.asked) == asked
