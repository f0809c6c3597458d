"""The report: one file, no network, nothing that a caption could inject, and words that show where the model looked."""

from __future__ import annotations

import html
import json
import re
import shutil
import subprocess
from dataclasses import replace
from pathlib import Path
from xml.etree import ElementTree

import numpy as np
import pytest
from typer.testing import CliRunner

from showtell.captioning import Caption, Word
from showtell.cli import app
from showtell.errors import DataError
from showtell.report.charts import Band, Series, line_chart
from showtell.report.collect import Example, RunReport, collect, read_epochs
from showtell.report.page import write_page

SCORES = {"bleu_1": 0.5, "bleu_2": 0.4, "bleu_3": 0.3, "bleu_4": 0.2, "rouge_l": 0.4, "cider": 1.0}


@pytest.fixture(scope="module")
def run(tmp_path_factory: pytest.TempPathFactory, tiny_bundle: Path) -> Path:
    folder = tmp_path_factory.mktemp("runs") / "first"
    shutil.copytree(tiny_bundle, folder / "bundle")
    rows = [
        {
            "epoch": number, "phase": 1 + number // 3, "train_loss": 3.0 / number, "trains_encoder": number >= 3,
            "scores": {name: value * number / 4 for name, value in SCORES.items()}, "best": True,
        }
        for number in range(1, 5)
    ]  # fmt: skip
    (folder / "log.jsonl").write_text("".join(json.dumps(row) + "\n" for row in rows) + '{"epoch": 5, "torn')
    return folder


@pytest.fixture(scope="module")
def collected(run: Path, scenes: Path) -> RunReport:
    found = collect(run, scenes, examples=2)
    spoken = {name: tuple(map(say, part)) for name, part in found.examples.items()}
    return replace(found, examples=spoken)


def say(example: Example) -> Example:
    """The example with words: a model that was never trained may say none."""
    maps = np.random.default_rng(0).dirichlet(np.ones(16), size=3).reshape(3, 4, 4).astype(np.float32)
    words = tuple(Word(text, -0.5, weights) for text, weights in zip(("a", "red", "dog"), maps, strict=True))
    return replace(example, caption=Caption("a red dog", -2.0, -0.5, words))


def test_a_report_holds_what_it_promises(run: Path, collected: RunReport, tmp_path: Path) -> None:
    write_page(tmp_path / "report.html", [collected], title="made up <run>")
    page = (tmp_path / "report.html").read_text(encoding="utf-8")
    assert not re.search(r"(src|href)=\"(?!data:)", page)
    assert "http" not in re.sub(r"http://www\.w3\.org\S*", "", page)
    assert "made up &lt;run&gt;" in page
    score = collected.evaluation.report.scores["bleu_1"]
    for wanted in (
        f"{100 * score:.1f}",
        "constant floor",
        "shuffled floor",
        "people, 4 refs",
        "copies of training captions",
    ):
        assert wanted in page
    assert page.count("<svg") == 3
    assert page.count('class="band"') == 3  # the CNN + LSTM phase, once a chart
    assert page.count('class="card"') == sum(len(part) for part in collected.examples.values()) >= 3
    for example in collected.examples["Random"]:
        assert html.escape(example.image.captions[0]) in page
    assert [epoch.number for epoch in read_epochs(run / "log.jsonl")] == [1, 2, 3, 4]


def test_a_caption_cannot_inject_anything(collected: RunReport, tmp_path: Path) -> None:
    part = collected.examples["Random"]
    evil = "<script>alert(1)</script>\"'"
    image = replace(part[0].image, captions=(evil,))
    caption = replace(part[0].caption, text=evil, words=(replace(part[0].caption.words[0], text=evil),))
    examples = {"Random": (replace(part[0], image=image, caption=caption),)}
    write_page(tmp_path / "report.html", [replace(collected, examples=examples)], title=evil)
    page = (tmp_path / "report.html").read_text(encoding="utf-8")
    assert "<script>alert" not in page
    assert page.count("<script>") == 1


def test_runs_side_by_side_are_compared(collected: RunReport, tmp_path: Path) -> None:
    write_page(tmp_path / "report.html", [collected, replace(collected, name="second")], title="two")
    page = (tmp_path / "report.html").read_text(encoding="utf-8")
    assert "Differences from first" in page
    assert "+0.00" in page and "p = 1.000" in page
    fewer = replace(collected.evaluation, images=collected.evaluation.images[1:])
    with pytest.raises(DataError, match="second was scored on"):
        write_page(tmp_path / "x.html", [collected, replace(collected, name="second", evaluation=fewer)], title="two")
    assert not (tmp_path / "x.html").exists()


def test_from_the_command_line(run: Path, scenes: Path, tmp_path: Path) -> None:
    out = tmp_path / "page.html"
    result = CliRunner().invoke(app, ["report", str(run), "--data", str(scenes), "--out", str(out)])
    assert result.exit_code == 0, result.stderr
    assert result.stdout == f"{out}\n"
    assert out.read_text(encoding="utf-8").endswith("</html>")
    for arguments, said in (
        ([str(run)], "name its folder with --data"),
        ([str(run), "--data", str(scenes), "--out", str(tmp_path)], "expected a file's name"),
        ([str(tmp_path), "--data", str(scenes)], "expected a bundle"),
        ([str(run), "--data", str(scenes), "--split", "all"], "no split 'all'"),
    ):
        refused = CliRunner().invoke(app, ["report", *arguments])
        assert refused.exit_code == 2
        assert said in refused.stderr


def test_charts_are_well_formed_and_say_their_values() -> None:
    chart = line_chart(
        "a & b", [Series("<x>", [(1, 2.5), (2, 7.25)], 1), Series("y", [(1, 0.0)])], bands=[Band(1.5, 9, "p")]
    )
    root = ElementTree.fromstring(chart)
    assert [e.text for e in root.iter("title")] == ["p", "<x>, epoch 1: 2.5", "<x>, epoch 2: 7.25", "y, epoch 1: 0"]
    band = next(e for e in root.iter("rect"))
    assert float(band.get("x", 0)) + float(band.get("width", 0)) <= 460
    assert line_chart("nothing", [Series("x", [])]) == ""
    assert "nan" not in line_chart("one", [Series("x", [(3, 1.0)])])


PROBE = """
<script>
addEventListener("load", () => {
  const word = document.querySelector(".word"), canvas = word.closest(".card").querySelector("canvas");
  const ink = () => canvas.width && canvas.height
    ? canvas.getContext("2d").getImageData(0, 0, canvas.width, canvas.height).data.reduce((a, b) => a + b, 0) : 0;
  const seen = [ink()];
  word.dispatchEvent(new Event("pointerenter")); seen.push(ink());
  word.dispatchEvent(new Event("pointerleave")); seen.push(ink());
  word.focus(); seen.push(ink());
  word.blur(); seen.push(ink());
  word.click(); word.blur(); seen.push(ink());
  word.click(); seen.push(ink());
  document.title = "seen " + seen.map(value => value > 0 ? 1 : 0).join("");
});
</script>
"""


@pytest.mark.slow
def test_a_word_shows_where_the_model_looked(collected: RunReport, tmp_path: Path) -> None:
    browser = shutil.which("chromium") or shutil.which("chromium-browser") or shutil.which("google-chrome")
    if browser is None:
        pytest.skip("needs Chromium (package chromium)")
    page = tmp_path / "report.html"
    write_page(page, [collected], title="t")
    page.write_text(page.read_text(encoding="utf-8").replace("</body>", PROBE + "</body>"), encoding="utf-8")
    result = subprocess.run(
        [
            browser, "--headless", "--no-sandbox", "--disable-gpu", "--no-first-run", "--disable-background-networking",
            "--disable-component-update", "--disable-sync", f"--user-data-dir={tmp_path / 'profile'}",
            "--enable-logging=stderr", "--virtual-time-budget=5000", "--dump-dom", page.as_uri(),
        ],
        capture_output=True, text=True, timeout=120,
    )  # fmt: skip
    assert "<title>seen 0101010</title>" in result.stdout
    assert "Uncaught" not in result.stderr and "ERROR:CONSOLE" not in result.stderr
