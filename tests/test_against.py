"""`showtell evaluate --against`: the difference of two captioners as `metrics.compare` has it, on the images that both have."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest
from command_line import refused, run

from showtell.against import compare_evaluations
from showtell.errors import DataError
from showtell.evaluation import evaluate_predictions
from showtell.metrics import compare, evaluate
from showtell.scores import Evaluation

COUNT = 30
NAMES = [f"{place}.png" for place in range(COUNT)]
WORDS = ("red", "green", "tall", "flat", "old")


@pytest.fixture
def things(tmp_path: Path) -> Path:
    """Captions of thirty test images that nobody has."""
    lines = [
        {"image": name, "captions": [f"a {WORDS[i % 5]} thing {i}", f"some {WORDS[i % 5]} thing"], "split": "test"}
        for i, name in enumerate(NAMES)
    ]
    (tmp_path / "captions.jsonl").write_text("".join(json.dumps(line) + "\n" for line in lines))
    return tmp_path


def write(path: Path, wrong: int, names: list[str] = NAMES) -> Path:
    """Predictions, every `wrong`th of them bad."""
    said = {name: f"a {WORDS[i % 5]} thing {i}" if i % wrong else "it is a dog" for i, name in enumerate(NAMES)}
    path.write_text(json.dumps([{"image_id": name, "caption": said[name]} for name in names]))
    return path


def scored(path: Path, data: Path, **options: Any) -> Evaluation:
    return evaluate_predictions(path, data, **options)


@pytest.mark.slow
def test_differences_are_this_less_the_other(things: Path) -> None:
    good, bad = write(things / "good.json", 10), write(things / "bad.json", 2)
    result = run("evaluate", "--predictions", good, "--against", bad, "--data", things, "--json")
    assert result.exit_code == 0, result.output
    found = json.loads(result.stdout)
    expected = compare(scored(bad, things).report, scored(good, things).report)
    assert found["against"]["differences"].keys() == expected.keys()
    for name, difference in found["against"]["differences"].items():
        assert difference == {key: getattr(expected[name], key) for key in ("difference", "low", "high", "p")}
        assert difference["difference"] == pytest.approx(found[name] - found["against"]["scores"][name])
        assert difference["low"] > 0 and difference["p"] < 0.05
    printed = run("evaluate", "--predictions", bad, "--against", good, "--data", things).stdout
    assert f"against {good}" in printed
    cider = expected["cider"]
    (line,) = [line for line in printed.splitlines() if line.startswith("CIDEr") and "+" not in line and "…" in line]
    assert f"{-100 * cider.difference:.2f}" in line and f"{-100 * cider.high:.2f} … {-100 * cider.low:.2f}" in line
    assert printed.splitlines()[-1].startswith("this: significantly lower in BLEU-1")
    same = run("evaluate", "--predictions", bad, "--against", bad, "--data", things).stdout
    assert same.splitlines()[-1] == "this: no difference is significant at p < 0.05"


def test_a_bundle_is_compared_with_predictions(tiny_bundle: Path, scenes: Path, tmp_path: Path) -> None:
    said = run("evaluate", tiny_bundle, "--data", scenes, "--json", "--captions", tmp_path / "own.json")
    assert said.exit_code == 0, said.output
    found = run("evaluate", tiny_bundle, "--data", scenes, "--json", "--against", tmp_path / "own.json")
    differences = json.loads(found.stdout)["against"]["differences"].values()
    assert {(entry["difference"], entry["p"]) for entry in differences} == {(0.0, 1.0)}


@pytest.mark.slow
def test_only_images_that_both_have_are_compared(things: Path) -> None:
    first, second = write(things / "first.json", 3, NAMES[2:]), write(things / "second.json", 4, NAMES[:-3])
    evaluate_both = ("evaluate", "--predictions", first, "--against", second, "--data", things)
    refused(run(*evaluate_both), "second.json", "3 of the 30 images", "--allow-missing")
    result = run(*evaluate_both, "--allow-missing")
    assert "on the 25 images that both have, of 28 and 27" in result.stdout
    assert "second.json: 3 images without a prediction" in result.stderr
    own, other = (scored(path, things, allow_missing=True) for path in (first, second))
    compared = compare_evaluations(own, other, name="second.json")
    references = [list(image.captions) for image in own.images[:25]]
    expected = evaluate(own.candidates[:25], references, protocol=own.report.protocol)
    assert compared.own.scores == expected.scores and compared.own.protocol.images == 25
    none = scored(write(things / "none.json", 3, NAMES[:2]), things, allow_missing=True)
    with pytest.raises(DataError, match=r"none\.json has captions of none of the images"):
        compare_evaluations(own, none, name="none.json")


def test_wrong_uses_are_sentences(things: Path, tiny_bundle: Path) -> None:
    good = write(things / "good.json", 10)
    evaluate = ("evaluate", "--data", things, "--predictions", good)
    refused(run("evaluate", "--data", things, "--against", good), "either a bundle or --predictions")
    refused(run(*evaluate, "--against", things / "none.json"), "--against", "no such file")
    refused(run(*evaluate, "--against", tiny_bundle), "is a captioner", "--captions FILE")
    refused(run(*evaluate, "--against", good, "--images", good), "--images goes with a text", "good.json")
    lines = things / "lines.txt"
    lines.write_text("".join(f"a thing {i}\n" for i in range(COUNT)))
    names = things / "names.txt"
    names.write_text("".join(f"{name}\n" for name in NAMES))
    assert run(*evaluate, "--against", lines).stdout == run(*evaluate, "--against", lines, "--images", names).stdout
