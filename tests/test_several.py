"""Scores of several captions an image: from a bundle, from files, in tables and JSON; what is refused."""

from __future__ import annotations

import json
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
from command_line import IDS, make_captioned, refused, run

from showtell.captioner import Captioner
from showtell.captioning import Caption
from showtell.data.annotations import read_annotations
from showtell.decoding import Sampling, Wishes
from showtell.errors import DataError
from showtell.evaluation import evaluate_captioner, evaluate_predictions
from showtell.metrics import read_predictions, read_sets, score_people, score_sets

SCORES = ("bleu_1", "bleu_4", "rouge_l", "cider")
SAID = {
    "a": ["a small thing number 0", "a thing", "a flat thing number 0"],
    "b": ["a plain thing", "a small thing", "a small thing"],
    "c": ["a thing number 2", "a flat thing", "number 2"],
    "d": ["a thing number 3", "number 3", "a small thing number 3"],
}


@pytest.fixture(scope="module")
def captioned(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return make_captioned(tmp_path_factory.mktemp("captioned"))


def write_said(path: Path, said: dict[str, list[str]] = SAID) -> Path:
    """The captions as `showtell caption --n 3` writes them."""
    rows = [
        {"image": f"images/{i}.png", "caption": first, "alternatives": [{"caption": c, "score": 0.1} for c in others]}
        for i, (first, *others) in said.items()
    ]
    path.write_text("".join(json.dumps(row) + "\n" for row in rows))
    return path


def test_a_bundle_is_scored_by_several_captions(tiny_bundle: Path, scenes: Path) -> None:
    evaluate = ("evaluate", tiny_bundle, "--data", scenes, "--n", 3)
    found = json.loads(run(*evaluate, "--json").stdout)
    plain = json.loads(run("evaluate", tiny_bundle, "--data", scenes, "--json").stdout)
    assert {name: found[name] for name in SCORES} == {name: plain[name] for name in SCORES}
    several = found["several"]
    assert several["n"] == 3 and several["cider"]["first"] == pytest.approx(found["cider"])
    assert several["cider"]["best"] >= several["cider"]["first"] and several["distinct"] == 1
    assert "several" not in plain
    assert found["protocol"]["decoding"] == plain["protocol"]["decoding"] + ", 3 captions an image"
    images = read_annotations(scenes).split("test")
    captions = Captioner.load(tiny_bundle).caption([image.path for image in images], n=3)
    sets = [[best.text, *(other.text for other in best.alternatives)] for best in captions]
    references = [list(image.captions) for image in images]
    wanted = score_sets(sets, references)
    assert several["mbleu_4"] == pytest.approx(wanted.mbleu_4) and several["self_cider"] == wanted.self_cider
    people = score_people(references, 3)
    assert people is not None and several["people"]["self_cider"] == people.self_cider
    table = run(*evaluate).stdout
    assert "of the 3 captions" in table and "self-CIDEr" in table and "people: mean" in table


def test_how_they_were_chosen_is_in_the_protocol(tiny_bundle: Path, scenes: Path) -> None:
    def decoding(*options: object) -> str:
        said = run("evaluate", tiny_bundle, "--data", scenes, "--json", *options)
        assert said.exit_code == 0, said.output
        return str(json.loads(said.stdout)["protocol"]["decoding"])

    assert "3 groups, 0.7 nats apart, 3 captions" in decoding("--n", 3, "--diverse", "--diversity", 0.7)
    sampled = decoding("--n", 2, "--sample", "--temperature", 0.8, "--top-p", 0.95, "--seed", 7)
    assert sampled.startswith("sampled at temperature 0.8 from 0.95 of the probability, seed 7")
    assert sampled.endswith("2 captions an image") and "beam" not in sampled
    assert "captions an image" not in decoding("--sample")


def test_samples_are_the_seeds_whatever_the_batch(tiny_bundle: Path, scenes: Path) -> None:
    captioner = Captioner.load(tiny_bundle)
    one, same, other = (
        evaluate_captioner(captioner, scenes, n=3, sampling=Sampling(seed=seed), batch_size=batch)
        for seed, batch in ((0, 32), (0, 1), (1, 32))
    )
    assert one.candidates == same.candidates and one.alternatives == same.alternatives
    assert one.alternatives != other.alternatives


def test_images_with_fewer_captions_repeat_theirs(
    tiny_bundle: Path, scenes: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    captioner = Captioner.load(tiny_bundle)
    images = read_annotations(scenes).split("test")

    def found_two(sources: Any, **options: Any) -> Iterator[Caption]:
        for _ in sources:
            yield Caption("a red circle", 0.0, 0.0, (), alternatives=(Caption("a blue one", 0.0, 0.0, ()),))

    monkeypatch.setattr(captioner, "caption_each", found_two)
    found = evaluate_captioner(captioner, scenes, n=3, wishes=Wishes(diverse=True))
    assert found.several is not None and found.several.short == len(images)
    assert found.several.own.distinct == pytest.approx(2 / 3)
    assert f"{len(images)} images have fewer than 3 captions" in "\n".join(found.lines())


def test_what_caption_writes_is_scored(tiny_bundle: Path, scenes: Path, tmp_path: Path) -> None:
    photos = [image.path for image in read_annotations(scenes).split("test")]
    wanted = json.loads(run("evaluate", tiny_bundle, "--data", scenes, "--n", 3, "--json").stdout)
    assert run("caption", tiny_bundle, *photos, "--n", 3, "--out", tmp_path / "own.jsonl").exit_code == 0
    (tmp_path / "own.csv").write_text(run("caption", tiny_bundle, *photos, "--n", 3, "--format", "csv").stdout)
    for name in ("own.jsonl", "own.csv"):
        said = run("evaluate", "--predictions", tmp_path / name, "--data", scenes, "--n", 3, "--json")
        found = json.loads(said.stdout)
        assert found["several"] == wanted["several"], name
        assert {score: found[score] for score in SCORES} == {score: wanted[score] for score in SCORES}
        assert found["protocol"]["decoding"] == "unknown, 3 captions an image"


def test_captions_written_by_evaluate_are_read_back(captioned: Path, tmp_path: Path) -> None:
    evaluate = ("evaluate", "--data", captioned, "--json", "--n", 3, "--predictions")
    wanted = run(*evaluate, write_said(tmp_path / "own.jsonl"), "--captions", tmp_path / "kept.json")
    assert wanted.exit_code == 0, wanted.output
    assert json.loads(run(*evaluate, tmp_path / "kept.json").stdout) == json.loads(wanted.stdout)
    refused(
        run(*evaluate, tmp_path / "own.jsonl", "--captions", tmp_path / "kept.csv"), "--n 3 captions", "name a .json"
    )


def test_files_of_several_captions_are_read(captioned: Path, tmp_path: Path) -> None:
    wanted = {f"images/{i}.png": tuple(captions) for i, captions in SAID.items()}
    assert read_sets(write_said(tmp_path / "own.jsonl")) == wanted
    rows = [(k, f"images/{i}.png", c) for i, said in SAID.items() for k, c in enumerate(said, start=1)]
    mixed = sorted(rows, key=lambda row: (-row[0], row[1]))
    (tmp_path / "own.csv").write_text(
        "image,rank,caption\n" + "".join(f"{image},{rank},{caption}\n" for rank, image, caption in mixed)
    )
    assert read_sets(tmp_path / "own.csv") == wanted
    (tmp_path / "own.json").write_text(json.dumps([{"image_id": image, "caption": c} for _, image, c in rows]))
    assert read_sets(tmp_path / "own.json") == wanted
    (tmp_path / "own.txt").write_text("".join(f"{image}\t{caption}\n" for _, image, caption in rows))
    assert read_sets(tmp_path / "own.txt") == wanted
    strings = [{"image": "a", "caption": "one", "alternatives": ["two"]}]
    (tmp_path / "own.json").write_text(json.dumps(strings))
    assert read_sets(tmp_path / "own.json") == {"a": ("one", "two")}
    assert read_predictions(tmp_path / "own.json") == {"a": "one"}
    for wrong in ("two", {"caption": "two"}, [2], [{"text": 2}], [{}]):
        (tmp_path / "own.json").write_text(json.dumps([{"image": "a", "caption": "one", "alternatives": wrong}]))
        with pytest.raises(DataError, match=r"own\.json, entry 1"):
            read_sets(tmp_path / "own.json")


def test_the_first_n_of_a_file_count(captioned: Path, tmp_path: Path) -> None:
    file = write_said(tmp_path / "own.jsonl")
    references = [list(image.captions) for image in read_annotations(captioned).split("test")]
    for n in (2, 3):
        several = evaluate_predictions(file, captioned, n=n).several
        assert several is not None and several.own == score_sets([SAID[i][:n] for i in IDS], references)
    more = evaluate_predictions(file, captioned, n=4).several
    assert more is not None and more.short == 4 and more.own.n == 4 and more.people is not None and more.people.n == 3


def test_markers_around_alternatives_are_removed(captioned: Path, tmp_path: Path) -> None:
    marked = {i: [f"<start> {caption} <end>" for caption in captions] for i, captions in SAID.items()}
    found = evaluate_predictions(write_said(tmp_path / "marked.jsonl", marked), captioned, n=3)
    wanted = evaluate_predictions(write_said(tmp_path / "own.jsonl"), captioned, n=3)
    assert found.several == wanted.several and found.alternatives == wanted.alternatives


def test_options_that_make_no_sense_are_refused(tiny_bundle: Path, captioned: Path, tmp_path: Path) -> None:
    bundle = ("evaluate", tiny_bundle, "--data", captioned)
    refused(run(*bundle, "--diverse"), "--diverse captions are several and --n is 1, expected 2 or more")
    refused(run(*bundle, "--n", 3, "--diversity", 1), "--diversity goes with --diverse, which is missing")
    refused(run(*bundle, "--n", 3, "--diverse", "--sample"), "--diverse searches, and --sample draws")
    refused(run(*bundle, "--n", 3, "--diverse", "--consensus", 5), "diverse captions differ")
    refused(run(*bundle, "--n", 3, "--seed", 1), "--seed goes with --sample, which is missing")
    refused(run(*bundle, "--n", 3, "--sample", "--temperature", 0), "temperature is 0.0")
    refused(run(*bundle, "--n", 0), "--n")
    one = tmp_path / "one.json"
    one.write_text(json.dumps([{"image_id": f"{i}.png", "caption": SAID[i][0]} for i in IDS]))
    file = ("evaluate", "--data", captioned, "--predictions", one)
    refused(run(*file, "--n", 3), "one caption an image", "leave out --n")
    for option in ("--diverse", "--sample"):
        refused(run(*file, "--n", 3, option), f"{option} captions with a bundle; --predictions are captions already")
