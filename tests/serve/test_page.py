"""The page at / in a real browser, served by the real application: what people see, hear, press and take away."""

from __future__ import annotations

import base64
import csv
import io
import math
import re
import shutil
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from PIL import Image
from stand_in import StandIn

from showtell.captioning import Caption, Pixels, Word
from showtell.decoding import Sampling, SearchOptions, Wishes
from showtell.images import ImageTransform

pytest.importorskip("uvicorn", reason="needs the extra 'serve'")
api = pytest.importorskip("playwright.sync_api", reason="needs playwright (the extra 'dev')")
pytestmark = pytest.mark.slow

DESK, PHONE = (1280, 900), (390, 844)
PHOTO = (400, 200)  # of which the encoder below sees the middle, 200×200


class Parrot(StandIn):
    """Says the same of every photo, and looks at the cell (i,i) of a 4×4 grid for its i-th word."""

    transform = ImageTransform(
        size=32, resize=32, crop_mode="center", mean=(0.5,) * 3, std=(0.5,) * 3, interpolation="bilinear"
    )
    defaults = SearchOptions()
    recipe = {"name": "parrot"}  # noqa: RUF012 (as every engine has it)
    grid = (4, 4)

    def __init__(
        self, texts: Sequence[str] = ("a red dog runs", "a dog", "the dog runs"), *, looks: bool = True
    ) -> None:
        self.texts, self.looks = texts, looks
        self.asked: list[Wishes] = []

    def wished(self, options: SearchOptions, wishes: Wishes) -> SearchOptions:
        self.asked.append(wishes)
        return options

    def search(
        self, seen: Sequence[Pixels], places: Sequence[int], options: SearchOptions, sampling: Sampling | None
    ) -> list[list[Caption]]:
        return [[self._caption(i) for i in range(min(options.n, len(self.texts)))] for _ in places]

    def _caption(self, rank: int) -> Caption:
        words = []
        for i, text in enumerate(self.texts[rank].split()):
            attention = np.full((4, 4), 0.1 / 15, np.float32)
            attention[i % 4, i % 4] = 0.9
            words.append(Word(text, math.log(0.9 - 0.2 * (i % 4)), attention if self.looks else None))
        log_prob = math.log(0.0123) - rank
        return Caption(self.texts[rank], log_prob, log_prob / (len(words) + 1), tuple(words))


PROBE = """(canvas, [x, y]) => {
  if (!canvas.width) return -1;
  const copy = new OffscreenCanvas(canvas.width, canvas.height).getContext("2d", { willReadFrequently: true });
  copy.drawImage(canvas, 0, 0);
  return copy.getImageData(x * canvas.width, y * canvas.height, 1, 1).data[3];
}"""


@dataclass
class Opened:
    """A page in the browser, and what it did besides what was asked."""

    page: Any
    errors: list[str] = field(default_factory=list)
    elsewhere: list[str] = field(default_factory=list)

    def give(self, *files: Any, selector: str = "#files") -> None:
        self.page.locator(selector).set_input_files(list(files))

    @property
    def texts(self) -> Any:
        return self.page.get_by_role("textbox", name="Alt text")  # those that are to be seen

    def captioned(self, number: int) -> None:
        api.expect(self.page.locator(".answer:visible")).to_have_count(number, timeout=20_000)

    def cover(self, x: float, y: float, card: int = 0) -> int:
        """How much of the photo the overlay covers at a place (0 … 1 of its sides): 0 nothing, 255 all; -1 without overlay."""
        return self.page.locator(".frame canvas").nth(card).evaluate(PROBE, [x, y])

    def forgive(self, *statuses: int) -> None:
        """Chromium writes a line of its own about each answer that is a refusal."""
        self.errors = [
            e for e in self.errors if not any(f"the server responded with a status of {s}" in e for s in statuses)
        ]

    def heard(self, text: str | re.Pattern[str]) -> None:
        api.expect(self.page.get_by_role("status")).to_have_text(text)


@pytest.fixture(scope="module")
def browser() -> Iterator[Any]:
    program = shutil.which("chromium") or shutil.which("chromium-browser") or shutil.which("google-chrome")
    if program is None:
        pytest.skip("needs Chromium (package chromium)")
    arguments = ["--no-sandbox", "--disable-background-networking", "--use-fake-device-for-media-stream"]
    with api.sync_playwright() as playwright:
        started = playwright.chromium.launch(executable_path=program, args=arguments)
        yield started
        started.close()


@pytest.fixture(scope="module")
def address(serving: Callable[..., Any]) -> Iterator[str]:
    with serving(Parrot()) as url:
        yield url


@pytest.fixture
def visit(browser: Any) -> Iterator[Callable[..., Opened]]:
    """Opens the page; afterwards nothing may have gone wrong in it, and nothing may have been asked of anybody else."""
    opened: list[Opened] = []

    def visit(url: str, size: tuple[int, int] = DESK, **context: Any) -> Opened:
        context = {"viewport": {"width": size[0], "height": size[1]}, "accept_downloads": True, **context}
        page = browser.new_context(**context).new_page()
        here = Opened(page)
        page.on("console", lambda line: here.errors.append(line.text) if line.type in {"error", "warning"} else None)
        page.on("pageerror", lambda error: here.errors.append(str(error)))
        page.on(
            "request", lambda r: None if r.url.startswith((url, "blob:", "data:")) else here.elsewhere.append(r.url)
        )
        page.goto(url + "/")
        opened.append(here)
        return here

    yield visit
    for here in opened:
        here.page.context.close()
        assert not here.errors
        assert not here.elsewhere


def photo(name: str = "dog.jpg", size: tuple[int, int] = PHOTO, **save: Any) -> dict[str, Any]:
    buffer = io.BytesIO()
    Image.linear_gradient("L").resize(size).convert("RGB").save(buffer, "JPEG", **save)
    return {"name": name, "mimeType": "image/jpeg", "buffer": buffer.getvalue()}


BROKEN = {"name": "broken.jpg", "mimeType": "image/jpeg", "buffer": b"\xff\xd8\xff nothing more"}


def test_a_word_that_hardly_looked_shows_it(visit: Callable[..., Opened], serving: Callable[..., Any]) -> None:
    shares = (1.0, 0.6, 0.15, 0.0)

    class Glancing(Parrot):
        """Its words look at the upper left cell, each less than the one before, and elsewhere not at all."""

        def _caption(self, rank: int) -> Caption:
            caption = super()._caption(rank)
            maps = [np.zeros(self.grid, np.float32) for _ in caption.words]
            for share, attention in zip(shares, maps, strict=False):  # others have fewer words
                attention[0, 0] = share
            words = tuple(replace(w, attention=a) for w, a in zip(caption.words, maps, strict=True))
            return replace(caption, words=words)

    with serving(Glancing()) as url:
        here = visit(url)
        here.give(photo())
        here.captioned(1)
        card = here.page.get_by_role("article", name="dog.jpg")
        words = card.get_by_role("toolbar").get_by_role("button")
        for number, share in enumerate(shares):
            words.nth(number).hover()
            where = "mostly at the upper left" if share > 0.5 else "at no place in particular"
            api.expect(card.locator(".readout")).to_have_text(re.compile(f", looked {where}$"))
            assert here.cover(110 / 400, 10 / 200) == pytest.approx(255 * (0.72 - 0.44 * share), abs=8)


def test_a_caption_and_where_the_model_looked(visit: Callable[..., Opened], address: str) -> None:
    here = visit(address)
    here.give(photo())
    here.captioned(1)
    here.heard(re.compile(r"dog\.jpg: a red dog runs\. Confidence 41%\."))
    card = here.page.get_by_role("article", name="dog.jpg")
    api.expect(card.get_by_role("radio")).to_have_count(3)
    api.expect(card.get_by_role("radio", name="a red dog runs 41%")).to_be_checked()
    api.expect(card.get_by_label("Alt text")).to_have_value("a red dog runs")
    words = card.get_by_role("toolbar").get_by_role("button")
    api.expect(words).to_have_text([re.compile(f"^{w}") for w in ("a90%", "red70%", "dog50%", "runs30%")])
    assert here.cover(0.5, 0.5) == -1

    words.nth(0).hover()  # the upper left cell of the middle square: its centre lies at (125, 25) of 400×200
    first = here.cover(125 / 400, 25 / 200)
    assert first < 90 < 170 < here.cover(275 / 400, 175 / 200)
    assert here.cover(0.05, 0.5) == here.cover(0.95, 0.5) == round(0.72 * 255)  # never seen
    api.expect(card.locator(".readout")).to_have_text("a 90%, looked mostly at the upper left")
    words.nth(3).hover()
    assert here.cover(275 / 400, 175 / 200) == first < 170 < here.cover(125 / 400, 25 / 200)
    here.page.get_by_role("heading", level=1).hover()
    assert here.cover(0.5, 0.5) == -1

    words.nth(1).click()  # a word can be held
    here.page.get_by_role("heading", level=1).hover()
    api.expect(words.nth(1)).to_have_attribute("aria-pressed", "true")
    assert here.cover(175 / 400, 75 / 200) == first
    card.get_by_role("radio").nth(1).check()  # another caption has other words
    api.expect(words).to_have_count(2)
    api.expect(card.get_by_label("Alt text")).to_have_value("a dog")
    assert here.cover(0.5, 0.5) == -1


def test_wishes_of_the_settings(visit: Callable[..., Opened], serving: Callable[..., Any]) -> None:
    parrot = Parrot()
    with serving(parrot) as url:
        here = visit(url)
        parrot.asked.clear()
        here.give(photo())
        here.captioned(1)
        assert not parrot.asked  # nothing is asked for until somebody does
        here.page.get_by_text("Settings").click()
        wishes = here.page.get_by_role("group", name="Wishes")
        different = wishes.get_by_label("Captions in different words")
        different.check()
        here.give(photo("two.jpg"))
        here.captioned(2)
        wishes.get_by_label("Words that must occur").fill(" dog|dogs, red ball,")
        api.expect(different).to_be_disabled()  # and no longer asked for
        wishes.get_by_label("Words that must not occur").fill("cat")
        wishes.get_by_label("First words").fill("a photo of ")
        wishes.get_by_label("Words at most").select_option("12")
        here.give(photo("three.jpg"))
        here.captioned(3)
        assert parrot.asked == [
            Wishes(diverse=True),
            Wishes(("dog|dogs", "red ball"), ("cat",), begins="a photo of", max_tokens=12),
        ]
        for label in ("Words that must occur", "Words that must not occur"):
            wishes.get_by_label(label).fill("")
        api.expect(different).to_be_enabled()
        here.page.get_by_label("Captions for each photo").select_option("1")
        api.expect(different).to_be_disabled()
        assert here.page.evaluate("document.documentElement.scrollWidth") == DESK[0]


def test_a_captioner_without_words_to_ask_for(visit: Callable[..., Opened], serving: Callable[..., Any]) -> None:
    class Exported(Parrot):
        wished = staticmethod(StandIn.wished)  # as an export does

    with serving(Exported()) as url:
        here = visit(url)
        here.page.get_by_text("Settings").click()
        wishes = here.page.get_by_role("group", name="Wishes")
        api.expect(wishes.locator("input:visible, select:visible")).to_have_count(1)
        wishes.get_by_label("Words at most").select_option("12")
        here.give(photo())
        here.captioned(1)


def test_the_keyboard_alone(visit: Callable[..., Opened], address: str) -> None:
    here = visit(address)
    press, focused = here.page.keyboard.press, here.page.locator(":focus")
    for name in ("Skip to the captions", "Choose photos", "Take a photo", "Settings"):
        press("Tab")
        api.expect(focused).to_have_text(name)
    here.give(photo())
    here.captioned(1)
    words = here.page.get_by_role("toolbar").get_by_role("button")
    for name in ("Download CSV", "Clear all", "Remove dog.jpg", re.compile("^a90%")):
        press("Tab")
        api.expect(focused).to_have_text(name)
    upper_left = (125 / 400, 25 / 200)
    covered = here.cover(*upper_left)
    assert 0 < covered < 90
    press("ArrowRight")
    api.expect(words.nth(1)).to_be_focused()
    assert here.cover(*upper_left) > covered
    press("End")
    api.expect(words.nth(3)).to_be_focused()
    press("ArrowRight")  # round
    api.expect(words.nth(0)).to_be_focused()
    press("ArrowLeft")
    api.expect(words.nth(3)).to_be_focused()
    press("Enter")
    api.expect(words.nth(3)).to_have_attribute("aria-pressed", "true")
    press("Escape")
    api.expect(words.nth(3)).to_have_attribute("aria-pressed", "false")
    press("Home")
    assert here.cover(*upper_left) == covered
    press("Tab")  # one stop for the whole row
    api.expect(focused).to_have_attribute("type", "radio")
    assert here.cover(0.5, 0.5) == -1
    press("ArrowDown")
    for label in ("a dog", "Copy alt text", "Copy as HTML", "What the numbers and the pictures mean"):
        press("Tab")
        api.expect(focused).to_have_value(label) if label == "a dog" else api.expect(focused).to_have_text(label)


def test_copy_edit_and_undo(visit: Callable[..., Opened], address: str) -> None:
    here = visit(address, permissions=["clipboard-read", "clipboard-write"])
    here.give(photo("the dog.jpg"))
    here.captioned(1)
    text, clipboard = here.texts, lambda: here.page.evaluate("navigator.clipboard.readText()")
    here.page.get_by_role("button", name="Copy alt text").click()
    here.heard("Alt text copied.")
    assert clipboard() == "a red dog runs"
    text.fill('a "red" dog & <b>cat</b>')
    here.page.get_by_role("button", name="Copy as HTML").click()
    here.heard("HTML copied.")
    assert clipboard() == '<img alt="a &quot;red&quot; dog &amp; &lt;b&gt;cat&lt;/b&gt;" src="the%20dog.jpg">'
    here.page.get_by_role("radio").nth(1).check()
    api.expect(text).to_have_value("a dog")
    here.page.get_by_role("radio").nth(0).check()  # what was written is not lost
    api.expect(text).to_have_value('a "red" dog & <b>cat</b>')
    here.page.get_by_role("button", name="Undo changes").click()
    api.expect(text).to_have_value("a red dog runs")
    api.expect(text).to_be_focused()


def test_copy_without_the_clipboard_of_https(visit: Callable[..., Opened], address: str) -> None:
    here = visit(address, permissions=["clipboard-read", "clipboard-write"])
    here.page.evaluate("() => { navigator.clipboard.writeText = () => Promise.reject(new Error('not allowed')); }")
    here.give(photo())
    here.captioned(1)
    here.page.get_by_role("button", name="Copy alt text").click()
    here.heard("Alt text copied.")
    assert here.page.evaluate("navigator.clipboard.readText()") == "a red dog runs"
    here.page.evaluate("() => { document.execCommand = () => false; }")
    here.page.get_by_role("button", name="Copied").click()
    api.expect(here.page.locator("#notice")).to_contain_text("copy it with Ctrl+C")
    api.expect(here.texts).to_be_focused()


def rows_of(here: Opened) -> list[list[str]]:
    with here.page.expect_download() as download:
        here.page.get_by_role("button", name="Download CSV").click()
    assert download.value.suggested_filename == "captions.csv"
    raw = Path(download.value.path()).read_bytes()
    assert raw.startswith(b"\xef\xbb\xbf")  # else a spreadsheet takes it for Latin-1
    return list(csv.reader(io.StringIO(raw.decode("utf-8-sig"), newline="")))


def test_several_photos_a_broken_one_and_the_table(visit: Callable[..., Opened], address: str) -> None:
    here = visit(address)
    here.give(photo("one.jpg"), BROKEN, photo("größe, 3.jpg"), photo("four.jpg"))
    here.captioned(3)
    here.heard("3 photos captioned, 1 failed.")
    api.expect(here.page.locator("#tally")).to_have_text("3 photos captioned, 1 failed")
    api.expect(here.page.get_by_role("heading", level=3)).to_have_text(
        ["one.jpg", "broken.jpg", "größe, 3.jpg", "four.jpg"]
    )
    failed = here.page.get_by_role("article", name="broken.jpg")
    api.expect(failed).to_contain_text(re.compile(r"No caption\. .*cannot be read as an image.*\."))
    failed.get_by_role("button", name="Try again").click()
    api.expect(failed).to_be_focused()
    api.expect(failed.get_by_role("button", name="Try again")).to_be_visible()
    here.texts.nth(1).fill('says "hi",\ntwice')
    table = rows_of(here)
    assert table[0] == ["name", "caption", "confidence", "alternatives", "error"]
    assert table[1][:2] == ["one.jpg", "a red dog runs"] and table[1][3:] == ["a dog | the dog runs", ""]
    assert float(table[1][2]) == pytest.approx(0.0123 ** (1 / 5), rel=1e-4)
    assert table[2][:4] == ["broken.jpg", "", "", ""] and "cannot be read" in table[2][4]
    assert table[3] == ["größe, 3.jpg", 'says "hi",\ntwice', "", "a red dog runs | a dog | the dog runs", ""]
    assert table[4][0] == "four.jpg" and len(table) == 5

    here.page.get_by_role("button", name="Remove one.jpg").click()
    api.expect(failed).to_be_focused()  # the next one
    here.page.get_by_role("button", name="Clear all").click()
    api.expect(here.page.get_by_role("article")).to_have_count(0)
    here.heard("3 photos removed.")
    here.page.get_by_role("button", name="Undo").click()
    api.expect(here.page.get_by_role("heading", level=3)).to_have_text(["broken.jpg", "größe, 3.jpg", "four.jpg"])
    api.expect(here.texts.first).to_have_value('says "hi",\ntwice')
    here.forgive(422)


def test_nothing_that_a_model_or_a_name_says_is_run(visit: Callable[..., Opened], serving: Callable[..., Any]) -> None:
    evil = ("=HYPERLINK(1) <img src=x onerror=alert(1)>", "@sum <script>alert(1)</script>")
    with serving(Parrot(evil)) as url:
        here = visit(url)
        here.give(photo("+1 <b>name</b>.jpg"))
        here.captioned(1)
        api.expect(here.texts).to_have_value(evil[0])
        assert here.page.locator(".card img, .card b, .card script").count() == 2  # the photo, and "No caption." unseen
        row = rows_of(here)[1]
        assert row[:2] == ["'+1 <b>name</b>.jpg", f"'{evil[0]}"] and row[3] == f"'{evil[1]}"


HAND_OVER = """([target, kind, data, name]) => {
  const bytes = Uint8Array.from(atob(data), c => c.charCodeAt(0)), carried = new DataTransfer();
  if (bytes.length) carried.items.add(new File([bytes], name, { type: "image/png" }));
  else carried.setData("text/plain", "only words");
  const event = kind === "paste" ? new ClipboardEvent("paste", { clipboardData: carried, bubbles: true, cancelable: true })
    : new DragEvent(kind, { dataTransfer: carried, bubbles: true, cancelable: true });
  document.querySelector(target).dispatchEvent(event);
  return event.defaultPrevented;
}"""


def test_paste_drop_and_the_camera(visit: Callable[..., Opened], address: str) -> None:
    here = visit(address, permissions=["camera"])
    buffer = io.BytesIO()
    Image.new("RGB", (30, 30), "red").save(buffer, "PNG")
    data = base64.b64encode(buffer.getvalue()).decode()
    hand_over = lambda *arguments: here.page.evaluate(HAND_OVER, list(arguments))  # noqa: E731
    assert hand_over("body", "paste", data, "image.png")
    here.captioned(1)
    assert hand_over("#drop", "dragover", data, "x.png")
    api.expect(here.page.locator("body")).to_have_class(re.compile("dragging"))
    assert hand_over("#drop", "drop", data, "dropped.png")
    here.captioned(2)
    api.expect(here.page.locator("body")).not_to_have_class(re.compile("dragging"))
    here.page.get_by_role("button", name="Take a photo").click()
    api.expect(here.page.get_by_role("dialog", name="Take a photo")).to_be_visible()
    api.expect(here.page.locator("video")).to_have_js_property("paused", False)
    here.page.get_by_role("button", name="Take the photo").click()
    here.captioned(3)
    titles = here.page.get_by_role("heading", level=3)
    api.expect(titles).to_have_text(["pasted-1.png", "dropped.png", "camera-3.jpg"])
    assert here.page.evaluate("document.getElementById('video').srcObject === null")  # the camera is off
    hand_over("body", "paste", "", "")
    here.heard(re.compile("There was no picture in what you pasted"))
    assert not hand_over("textarea", "paste", "", "")  # words go where they always go
    hand_over("#drop", "drop", "", "")
    here.heard(re.compile("There was no photo in what you dropped"))
    api.expect(titles).to_have_count(3)


def test_a_phone(visit: Callable[..., Opened], address: str) -> None:
    here = visit(address, PHONE, has_touch=True, is_mobile=True)
    with here.page.expect_file_chooser() as chooser:
        here.page.get_by_role("button", name="Take a photo").tap()
    api.expect(here.page.locator("#capture")).to_have_attribute("capture", "environment")
    chooser.value.set_files([photo(f"{'a_very_long_name' * 8}.jpg", (200, 400))])
    here.captioned(1)
    here.page.get_by_text("Settings").tap()
    here.page.get_by_role("toolbar").get_by_role("button").nth(0).tap()
    assert here.cover(0.125, 75 / 200 - 0.06) < 90 < here.cover(0.875, 0.7)
    assert here.page.evaluate("document.documentElement.scrollWidth") == PHONE[0]
    remove = here.page.locator(".remove")  # beside the long name
    assert remove.evaluate("e => e.scrollWidth <= e.clientWidth && e.getBoundingClientRect().right <= innerWidth")
    small = here.page.locator(
        "button:visible, select:visible, input:not(.choice *):visible, summary:visible, textarea:visible, .choice:visible"
    ).evaluate_all(
        "all => all.map(e => [e.textContent, e.offsetWidth, e.offsetHeight]).filter(([, w, h]) => w < 44 || h < 44)"
    )
    assert not small


def test_printed_photos_are_there_and_buttons_are_not(visit: Callable[..., Opened], address: str) -> None:
    here = visit(address)
    here.give(*(photo(f"{i}.jpg", (200, 400)) for i in range(12)), BROKEN)
    here.captioned(12)
    api.expect(here.page.locator(".retry:visible")).to_have_count(1)
    last = here.page.locator(".frame img").nth(11)  # never scrolled to
    assert last.bounding_box()["y"] > 4000
    here.page.wait_for_function("e => e.complete && e.naturalWidth", arg=last.element_handle(), timeout=5_000)
    here.page.emulate_media(media="print")
    assert here.page.locator("button:not(.word):visible, .readout:visible").count() == 0
    assert here.page.locator(".answer:visible").count() == 12
    here.forgive(422)


def test_a_photo_taken_sideways_stands_upright(visit: Callable[..., Opened], address: str) -> None:
    exif = Image.Exif()
    exif[0x0112] = 6  # turn right
    here = visit(address)
    here.give(photo(exif=exif))
    here.captioned(1)
    box = here.page.locator(".frame").bounding_box()
    assert box["height"] == pytest.approx(2 * box["width"], rel=0.02)


def test_a_model_that_cannot_say_where_it_looks(visit: Callable[..., Opened], serving: Callable[..., Any]) -> None:
    with serving(Parrot(looks=False)) as url:
        here = visit(url)
        here.give(photo())
        here.captioned(1)
        api.expect(here.page.locator(".words")).to_have_text("a90%red70%dog50%runs30%")
        api.expect(here.page.get_by_role("toolbar")).to_have_count(0)
        api.expect(here.page.locator(".readout")).to_contain_text("sees a photo as a whole")


def test_a_server_that_wants_a_token(visit: Callable[..., Opened], serving: Callable[..., Any]) -> None:
    with serving(Parrot(), token="open-sesame") as url:
        here = visit(url)
        dialog, field = here.page.get_by_role("dialog"), here.page.locator("#secret")
        late: list[Any] = []
        here.page.route("**/v1/captions", lambda route: late.append(route) if len(late) < 2 else route.continue_())
        here.give(*(photo(f"{i}.jpg") for i in range(9)))
        api.expect(dialog).to_be_visible()
        api.expect(field).to_be_focused()
        here.page.keyboard.press("Escape")
        api.expect(here.page.locator(".problem:visible")).to_have_count(7)
        for route in late:  # refused only now
            route.continue_()
        api.expect(here.page.locator(".problem:visible")).to_have_count(9)  # asked once, not nine times
        api.expect(dialog).to_be_hidden()
        here.page.get_by_role("button", name="Try the failed ones again").click()
        field.fill("wrong")
        here.page.keyboard.press("Enter")
        api.expect(dialog).to_contain_text("The server did not accept this token.")
        field.fill("open-sesame")
        here.page.get_by_role("button", name="Continue").click()
        here.captioned(9)
        here.page.reload()
        here.give(photo())  # kept as long as the tab is
        here.captioned(1)
        here.forgive(401)


def test_a_busy_server_is_asked_again_and_a_dead_one_reported(visit: Callable[..., Opened], address: str) -> None:
    here = visit(address)
    answers = iter([503, 503])

    def busy(route: Any) -> None:
        status = next(answers, None)
        if status is None:
            route.continue_()
        else:
            route.fulfill(
                status=status, headers={"Retry-After": "0.1"}, json={"error": {"code": "busy", "message": "x"}}
            )

    here.page.route("**/v1/captions", busy)
    here.give(photo())
    here.captioned(1)
    here.page.unroute("**/v1/captions")
    here.page.route("**/v1/captions", lambda route: route.abort())
    here.give(photo("second.jpg"))
    api.expect(here.page.locator(".problem:visible")).to_contain_text("The server could not be reached")
    here.page.unroute("**/v1/captions")
    here.page.route("**/v1/captions", lambda route: route.fulfill(status=200, json={"results": [{"captions": [{}]}]}))
    here.give(photo("third.jpg"))
    api.expect(here.page.locator(".problem:visible").nth(1)).to_contain_text("could not be understood")
    here.forgive(503)
    assert len(here.errors) == 2 and "net::ERR_FAILED" in here.errors[0] and "TypeError" in here.errors[1]
    here.errors.clear()


@pytest.mark.parametrize("scheme", ["light", "dark"])
@pytest.mark.parametrize("size", [DESK, PHONE], ids=["desk", "phone"])
def test_axe_finds_nothing(visit: Callable[..., Opened], address: str, scheme: str, size: tuple[int, int]) -> None:
    axe = pytest.importorskip("axe_playwright_python.sync_playwright", reason="needs axe-playwright-python").Axe()
    here = visit(address, size, color_scheme=scheme)

    def look() -> list[str]:
        found = axe.run(here.page).response["violations"]
        return [f"{v['impact']}: {v['id']}, {v['nodes'][0]['html']}" for v in found]

    assert not look()
    here.give(photo(), BROKEN)
    here.captioned(1)
    api.expect(here.page.locator(".problem:visible")).to_have_count(1)
    for summary in here.page.locator("summary").all():
        summary.click()
    here.texts.fill("changed")
    here.page.get_by_role("toolbar").get_by_role("button").nth(1).click()
    assert not look()
    here.page.get_by_role("button", name="Remove broken.jpg").click()
    here.page.evaluate("document.getElementById('ask').showModal()")
    assert not look()
    here.forgive(422)
