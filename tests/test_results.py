"""An evaluation's captions as a file: what was written is what `--predictions` scores, and nothing is replaced."""

from __future__ import annotations

import csv
import json
import math
from collections.abc import Iterable, Iterator
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
from command_line import IDS, make_captioned, refused, run, write_predictions

from showtell.captioner import Captioner
from showtell.captioning import Caption, Word
from showtell.data.annotations import read_annotations
from showtell.data.scenes import draw_scenes
from showtell.errors import ImageError
from showtell.evaluation import evaluate_captioner, evaluate_predictions
from showtell.images import Source
from showtell.results import write_results

SCORES = {"bleu_1", "bleu_2", "bleu_3", "bleu_4", "rouge_l", "cider"}


@pytest.fixture(scope="module")
def captioned(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return make_captioned(tmp_path_factory.mktemp("captioned"))


@pytest.mark.parametrize("name", ["own.json", "own.csv"])
def test_what_a_bundle_said_scores_the_same_again(name: str, tiny_bundle: Path, scenes: Path, tmp_path: Path) -> None:
    written = tmp_path / name
    said = run("evaluate", tiny_bundle, "--data", scenes, "--json", "--captions", written)
    assert said.exit_code == 0, said.output
    again = run("evaluate", "--predictions", written, "--data", scenes, "--json")
    first, second = json.loads(said.stdout), json.loads(again.stdout)
    assert {score: first[score] for score in SCORES} == {score: second[score] for score in SCORES}
    assert [path.name for path in tmp_path.iterdir()] == [name]


def test_a_captioner_that_says_markers_scores_as_its_captions_in_a_file(
    tiny_bundle: Path, scenes: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    captioner = Captioner.load(tiny_bundle)
    plain = evaluate_captioner(captioner, scenes)
    marked = [Caption(f"startseq {said} endseq .", 0.0, 0.0, ()) for said in plain.candidates]
    monkeypatch.setattr(captioner, "caption_each", lambda sources, **options: iter(marked))
    found = evaluate_captioner(captioner, scenes)
    rows = [{"image_id": i.image_id, "caption": c.text} for i, c in zip(plain.images, marked, strict=True)]
    (tmp_path / "own.json").write_text(json.dumps(rows))
    again = evaluate_predictions(tmp_path / "own.json", scenes)
    assert found.candidates == again.candidates == plain.candidates
    assert found.report.scores == again.report.scores == plain.report.scores
    assert found.report.notes[0] == again.report.notes[0] and "'startseq', 'endseq'" in found.report.notes[0]


def test_a_split_is_decoded_by_all_threads_that_may(
    tiny_bundle: Path, scenes: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    captioner, asked = Captioner.load(tiny_bundle), []
    plain = captioner.caption_each

    def watched(sources: Iterable[Source], **options: Any) -> Iterator[Caption | ImageError]:
        asked.append(options["workers"])
        return plain(sources, **options)

    monkeypatch.setattr(captioner, "caption_each", watched)
    monkeypatch.setattr("showtell.evaluation.decoding_threads", lambda: 5)
    evaluate_captioner(captioner, scenes)
    assert asked == [5]


def test_each_image_has_its_caption_and_its_scores(captioned: Path, tmp_path: Path) -> None:
    predictions = write_predictions(tmp_path / "p.json")
    evaluate = ("evaluate", "--data", captioned, "--json", "--predictions", predictions, "--captions")
    total = json.loads(run(*evaluate, tmp_path / "own.json").stdout)
    rows = json.loads((tmp_path / "own.json").read_text())
    assert [(row["image_id"], row["caption"]) for row in rows] == [
        (f"images/{name}.png", f"a small thing number {place}") for place, name in enumerate(IDS)
    ]
    for row in rows:
        assert row.keys() == {"image_id", "caption", *SCORES}
        assert row["bleu_4"] == pytest.approx(1.0, abs=1e-6)
    assert sum(row["cider"] for row in rows) / len(rows) == pytest.approx(total["cider"])
    assert run(*evaluate, tmp_path / "own.csv").exit_code == 0
    with (tmp_path / "own.csv").open(newline="") as file:
        table = list(csv.DictReader(file))
    assert [(row["caption"], float(row["cider"])) for row in table] == [(row["caption"], row["cider"]) for row in rows]


def test_a_captioner_says_how_sure_it_is_and_what_that_is_worth(
    tiny_bundle: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    scenes = draw_scenes(tmp_path / "scenes", images=60)
    images = read_annotations(scenes).split("train")
    captioner = Captioner.load(tiny_bundle)
    captions = [
        Caption(image.captions[0] if i % 2 else "a", -0.2 if i % 2 else -4.0 - i / 40, 0.0, (Word("a", -0.1, None),))
        for i, image in enumerate(images)
    ]
    monkeypatch.setattr(captioner, "caption_each", lambda sources, **options: iter(captions))
    found = replace(evaluate_captioner(captioner, scenes, split="train"), least=0.11)
    assert found.confidences == tuple(math.exp(caption.log_prob / 2) for caption in captions)
    known, asked, ciders = found.selection(), found.confident, found.report.each["cider"]
    assert known is not None and known.correlation > 0.5 and asked is not None
    chosen = [cider for cider, confidence in zip(ciders, found.confidences, strict=True) if confidence >= 0.11]
    assert len(images) / 2 < asked.images == len(chosen) < len(images) and asked.images not in {
        k.images for k in known.surest
    }
    assert asked.score == pytest.approx(sum(chosen) / len(chosen))
    (line,) = [line for line in found.lines() if line.startswith("as asked")]
    assert line.split()[2:6] == [str(asked.images), "of", str(len(images)), f"{100 * asked.score:.2f}"]
    told = found.to_dict()
    assert told["selection"]["rank_correlation"] == known.correlation
    assert told["confident"] == {
        "confidence": 0.11, "images": asked.images, "share": asked.share, "cider": asked.score, "interval": [asked.low, asked.high],
    }  # fmt: skip
    assert "no caption has a confidence of 0.97 or more; the greatest is 0.9" in "\n".join(
        replace(found, least=0.97).lines()
    )
    write_results(tmp_path / "own.json", found)
    assert [row["confidence"] for row in json.loads((tmp_path / "own.json").read_text())] == list(found.confidences)
    assert evaluate_predictions(tmp_path / "own.json", scenes, split="train").selection() is None


def test_numbers_of_coco_are_numbers(tmp_path: Path) -> None:
    entries = [
        {"image": name, "captions": [f"a plain thing {name}", "one thing"], "split": "test"}
        for name in ("7", "0", "12")
    ]
    (tmp_path / "captions.jsonl").write_text("".join(json.dumps(entry) + "\n" for entry in entries))
    (tmp_path / "p.json").write_text(json.dumps([{"image_id": e["image"], "caption": "one thing"} for e in entries]))
    evaluate = ("evaluate", "--data", tmp_path, "--json", "--predictions")
    first = run(*evaluate, tmp_path / "p.json", "--captions", tmp_path / "own.json").stdout
    assert [row["image_id"] for row in json.loads((tmp_path / "own.json").read_text())] == [7, 0, 12]
    assert json.loads(run(*evaluate, tmp_path / "own.json").stdout) == json.loads(first)


def test_nothing_is_replaced(captioned: Path, tmp_path: Path) -> None:
    predictions = write_predictions(tmp_path / "p.json")
    evaluate = ("evaluate", "--data", captioned, "--predictions", predictions, "--captions")
    before = predictions.read_bytes()
    refused(run(*evaluate, predictions), "p.json is there already")
    assert predictions.read_bytes() == before
    refused(run(*evaluate, tmp_path / "own.txt"), "own.txt", ".json or .csv")
    refused(run(*evaluate, tmp_path / "nowhere" / "own.json"), "nowhere", "a folder that exists")
