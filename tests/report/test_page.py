"""The report: one file, no network, nothing that a caption could inject, and words that show where the model looked."""

from __future__ import annotations

import html
import json
import re
import shutil
from collections.abc import Iterator, Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any
from xml.etree import ElementTree

import numpy as np
import pytest
from typer.testing import CliRunner

from showtell.captioning import Caption, Word
from showtell.cli import app
from showtell.data.annotations import read_annotations
from showtell.errors import DataError
from showtell.images import ImageTransform
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
            "epoch": number, "phase": 1 + number // 3, "trains_encoder": number >= 3,
            "train_loss": 3.0 / number if number < 4 else None, "reward": 0.7531 if number == 4 else None,
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


@pytest.mark.parametrize(
    ("text", "words"),
    [
        ("a red dog", ["a", "red", "dog"]),
        ("两只t恤", ["两", "只", "t", "恤"]),
        ("a doghouse", ["a", "dog", "·", "house"]),
    ],
)
def test_words_stand_apart_as_in_the_caption(collected: RunReport, tmp_path: Path, text: str, words: list[str]) -> None:
    part = collected.examples["Random"]
    said = Caption(text, -2.0, -0.5, tuple(Word(word, -0.5, None) for word in words))
    report = replace(collected, examples={"Random": (replace(part[0], caption=said),)})
    write_page(tmp_path / "report.html", [report], title="words")
    page = (tmp_path / "report.html").read_text(encoding="utf-8")
    (paragraph,) = re.findall(r'<p class="caption"[^>]*>(.*?)</p>', page)
    assert re.sub("<[^>]*>|·", "", paragraph) == text


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
    assert page.count('role="img"') == 5
    assert page.count('class="band"') == page.count('class="band strong"') == 4  # a phase each, in each chart of epochs
    assert "4 epochs in 2 phases, kept: epoch 4" in page
    assert page.count('class="card"') == sum(len(part) for part in collected.examples.values()) >= 3
    for example in collected.examples["Random"]:
        assert html.escape(example.image.captions[0]) in page
    assert [epoch.number for epoch in read_epochs(run / "log.jsonl")] == [1, 2, 3, 4]


def test_the_surest_captions_have_a_chart(collected: RunReport, scenes: Path, tmp_path: Path) -> None:
    images = read_annotations(scenes).split("train")
    confidences = tuple(1 / (2 + i) for i in range(len(images)))
    each = {name: [float(len(images) - i) for i in range(len(images))] for name in SCORES}
    report = replace(collected.evaluation.report, each=each)
    known = replace(collected.evaluation, report=report, confidences=confidences)
    write_page(tmp_path / "r.html", [replace(collected, evaluation=known)], title="t")
    page = (tmp_path / "r.html").read_text(encoding="utf-8")
    assert "CIDEr ×100 of the surest captions" in page and page.count('role="img"') == 6
    assert re.search(r"model, % of the captions 100: [0-9.]+", page)
    assert "rank correlation with CIDEr: 1.00 (1.00 – 1.00)." in page


def test_a_run_is_told_as_it_was(collected: RunReport, tmp_path: Path) -> None:
    encoder = {"name": ["one", "two"], "layer": ["a", "b"], "pooled": "both"}
    protocol = replace(collected.evaluation.report.protocol, references_per_image="1–5")
    report = replace(collected.evaluation.report, protocol=protocol)
    run = replace(
        collected,
        recipe={**collected.recipe, "encoder": encoder},
        evaluation=replace(collected.evaluation, report=report),
    )
    write_page(tmp_path / "r.html", [run], title="t")
    page = (tmp_path / "r.html").read_text(encoding="utf-8")
    assert "one + two (a + b, grid and pooled), decoder" in page
    assert "people, 1–4 refs" in page
    assert "end in half sentences" in page


def test_rewards_have_a_chart_of_their_own(collected: RunReport, tmp_path: Path) -> None:
    for runs in ([collected], [collected, replace(collected, name="second")]):
        write_page(tmp_path / "r.html", runs, title="t")
        page = (tmp_path / "r.html").read_text(encoding="utf-8")
        assert "reward in training" in page
        assert "epoch 4: 0.7531" in page
        assert "loss, epoch 4" not in page


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
    report = collected.evaluation.report
    other = replace(report, protocol=replace(report.protocol, decoding="beam 7"))
    second = replace(collected, name="second", evaluation=replace(collected.evaluation, report=other))
    assert page.count("PTB tokens") == 1
    write_page(tmp_path / "report.html", [collected, second], title="two")
    assert "second: " in (page := (tmp_path / "report.html").read_text(encoding="utf-8")) and "beam 7" in page
    fewer = replace(collected.evaluation, images=collected.evaluation.images[1:])
    with pytest.raises(DataError, match="second was scored on"):
        write_page(tmp_path / "x.html", [collected, replace(collected, name="second", evaluation=fewer)], title="two")
    assert not (tmp_path / "x.html").exists()


def test_from_the_command_line(run: Path, scenes: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)  # where no demo was run, whose folder is the recipe's
    out = tmp_path / "page.html"
    result = CliRunner().invoke(app, ["report", str(run), "--data", str(scenes), "--out", str(out)])
    assert result.exit_code == 0, result.stderr
    assert result.stdout == f"{out}\n"
    assert out.read_text(encoding="utf-8").endswith("</html>")
    for arguments, said in (
        ([str(run)], "name its folder with --data"),
        ([str(run), "--data", str(scenes), "--out", str(tmp_path)], "expected a file's name"),
        (
            [str(run), "--data", str(scenes), "--out", str(tmp_path / "rep.txt")],
            "rep.txt: the page is written as .html",
        ),
        ([str(tmp_path), "--data", str(scenes)], "expected a bundle"),
        ([str(run), "--data", str(scenes), "--split", "all"], "no split 'all'"),
    ):
        refused = CliRunner().invoke(app, ["report", *arguments])
        assert refused.exit_code == 2
        assert said in refused.stderr


def test_a_picture_that_cannot_be_decoded_is_told_and_the_page_is_written(
    run: Path, scenes: Path, tmp_path: Path
) -> None:
    data = Path(shutil.copytree(scenes, tmp_path / "data"))
    broken = read_annotations(data).split("test")[0].path
    broken.write_bytes(broken.read_bytes()[:50])
    result = CliRunner().invoke(app, ["report", str(run), "--data", str(data), "--out", str(tmp_path / "page.html")])
    assert result.exit_code == 1
    assert f"left out: {broken}" in result.stderr
    assert (tmp_path / "page.html").exists()


def test_lines_differ_when_the_colours_come_again(collected: RunReport, tmp_path: Path) -> None:
    runs = [replace(collected, name=f"run{i}") for i in range(14)]
    write_page(tmp_path / "r.html", runs, title="t")
    page = (tmp_path / "r.html").read_text(encoding="utf-8")
    lengths = next(figure for figure in re.findall(r"<figure.*?</figure>", page) if "captions by length" in figure)
    legend, drawn = lengths.split("</figcaption>")
    lines = re.findall(r'<polyline class="([^"]*)"', drawn)
    assert lines == re.findall(r'<polyline class="([^"]*)"', legend)
    assert len(set(lines)) == 15 and lines[0] == "c0" and lines[-1] == "ink"  # people's
    for style in {name for line in lines for name in line.split()}:
        assert re.search(rf"\.{style} {{ [^}}]*(stroke|stroke-dasharray):", page), style


def test_captions_run_as_their_script_does(collected: RunReport, tmp_path: Path) -> None:
    write_page(tmp_path / "r.html", [collected], title="t")
    page = (tmp_path / "r.html").read_text(encoding="utf-8")
    assert collected.evaluation.constant
    for start in ("p", "li", "td"):
        held = re.findall(rf'<({start}(?: class="caption"| class="text"){"?" * (start == "li")}(?: [^>]*)?)>', page)
        assert held and all(' dir="auto"' in tag for tag in held)
    assert f"“<bdi>{collected.evaluation.constant}</bdi>”" in page


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


@pytest.fixture(scope="module")
def browser() -> Iterator[Any]:
    api = pytest.importorskip("playwright.sync_api", reason="needs playwright (extra dev)")
    program = shutil.which("chromium") or shutil.which("chromium-browser") or shutil.which("google-chrome")
    if program is None:
        pytest.skip("needs Chromium (package chromium)")
    with api.sync_playwright() as play:
        launched = play.chromium.launch(
            executable_path=program, args=["--no-sandbox", "--disable-background-networking"]
        )
        yield launched
        launched.close()


PIXELS = """card => { const c = card.querySelector("canvas");
  return c.width && c.height ? Array.from(c.getContext("2d").getImageData(0, 0, c.width, c.height).data) : [] }"""
INK = """card => { const c = card.querySelector("canvas");
  const pixels = c.width && c.height ? c.getContext("2d").getImageData(0, 0, c.width, c.height).data : [];
  return pixels.reduce((sum, each) => sum + each, 0) }"""


@pytest.mark.slow
@pytest.mark.parametrize(("width", "scheme"), [(390, "dark"), (1280, "light")])
def test_a_word_shows_where_the_model_looked(
    browser: Any, collected: RunReport, tmp_path: Path, width: int, scheme: str
) -> None:
    write_page(tmp_path / "report.html", [collected, replace(collected, name="second")], title="t")
    assert (tmp_path / "report.html").stat().st_size < 15e6
    context = browser.new_context(
        color_scheme=scheme, viewport={"width": width, "height": 800}, offline=True, has_touch=width < 500
    )
    page, complaints, asked = context.new_page(), [], []
    page.on("console", lambda m: complaints.append(m.text) if m.type == "error" else None)
    page.on("pageerror", lambda error: complaints.append(str(error)))
    page.on("request", lambda request: asked.append(request.url))
    page.goto((tmp_path / "report.html").as_uri())
    assert page.evaluate("document.documentElement.scrollWidth") <= width
    card = page.locator(".card").first
    words = card.locator(".word")
    ink = lambda: card.evaluate(INK)  # noqa: E731
    away = page.locator("h1")
    assert words.count() == 6 and ink() == 0  # three words of each of two runs
    if width < 500:
        words.nth(0).tap()
        first = ink()
        words.nth(1).tap()
        assert 0 < first != ink() > 0
        words.nth(1).tap()
        words.nth(1).blur()
    else:
        words.nth(0).hover()
        first = ink()
        words.nth(1).hover()
        assert 0 < first != ink() > 0
        away.hover()
        assert ink() == 0
        words.nth(0).focus()
        assert ink() == first
        page.keyboard.press("Tab")
        assert 0 < ink() != first
        page.keyboard.press("Enter")  # holds it
        words.nth(1).blur()
        assert ink() > 0
        words.nth(1).click()
        words.nth(1).blur()
        away.hover()
    assert ink() == 0
    assert complaints == []
    assert [url for url in asked if not url.startswith(("file:", "data:"))] == []
    context.close()


@pytest.mark.slow
@pytest.mark.parametrize("crop", ["center", "squash"])
@pytest.mark.parametrize("size", [(320, 200), (150, 240)])
def test_the_overlay_lies_over_what_the_encoder_saw(
    browser: Any, collected: RunReport, tmp_path: Path, marked: Any, crop: str, size: tuple[int, int]
) -> None:
    transform = ImageTransform(64, 72, crop, (0.5,) * 3, (0.5,) * 3, "bilinear")  # type: ignore[arg-type]
    example = collected.examples["Random"][0]
    photos = [marked(size, (x / 16, y / 16), 6) for x, y in ((7, 7), (6, 10), (10, 9), (9, 6), (7, 10), (6, 6))]
    photo, cell = next((photo, cell) for photo in photos if (cell := photo.cell(transform, 4)) is not None)
    maps = np.zeros((4, 4), np.float32)
    maps[cell] = 1.0
    caption = replace(example.caption, words=(Word("mark", -0.1, maps),))
    example = replace(example, caption=caption, image=replace(example.image, path=photo.path))
    write_page(
        tmp_path / "r.html", [replace(collected, transform=transform, examples={"Random": (example,)})], title="t"
    )
    page = browser.new_page()
    page.goto((tmp_path / "r.html").as_uri())
    page.locator(".word").hover()
    card = page.locator(".card")
    width, height = card.locator("canvas").evaluate("c => [c.width, c.height]")
    alpha = np.array(card.evaluate(PIXELS)).reshape(height, width, 4)[..., 3]
    at = alpha[int(photo.place[1] * height), int(photo.place[0] * width)]
    assert at < 0.5 * np.median(alpha)
    page.close()


@pytest.fixture
def opened(browser: Any, tmp_path: Path) -> Iterator[Any]:
    """A function that writes the report of runs and opens it in a window of a width."""
    contexts = []

    def open_report(runs: Sequence[RunReport], width: int = 1280, **context: Any) -> Any:
        write_page(tmp_path / "report.html", runs, title="t")
        contexts.append(browser.new_context(viewport={"width": width, "height": 800}, offline=True, **context))
        page = contexts[-1].new_page()
        page.goto((tmp_path / "report.html").as_uri())
        return page

    yield open_report
    for context in contexts:
        context.close()


def with_caption(run: RunReport, text: str, *references: str) -> RunReport:
    """The run with one picture, of this caption, whose words have maps, and these references."""
    example = run.examples["Random"][0]
    words = tuple(Word(word, -0.5, np.full((4, 4), 1 / 16, np.float32)) for word in text.split())
    image = replace(example.image, captions=references or example.image.captions)
    example = replace(example, image=image, caption=replace(example.caption, text=text, words=words))
    return replace(run, examples={"Random": (example,)})


def named(run: RunReport, count: int) -> list[RunReport]:
    return [replace(run, name=f"flickr8k-attention-efficientnet-b3-seed-{i}") for i in range(count)]


@pytest.mark.slow
def test_an_arabic_caption_begins_at_the_right(opened: Any, collected: RunReport) -> None:
    words = opened([with_caption(collected, "كلب أحمر")]).locator(".word")
    first, second = (words.nth(i).bounding_box() for i in range(2))
    assert first["x"] > second["x"] + second["width"] / 2


@pytest.mark.slow
@pytest.mark.parametrize("width", [375, 1280])
def test_nothing_is_wider_than_the_window(opened: Any, collected: RunReport, width: int) -> None:
    page = opened([with_caption(run, "a dog", "x" * 400) for run in named(collected, 7)], width)
    assert page.evaluate("document.documentElement.scrollWidth") <= width
    beyond = "all => all.filter(e => e.getBoundingClientRect().right > innerWidth).map(e => e.outerHTML.slice(0, 200))"
    assert not page.locator(".chart *, .card *").evaluate_all(beyond)
    page = opened([with_caption(collected, "y" * 400)], width)
    assert page.evaluate("document.documentElement.scrollWidth") <= width
    assert not page.locator(".card *").evaluate_all(beyond)


@pytest.mark.slow
def test_a_printed_report_has_all_columns(opened: Any, collected: RunReport) -> None:
    paper = 718  # pixels between the margins of A4
    page = opened(named(collected, 5), paper)
    last = page.locator("thead").first.locator("th").last
    assert (box := last.bounding_box())["x"] + box["width"] > paper  # on the screen, it is scrolled
    page.emulate_media(media="print")
    for table in page.locator("table").all():
        box = table.bounding_box()
        assert box["x"] + box["width"] <= paper
    assert page.locator(".card").first.evaluate("e => getComputedStyle(e).breakInside") == "avoid"


@pytest.mark.slow
@pytest.mark.parametrize("scheme", ["light", "dark"])
@pytest.mark.parametrize("width", [375, 1280])
def test_axe_finds_nothing(opened: Any, collected: RunReport, scheme: str, width: int) -> None:
    axe = pytest.importorskip("axe_playwright_python.sync_playwright", reason="needs axe-playwright-python").Axe()
    page = opened(named(collected, 8), width, color_scheme=scheme)
    found = axe.run(page).response["violations"]
    assert not [f"{v['impact']}: {v['id']}, {v['nodes'][0]['html']}" for v in found]
    assert page.get_by_role("region").evaluate_all("all => all.map(e => e.ariaLabel)") == [
        "Scores",
        "Differences",
        "Captions",
    ]
    assert page.get_by_role("rowheader", name="CIDEr").count() == 2
