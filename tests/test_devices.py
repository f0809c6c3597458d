"""`--device`, `--batch` and `--workers` mean the same wherever a captioner is loaded, and change no result."""

from __future__ import annotations

import json
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
from command_line import refused, run, write_predictions

from showtell.captioner import Captioner
from showtell.captioning import Caption
from showtell.choosing import choose_bundle_decoding
from showtell.data import encoding
from showtell.errors import ImageError


@pytest.fixture
def asked(monkeypatch: pytest.MonkeyPatch) -> list[dict[str, int]]:
    """The batch and the threads of every call that captions images."""
    heard: list[dict[str, int]] = []
    caption_each = Captioner.caption_each

    def listened(self: Captioner, sources: Any, **options: Any) -> Iterator[Caption | ImageError]:
        heard.append({name: options[name] for name in ("batch_size", "workers") if name in options})
        return caption_each(self, sources, **options)

    monkeypatch.setattr(Captioner, "caption_each", listened)
    return heard


def test_evaluate_takes_them_and_scores_the_same(tiny_bundle: Path, scenes: Path, asked: list[dict[str, int]]) -> None:
    evaluate = ("evaluate", tiny_bundle, "--data", scenes, "--json")
    plain = json.loads(run(*evaluate).stdout)
    assert json.loads(run(*evaluate, "--device", "cpu", "--batch", 3, "--workers", 2).stdout) == plain
    assert asked[0]["batch_size"] == 32
    assert asked[1] == {"batch_size": 3, "workers": 2}


def test_a_report_takes_them(tiny_bundle: Path, scenes: Path, tmp_path: Path, asked: list[dict[str, int]]) -> None:
    page = tmp_path / "report.html"
    result = run(
        "report", tiny_bundle, "--data", scenes, "--out", page, "--batch", 3, "--workers", 2, "--device", "cpu"
    )
    assert result.exit_code == 0, result.output
    assert asked[0] == {"batch_size": 3, "workers": 2}
    assert {call["batch_size"] for call in asked} == {3}


def test_a_decoding_is_chosen_with_them(tiny_bundle: Path, scenes: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    heard = []
    encode_into = encoding.encode_into

    def listened(*arguments: Any, **options: Any) -> Any:
        heard.append((options["batch"], options["workers"]))
        return encode_into(*arguments, **options)

    monkeypatch.setattr("showtell.choosing.encode_into", listened)
    monkeypatch.setattr("showtell.choosing._scores", lambda *_: {"cider": 1.0, "bleu_4": 0.5})
    result = run(
        "decoding", tiny_bundle, "--data", scenes, "--dry-run", "--device", "cpu", "--batch", 3, "--workers", 2
    )
    assert result.exit_code == 0, result.output
    assert heard == [(3, 2)]
    choose_bundle_decoding(tiny_bundle, scenes)
    assert heard[1][0] == 32


def test_a_device_that_is_not_there_is_told_in_one_sentence(tiny_bundle: Path, scenes: Path, tmp_path: Path) -> None:
    image = next((scenes / "images").iterdir())
    for command in (
        ("evaluate", tiny_bundle, "--data", scenes),
        ("decoding", tiny_bundle, "--data", scenes, "--dry-run"),
        ("report", tiny_bundle, "--data", scenes, "--out", tmp_path / "report.html"),
        ("trace", tiny_bundle, image),
        ("explain", tiny_bundle, image),
        ("serve", tiny_bundle, "--port", 0),
    ):
        refused(run(*command, "--device", "gpu"), "device 'gpu'", "expected cpu")


def test_a_trace_on_a_device_is_the_trace(tiny_bundle: Path, scenes: Path) -> None:
    image = next((scenes / "images").iterdir())
    assert run("trace", tiny_bundle, image, "--device", "cpu").stdout == run("trace", tiny_bundle, image).stdout


def test_predictions_are_not_captioned_again(scenes: Path, tmp_path: Path) -> None:
    evaluate = ("evaluate", "--data", scenes, "--predictions", write_predictions(tmp_path / "p.json"))
    for options in (
        ["--batch", 2],
        ["--workers", 2],
        ["--diversity", 1],
        ["--seed", 1],
        ["--sample"],
        ["--top-p", 0.5],
    ):
        refused(run(*evaluate, *options), f"{options[0]} captions with a bundle; --predictions are captions already")
    refused(run(*evaluate, "--views", 2, "--consensus", 0), "--consensus, --views caption with a bundle")
    refused(run(*evaluate, "--device", "cpu"), "--device", "--metrics clip")
