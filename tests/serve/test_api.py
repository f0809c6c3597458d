"""The API: what it answers, what it refuses, and that answers are the captioner's own."""

from __future__ import annotations

import base64
import http.client
import io
import json
import logging
import math
import socket
import threading
import time
from collections.abc import Callable, Iterator, Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from PIL import Image
from stand_in import StandIn

from showtell.captioner import Captioner
from showtell.captioning import Caption, Engine, Pixels, Word, measured
from showtell.decoding import Sampling, SearchOptions, Wishes, none_found
from showtell.errors import DataError
from showtell.images import ImageTransform, open_image, open_sized

pytest.importorskip("fastapi", reason="needs the extra 'serve'")
from fastapi.testclient import TestClient

from showtell.serve import problems
from showtell.serve.app import Settings, build_app
from showtell.serve.asked import LISTS, OPTIONS
from showtell.serve.body import clean_name
from showtell.serve.limits import Limits

ROOT = Path(__file__).parent.parent.parent
SMALL = Limits(image_bytes=20_000, request_bytes=60_000, held_bytes=120_000, pixels=90_000, images=3, queue=4)


class Meter(StandIn):
    """Says how bright a photo is: what it says of one does not depend on the others, and can be foretold."""

    transform = ImageTransform(
        size=8, resize=8, crop_mode="center", mean=(0.5,) * 3, std=(0.5,) * 3, interpolation="bilinear"
    )
    defaults = SearchOptions(beam=3)
    recipe = {"name": "meter"}  # noqa: RUF012 (as every engine has it)
    grid = (2, 2)

    def __init__(self) -> None:
        self.asked: list[SearchOptions] = []

    def search(
        self, seen: Sequence[Pixels], places: Sequence[int], options: SearchOptions, sampling: Sampling | None
    ) -> list[list[Caption]]:
        self.asked.append(options)
        return [[_say(float(image.mean()), rank) for rank in range(options.n)] for image in seen]


def _say(brightness: float, rank: int) -> Caption:
    looked = np.full((2, 2), 0.25, np.float32)
    return Caption(f"{brightness:.4f} {rank}", -1.5 - rank, -0.5, (Word(f"{brightness:.4f}", -0.25, looked),))


class Broken(Meter):
    """Fails on photos, not on the gray ones of the warm-up."""

    def search(self, seen: Sequence[Pixels], *others: Any) -> list[list[Caption]]:
        if max(image.max() for image in seen) > 0.5:
            raise ValueError("the model is broken")
        return super().search(seen, *others)


class Granting(Meter):
    """Takes every wish, and remembers what was asked; dark photos have no caption that meets one about words."""

    def __init__(self) -> None:
        super().__init__()
        self.wishes: list[Wishes] = []
        self.drawn: list[tuple[Sampling | None, list[int]]] = []

    def wished(self, options: SearchOptions, wishes: Wishes) -> SearchOptions:
        self.wishes.append(wishes)
        phrases = tuple(tuple((hash(word),) for word in words.split("|")) for words in wishes.required)
        return replace(measured(options, wishes), required=phrases)

    def search(
        self, seen: Sequence[Pixels], places: Sequence[int], options: SearchOptions, sampling: Sampling | None
    ) -> list[list[Caption]]:
        self.drawn.append((sampling, list(places)))
        if options.required and min(image.min() for image in seen) < -0.9:
            raise none_found(options)
        return super().search(seen, places, options, sampling)


def photo(shade: int = 200, size: tuple[int, int] = (40, 20), kind: str = "PNG") -> bytes:
    buffer = io.BytesIO()
    Image.new("RGB", size, (shade, shade, shade)).save(buffer, kind)
    return buffer.getvalue()


def files(*contents: bytes) -> list[tuple[str, tuple[str, bytes]]]:
    return [("images", (f"{i}.png", content)) for i, content in enumerate(contents)]


def text64(content: bytes) -> str:
    return base64.b64encode(content).decode()


Start = Callable[..., TestClient]


@pytest.fixture
def start() -> Iterator[Start]:
    opened: list[TestClient] = []

    def start(engine: Engine | None = None, **settings: Any) -> TestClient:
        client = TestClient(
            build_app(Captioner(engine or Meter()), Settings(**settings)), raise_server_exceptions=False
        )
        client.__enter__()
        opened.append(client)
        while not client.app.state.service.ready:  # type: ignore[attr-defined]
            pass
        return client

    yield start
    for client in opened:
        client.__exit__(None, None, None)


def code(response: Any) -> tuple[int, str]:
    error = response.json()["error"]
    assert set(error) == {"code", "message"}
    assert error["message"]
    assert problems.CODES[error["code"]][0] == response.status_code
    return response.status_code, error["code"]


def test_an_answer_is_what_the_captioner_says(start: Start) -> None:
    client, captioner = start(), Captioner(Meter())
    shades = [0, 90, 255]
    answer = client.post(
        "/v1/captions", files=files(*map(photo, shades)), data={"n": "2", "beam": "4", "attention": "true"}
    ).json()
    assert answer["model"]["name"] == "meter"
    assert [result["name"] for result in answer["results"]] == ["0.png", "1.png", "2.png"]
    for result, best in zip(answer["results"], captioner.caption([photo(s) for s in shades], n=2, beam=4), strict=True):
        assert [c["text"] for c in result["captions"]] == [best.text, best.alternatives[0].text]
        first = result["captions"][0]
        assert first["log_prob"] == best.log_prob
        assert first["probability"] == pytest.approx(math.exp(best.log_prob), rel=1e-5)
        assert first["confidence"] == pytest.approx(best.confidence, rel=1e-5)
        assert first["words"] == [
            {"text": best.words[0].text, "probability": pytest.approx(math.exp(-0.25), rel=1e-5), "log_prob": -0.25,
             "attention": [[0.25, 0.25], [0.25, 0.25]]}
        ]  # fmt: skip


@pytest.mark.parametrize("mode", ["center", "squash"])
def test_view_is_what_the_encoder_sees(start: Start, mode: str, monkeypatch: pytest.MonkeyPatch) -> None:
    values = {**Meter.transform.to_dict(), "crop_mode": mode, "resize": 16}
    monkeypatch.setattr(Meter, "transform", ImageTransform.from_dict(values))
    exif = Image.Exif()
    exif[0x0112] = 6  # lies on its side
    buffer = io.BytesIO()
    Image.new("RGB", (40, 20)).save(buffer, "JPEG", exif=exif)
    view = start().post("/v1/captions", files=files(buffer.getvalue())).json()["results"][0]["view"]
    upright = open_image(buffer.getvalue())
    assert (view["width"], view["height"]) == upright.size == (20, 40)
    assert view["box"] == list(Meter.transform.crop_box(20, 40))


def test_attention_comes_only_when_asked_for(start: Start) -> None:
    client = start()
    for asked, there in (("", False), ("?attention=false", False), ("?attention=true", True)):
        answer = client.post(f"/v1/captions{asked}", files=files(photo())).json()
        assert ("attention" in answer["results"][0]["captions"][0]["words"][0]) == there


def test_form_json_and_query_ask_for_the_same(start: Start) -> None:
    client = start()
    one = client.post("/v1/captions", files=files(photo()), data={"n": "3"})
    images = {"images": [{"data": text64(photo()), "name": "0.png"}]}
    two = client.post("/v1/captions", json={**images, "n": 3})
    three = client.post("/v1/captions?n=3", json=images)
    four = client.post("/v1/captions?n=1", json={**images, "n": 3})  # the body decides
    five = client.post("/v1/captions?n=3", json={"images": ["data:image/png;base64," + text64(photo())]})
    assert one.json() == two.json() == three.json() == four.json()
    assert five.json()["results"][0]["name"] == "image-1"
    assert five.json()["results"][0]["captions"] == one.json()["results"][0]["captions"]


def test_the_beam_is_the_captioners_and_at_least_n(start: Start) -> None:
    captioner = Meter()
    client = start(captioner)
    for query, beam in (("", 3), ("?beam=1", 1), ("?n=5", 5), ("?n=2&beam=7", 7)):
        assert client.post(f"/v1/captions{query}", files=files(photo())).status_code == 200
        assert captioner.asked[-1].beam == beam


WISHED: dict[str, Any] = {
    "with": ["dog|dogs", "red ball"], "without": ["cat"], "begins": "a photo of", "min_length": 3, "max_length": 9,
    "length_penalty": 0.5, "no_repeat": 2,
}  # fmt: skip


def test_wishes_are_the_librarys_and_the_same_however_they_come(start: Start) -> None:
    captioner = Granting()
    client = start(captioner)
    captioner.wishes.clear()  # the page has asked what it may offer
    body = {"images": [text64(photo())]}
    ways = (
        {"files": files(photo()), "data": WISHED},
        {"files": files(photo()), "params": WISHED},
        {"json": {**body, **WISHED}},
        {"json": {**body, **WISHED}, "params": {"with": ["other", "words"], "begins": "the"}},  # the body decides
    )
    for way in ways:
        assert client.post("/v1/captions", **way).status_code == 200
    wished = Wishes(("dog|dogs", "red ball"), ("cat",), begins="a photo of", min_tokens=3, max_tokens=9,
                    length_penalty=0.5, no_repeat_ngram=2)  # fmt: skip
    assert captioner.wishes == [wished] * 4
    assert captioner.asked[-1].beam == 20  # as `caption` has where captions are to end in time
    diverse = {**body, "n": 3, "diverse": True, "diversity": 2}
    assert client.post("/v1/captions", json=diverse).status_code == 200
    assert captioner.wishes[-1] == Wishes(diverse=True, diversity=2.0)
    assert client.post("/v1/captions", json={**body, "with": [], "begins": ""}).status_code == 200
    assert len(captioner.wishes) == 5  # without a wish, an exported captioner is not asked for one either


def test_the_page_offers_what_the_captioner_takes(start: Start) -> None:
    assert '<body class="plain">' in start(Meter()).get("/").text
    assert "<body>" in start(Granting()).get("/").text


def test_an_exported_captioner_refuses_in_its_own_words(start: Start) -> None:
    client = start()  # a Meter searches as exports do
    for wishes in ({"with": ["dog"]}, {"without": ["dog"]}, {"begins": "a"}, {"diverse": True, "n": 2}):
        refused = client.post("/v1/captions", json={"images": [text64(photo())], **wishes})
        assert code(refused) == (422, "wrong_option")
        with pytest.raises(DataError) as told:
            Captioner(Meter()).options(wishes=Wishes(begins="a"))
        assert refused.json()["error"]["message"] == str(told.value)
    assert client.post("/v1/captions?max_length=4&no_repeat=2", files=files(photo())).status_code == 200


def test_an_image_without_a_caption_that_meets_the_wishes_spoils_no_other(start: Start) -> None:
    client = start(Granting())
    answer = client.post("/v1/captions", files=files(photo(200), photo(0), photo(90)), data={"with": "dog"})
    assert answer.status_code == 200
    good, none, other = answer.json()["results"]
    assert none["error"]["code"] == "no_caption" and "with all that must occur" in none["error"]["message"]
    for result, shade in ((good, 200), (other, 90)):
        assert result["captions"][0]["text"] == Captioner(Meter()).caption(photo(shade))[0].text
    assert code(client.post("/v1/captions", files=files(photo(0)), data={"with": "dog"})) == (422, "no_caption")


def test_draws_are_by_the_images_place_in_the_request(start: Start) -> None:
    captioner = Granting()
    client = start(captioner, batch=1)
    draws = {"sample": "true", "temperature": "2", "seed": "7", "n": "2"}
    assert client.post("/v1/captions", files=files(photo(), b"broken", photo()), data=draws).status_code == 200
    sampling = Sampling(temperature=2.0, seed=7)
    assert sorted(captioner.drawn[-2:], key=str) == [(sampling, [0]), (sampling, [2])]
    assert client.post("/v1/captions", files=files(photo())).status_code == 200
    assert captioner.drawn[-1] == (None, [0])


def test_words_that_take_a_wide_search_take_more_room(start: Start) -> None:
    client = start(Granting(), limits=Limits(queue=40))
    service = client.app.state.service  # type: ignore[attr-defined]
    four = {"with": list("abcd"), "beam": 20}  # sixteen times the widest beam
    assert client.post("/v1/captions", files=files(photo(), photo()), data=four).status_code == 200
    refused = client.post("/v1/captions", files=files(*[photo()] * 3), data=four)
    assert code(refused) == (422, "wrong_option")
    assert "3 images need the room of 48, and the queue has 40" in refused.json()["error"]["message"]
    with service.batcher.reserve(25):
        assert code(client.post("/v1/captions", files=files(photo()), data=four)) == (503, "busy")
        assert client.post("/v1/captions", files=files(photo()), data={**four, "beam": 5}).status_code == 200
    assert service.batcher.reserved == 0


def test_a_bundles_answers_to_wishes_are_the_librarys(start: Start, tiny_bundle: Path, scenes: Path) -> None:
    captioner = Captioner.load(tiny_bundle)
    client = start(captioner.engine)
    paths = sorted(scenes.rglob("*.png"))[:3]
    sent = files(*(path.read_bytes() for path in paths))
    first, second = captioner.engine.bundle.vocabulary.listed()[4:6]
    asked: list[tuple[dict[str, Any], dict[str, Any]]] = [
        ({"with": [second]}, {"wishes": Wishes((second,))}),
        ({"without": [first, second], "n": 2}, {"wishes": Wishes(excluded=(first, second)), "n": 2}),
        ({"begins": first, "max_length": 3}, {"wishes": Wishes(begins=first, max_tokens=3)}),
        ({"n": 2, "diverse": True, "diversity": 3}, {"n": 2, "wishes": Wishes(diverse=True, diversity=3.0)}),
        (
            {"n": 2, "sample": True, "seed": 5, "temperature": 2, "min_length": 4},
            {"n": 2, "sampling": Sampling(seed=5, temperature=2.0), "wishes": Wishes(min_tokens=4)},
        ),
    ]
    for options, meant in asked:
        answer = client.post("/v1/captions?attention=true", files=sent, data=options)
        found = [[caption["text"] for caption in result["captions"]] for result in answer.json()["results"]]
        best = captioner.caption(paths, **meant)
        assert found == [[one.text, *(other.text for other in one.alternatives)] for one in best]
    words = {"with": [" ".join([first, second] * 4)]}
    many = {"with": [f"{first} {second}"] * 4, "without": [f"{second} {first}"], "beam": 20}
    for options, said in (
        ({"with": ["xyzzy"]}, "the captioner's vocabulary does not have 'xyzzy'"),
        ({"with": [""]}, "'' is no word"),
        (words, "takes 8 tokens in all, and captions end after 6"),
        ({**many, "max_length": 60}, "need 47 times the 20 beams, expected at most 16 times"),
    ):
        refused = client.post("/v1/captions", files=sent, data=options)
        assert code(refused) == (422, "wrong_option")
        assert said in refused.json()["error"]["message"]


def test_a_broken_image_among_good_ones(start: Start) -> None:
    client = start()
    answer = client.post("/v1/captions", files=files(photo(10), b"nothing", photo(20)[:40], photo(30)))
    assert answer.status_code == 200
    results = answer.json()["results"]
    assert ["error" in result for result in results] == [False, True, True, False]
    assert results[1]["error"]["code"] == "bad_image"
    assert "1.png" in results[1]["error"]["message"]
    assert results[3]["captions"][0]["text"] == Captioner(Meter()).caption(photo(30))[0].text
    alone = client.post("/v1/captions", files=files(b"nothing", b"nothing either"))
    assert code(alone) == (422, "bad_image")
    assert len(alone.json()["results"]) == 2


JSON = {"Content-Type": "application/json"}
REFUSED: list[tuple[dict[str, Any], tuple[int, str]]] = [
    ({"content": b"x"}, (415, "wrong_type")),
    ({"content": photo(), "headers": {"Content-Type": "image/png"}}, (415, "wrong_type")),
    ({"content": b"", "headers": JSON}, (400, "malformed")),
    ({"content": b"[" * 9_000, "headers": JSON}, (400, "malformed")),
    ({"content": b'{"images":[' + b"1," * 20_000 + b"1]}", "headers": JSON}, (400, "malformed")),
    ({"json": []}, (400, "malformed")),
    ({"json": {}}, (400, "malformed")),
    ({"json": {"images": []}}, (400, "malformed")),
    ({"json": {"images": [{}]}}, (400, "malformed")),
    ({"json": {"images": [{"path": "/etc/passwd"}]}}, (400, "malformed")),
    ({"json": {"images": [{"data": "AAAA", "url": "http://a/"}]}}, (400, "malformed")),
    ({"json": {"images": ["AAAA"], "views": 2}}, (422, "wrong_option")),
    ({"json": {"images": ["AAAA"], "n": 0}}, (422, "wrong_option")),
    ({"json": {"images": ["?"]}}, (422, "bad_image")),
    ({"json": {"images": [text64(photo(size=(301, 300)))]}}, (422, "bad_image")),
    ({"json": {"images": [{"url": "https://example.com/a.jpg"}]}}, (422, "url_refused")),
    ({"json": {"images": [text64(bytes(21_000))]}}, (413, "too_large")),
    ({"json": {"images": ["AAAA"] * 4}}, (413, "too_many_images")),
    ({"files": files(bytes(20_001))}, (413, "too_large")),
    ({"files": files(*[bytes(19_999)] * 3, bytes(9999))}, (413, "too_large")),
    ({"content": bytes(60_001), "headers": JSON}, (413, "too_large")),
    ({"content": iter([bytes(30_000)] * 3), "headers": JSON}, (413, "too_large")),
    ({"files": files(*[photo()] * 4)}, (413, "too_many_images")),
    ({"files": [("photo", ("a.png", photo()))]}, (422, "wrong_option")),
    ({"files": files(photo()), "data": {"n": "11"}}, (422, "wrong_option")),
    ({"files": files(photo()), "data": {"n": "9" * 101}}, (422, "wrong_option")),
    ({"files": files(photo()), "params": {"n": 4, "beam": 2}}, (422, "wrong_option")),
    ({"files": files(photo()), "params": {"seed": 4}}, (422, "wrong_option")),
    ({"files": files(photo()), "params": {"with": list("abcde")}}, (422, "wrong_option")),
    ({"files": files(photo()), "data": {"with": list("abcde")}}, (422, "wrong_option")),
    ({"files": files(photo()), "data": {"without": ["a"] * 300}}, (422, "wrong_option")),
    ({"files": files(photo()), "data": {"begins": "x" * 401}}, (422, "wrong_option")),
    ({"files": files(photo()), "data": {"with": "red"}}, (422, "wrong_option")),
    ({"content": b"--b\r\n", "headers": {"Content-Type": "multipart/form-data"}}, (400, "malformed")),
    ({"content": b"--b\r\n", "headers": {"Content-Type": "multipart/form-data; boundary=b"}}, (400, "malformed")),
    ({"content": b"--b--", "headers": {"Content-Type": "multipart/form-data; boundary=b"}}, (400, "malformed")),
    ({"files": files(photo()), "headers": {"X": "a" * 20_000}}, (431, "headers_too_large")),
]  # fmt: skip


@pytest.mark.parametrize(("request_", "expected"), REFUSED, ids=[f"{i}-{c}" for i, (_, (_, c)) in enumerate(REFUSED)])
def test_refusals(start: Start, request_: dict[str, Any], expected: tuple[int, str]) -> None:
    client = start(limits=SMALL)
    assert code(client.post("/v1/captions", **request_)) == expected
    service = client.app.state.service  # type: ignore[attr-defined]
    assert (service.batcher.reserved, service.memory.used) == (0, 0)
    assert client.post("/v1/captions", files=files(photo())).status_code == 200


@pytest.mark.parametrize(
    ("body", "said"),
    [
        (None, "the body is null: expected an object with 'images'"),
        ({"images": []}, "images is []: expected at least one image"),
        ({"images": None}, "images is null: expected a list of images"),
        ({"images": [5]}, "images.0 is 5: expected base64 text, or an object with 'data' or 'url'"),
        ({"images": [None]}, "images.0 is null: expected base64 text, or an object with 'data' or 'url'"),
        ({"images": ["AAAA"], "n": True}, "n is true: expected a whole number"),
        ({"images": ["AAAA"], "beam": False}, "beam is false: expected a whole number"),
        ({"images": ["AAAA"], "n": "x"}, 'n is "x": expected a whole number'),
        ({"images": ["AAAA"], "n": 99}, "n is 99: expected to be less than or equal to 10"),
        ({"images": ["AAAA"], "attention": "maybe"}, 'attention is "maybe": expected true or false'),
        ({"images": ["AAAA"], "with": "dog"}, 'with is "dog": expected a list of texts'),
        ({"images": ["AAAA"], "with": ["a", 5]}, "with.1 is 5: expected text"),
        ({"images": ["AAAA"], "with": list("abcde")}, 'with is ["a", "b", "c", "d", "e"]: expected at most 4 texts'),
        ({"images": ["AAAA"], "begins": "x" * 101}, f'begins is "{"x" * 39}: expected to have at most 100 characters'),
        ({"images": ["AAAA"], "max_length": True}, "max_length is true: expected a whole number"),
        ({"images": ["AAAA"], "length_penalty": True}, "length_penalty is true: expected a number"),
        ({"images": ["AAAA"], "length_penalty": math.inf}, "length_penalty is Infinity: expected a number"),
        ({"images": ["AAAA"], "top_p": 0}, "top_p is 0: expected to be greater than 0"),
        ({"images": ["AAAA"], "min_length": 3, "max_length": 2}, "3 words at least: expected 0 to 2"),
        ({"images": ["AAAA"], "diverse": True}, "diverse captions are several and n is 1, expected 2 or more"),
        ({"images": ["AAAA"], "diversity": 1}, "diversity goes with diverse, which is missing"),
        ({"images": ["AAAA"], "seed": 1}, "seed goes with sample, which is missing"),
        (
            {"images": ["AAAA"], "sample": True, "beam": 3, "with": ["a"], "length_penalty": 0},
            "with, length_penalty, beam search, and sample draws; leave out one or the other",
        ),
        (
            {"images": ["AAAA"], "n": 2, "diverse": True, "without": ["a"]},
            "diverse captions and words that must or must not occur do not go together; ask for one",
        ),
        (
            {"images": ["AAAA"], "with": ["a|b"] * 4, "without": ["a|b"] * 17},
            "with and without name 42 words, expected at most 40, alternatives counted",
        ),
    ],
)
def test_what_is_wrong_with_json_is_said(start: Start, body: Any, said: str) -> None:
    refused = start().post("/v1/captions", content=json.dumps(body), headers=JSON)
    assert refused.json()["error"]["message"] == said


def test_images_belong_in_the_body(start: Start) -> None:
    client = start()
    body = json.dumps({"images": [base64.b64encode(photo()).decode()]})
    for refused in (
        client.post("/v1/captions?images=aaaa", content=body, headers=JSON),
        client.post("/v1/captions?images=aaaa", files=files(photo())),
    ):
        assert code(refused) == (422, "wrong_option")
        assert refused.json()["error"]["message"] == "'images' is in the query, expected in the body alone"
    refused = client.post("/v1/captions?imagesize=9", files=files(photo()))
    assert refused.json()["error"]["message"].startswith("'imagesize' is unknown, expected images, n, beam, ")


def test_paths_and_methods(start: Start) -> None:
    client = start()
    for path in ("/nothing", "/v1/captions/", "/page/index.html", "/..%2fapp.py", "//etc/passwd"):
        assert code(client.get(path)) == (404, "not_found")
    refused = client.get("/v1/captions")
    assert code(refused) == (405, "wrong_method")
    assert refused.headers["Allow"] == "POST"


def test_monitors_may_ask_with_head(start: Start) -> None:
    client = start(token="open-sesame")
    for path in ("/", "/docs", "/openapi.json", "/healthz", "/readyz"):
        asked, got = client.head(path), client.get(path)
        assert (asked.status_code, asked.content) == (200, b""), path
        assert asked.headers["Content-Length"] == got.headers["Content-Length"] == str(len(got.content))
        refused = client.post(path)
        assert code(refused) == (405, "wrong_method")
        assert set(refused.headers["Allow"].split(", ")) == {"GET", "HEAD"}
    assert client.head("/metrics").status_code == 401
    assert client.head("/metrics", headers={"Authorization": "Bearer open-sesame"}).status_code == 200
    assert client.head("/v1/captions").status_code == 405
    assert all("head" not in methods for methods in client.get("/openapi.json").json()["paths"].values())
    client.app.state.service.draining = True  # type: ignore[attr-defined]
    assert client.head("/readyz").status_code == 503


@pytest.mark.parametrize(
    ("given", "name"),
    [("../../etc/passwd", "passwd"), ("C:\\x\\a.jpg", "a.jpg"), ("a\0\n\x1b[2Jb", "a[2Jb"), ("x" * 900, "x" * 255)],
)
def test_names_are_only_names(given: str, name: str) -> None:
    assert clean_name(given) == name


def test_a_token_is_asked_for(start: Start) -> None:
    client = start(token="open-sesame")
    for headers in ({}, {"Authorization": "Bearer wrong"}, {"Authorization": "Basic open-sesame"},
                    {"Authorization": "Bearer open-sesam\xe9".encode("latin-1")}):  # fmt: skip
        refused = client.post("/v1/captions", files=files(photo()), headers=headers)
        assert code(refused) == (401, "bad_token")
        assert refused.headers["WWW-Authenticate"] == "Bearer"
    right = {"Authorization": "Bearer open-sesame"}
    assert client.post("/v1/captions", files=files(photo()), headers=right).status_code == 200
    assert client.get("/metrics").status_code == 401
    assert client.get("/metrics", headers=right).status_code == 200
    assert all(client.get(path).status_code == 200 for path in ("/", "/healthz", "/readyz", "/docs", "/openapi.json"))


def test_a_bug_is_told_apart_and_the_next_request_is_served(start: Start, caplog: pytest.LogCaptureFixture) -> None:
    client = start(Broken())
    failed = client.post("/v1/captions", files=files(photo()))
    assert code(failed) == (500, "internal")
    assert failed.headers["X-Request-ID"] in failed.json()["error"]["message"]
    assert "the model is broken" not in failed.text
    assert client.post("/v1/captions", files=files(photo(128)[:30])).status_code == 422
    assert client.get("/readyz").status_code == 200


def test_a_full_queue_says_when_to_come_back(start: Start) -> None:
    client = start(limits=SMALL)
    service = client.app.state.service  # type: ignore[attr-defined]
    with service.batcher.reserve(3):
        refused = client.post("/v1/captions", files=files(photo(), photo()))
        assert code(refused) == (503, "busy")
        assert int(refused.headers["Retry-After"]) > 0
        assert client.post("/v1/captions", files=files(photo())).status_code == 200
    with service.memory.share() as take:
        take(SMALL.held_bytes)
        assert code(client.post("/v1/captions", files=files(photo()))) == (503, "busy")
    assert client.post("/v1/captions", files=files(photo(), photo())).status_code == 200


def test_a_connection_too_many_is_told_when_to_come_back(serving: Callable[..., Any]) -> None:
    with serving(Meter(), limits=replace(SMALL, connections=1)) as url:
        address = ("127.0.0.1", int(url.rpartition(":")[2]))
        with socket.create_connection(address, timeout=30), socket.create_connection(address, timeout=30) as second:
            answer = http.client.HTTPResponse(second)
            answer.begin()
            assert (answer.status, json.load(answer)["error"]["code"]) == (503, "busy")
            assert int(answer.headers["Retry-After"]) > 0


def test_large_photos_are_decoded_one_at_a_time_and_hold_up_no_small_one(
    start: Start, monkeypatch: pytest.MonkeyPatch
) -> None:
    now, most, small_decoded = 0, 0, threading.Event()

    def watched(content: bytes, **options: Any) -> Any:
        nonlocal now, most
        image, size = open_sized(content, **options)
        if max(size) < 100:
            small_decoded.set()
            return image, size
        now += 1
        most = max(most, now)
        assert small_decoded.wait(20), "a small photo waits for the large ones"
        time.sleep(0.05)
        now -= 1
        return image, size

    monkeypatch.setattr("showtell.serve.app.open_sized", watched)
    monkeypatch.setattr("showtell.serve.app._LARGE", 99 * 99)
    sides = (200, 200, 200, 200, 50)
    answer = start().post("/v1/captions", files=files(*(photo(size=(side, side)) for side in sides)))
    assert [result["view"]["width"] for result in answer.json()["results"]] == list(sides)
    assert most == 1


def test_draining_takes_no_more(start: Start) -> None:
    client = start()
    client.app.state.service.draining = True  # type: ignore[attr-defined]
    assert code(client.get("/readyz")) == (503, "draining")
    assert code(client.post("/v1/captions", files=files(photo()))) == (503, "draining")
    assert client.get("/healthz").status_code == 200


def test_numbers(start: Start) -> None:
    client = start()
    client.post("/v1/captions", files=files(photo(), photo(), b"nothing"))
    client.get("/made/up")
    lines = client.get("/metrics").text.splitlines()
    assert 'showtell_requests_total{route="/v1/captions",status="200"} 1.0' in lines
    assert 'showtell_requests_total{route="other",status="404"} 1.0' in lines
    assert 'showtell_images_total{result="captioned"} 2.0' in lines
    assert 'showtell_images_total{result="refused"} 1.0' in lines
    assert "showtell_batch_images_sum 2.0" in lines
    assert "showtell_queue_images 0.0" in lines


def test_the_log_is_json_without_content_or_token(start: Start) -> None:
    from showtell.serve.monitoring import _JsonLines

    records: list[logging.LogRecord] = []
    handler = logging.Handler()
    handler.emit = records.append  # type: ignore[method-assign]
    logger = logging.getLogger("showtell.serve")
    logger.addHandler(handler)
    logger.setLevel(logging.INFO)
    client = start(token="open-sesame")
    headers = {"Authorization": "Bearer open-sesame", "X-Request-ID": "mine-7"}
    answer = client.post("/v1/captions?n=1", files=[("images", ("secret.png", photo()))], headers=headers)
    client.get("/%0a{}%22", headers={"X-Request-ID": 'no"id'})
    logger.removeHandler(handler)
    lines = [_JsonLines().format(record) for record in records]
    assert not any("\n" in line for line in lines)
    first = json.loads(lines[0])
    assert {k: first[k] for k in ("event", "id", "method", "path", "status", "images")} == {
        "event": "request", "id": "mine-7", "method": "POST", "path": "/v1/captions", "status": 200, "images": 1,
    }  # fmt: skip
    assert answer.headers["X-Request-ID"] == "mine-7"
    assert json.loads(lines[1])["id"] != 'no"id'
    said = answer.json()["results"][0]["captions"][0]["text"]
    assert not any(word in line for line in lines for word in ("secret", "open-sesame", said))


def test_pages_ask_nobody_else(start: Start) -> None:
    client = start()
    for path in ("/", "/docs"):
        page = client.get(path)
        policy = dict(part.split(" ", 1) for part in page.headers["Content-Security-Policy"].split("; "))
        assert policy["default-src"] == policy["base-uri"] == policy["frame-ancestors"] == "'none'"
        assert "unsafe" not in page.headers["Content-Security-Policy"]
        assert page.headers["X-Content-Type-Options"] == "nosniff"
    assert "/v1/captions" in client.get("/docs").text
    assert "<script" not in client.get("/docs").text


def test_the_description_knows_options_and_codes(start: Start) -> None:
    schema = start().get("/openapi.json").json()
    operation = schema["paths"]["/v1/captions"]["post"]
    parameters = {p["name"]: p["schema"] for p in operation["parameters"]}
    assert tuple(parameters) == OPTIONS
    for name, most in LISTS.items():
        limits = {"maxItems": most, "items": {"type": "string", "maxLength": 100}}
        assert limits.items() <= parameters[name].items()
    for kind, content in operation["requestBody"]["content"].items():
        assert {"images", *OPTIONS} == set(content["schema"]["properties"]), kind
    assert set(operation["requestBody"]["content"]) == {"multipart/form-data", "application/json"}
    said = json.dumps(operation["responses"])
    for name, (status, _) in problems.CODES.items():
        assert status in (404, 405) or f"`{name}`" in said


def test_the_description_knows_the_answer_where_all_images_fail(start: Start) -> None:
    client = start(limits=SMALL)
    schema = client.get("/openapi.json").json()
    responses = schema["paths"]["/v1/captions"]["post"]["responses"]
    big = base64.b64encode(bytes(SMALL.image_bytes + 1)).decode()
    for body in ({"images": ["AAAA"]}, {"images": ["AAAA", "####"]}, {"images": [big]}):
        refused = client.post("/v1/captions", content=json.dumps(body), headers=JSON)
        known = [each["$ref"].rpartition("/")[2] for each in responses[str(refused.status_code)]["content"]["application/json"]["schema"]["anyOf"]]  # fmt: skip
        assert any(
            refused.json().keys() == schema["components"]["schemas"][name]["properties"].keys() for name in known
        )
        assert refused.json().keys() == {"error", "model", "results"}
    alone = responses["401"]["content"]["application/json"]["schema"]
    assert alone["$ref"].endswith("/Refusal")


def test_the_reference_names_limits(start: Start) -> None:
    text = start().get("/docs").text
    for said in ("list of at most 4 string of 100 characters at most", "integer 1 … 100", "number not 0 … 1"):
        assert said in text


def test_options_are_the_command_lines() -> None:
    from inspect import signature

    from showtell.commands.caption import caption

    said = str(signature(caption))
    assert all(f"--{name}" in said or f" {name}:" in said for name in OPTIONS)


def test_codes_and_options_are_documented() -> None:
    text = (ROOT / "docs" / "serving.md").read_text(encoding="utf-8")
    for option in OPTIONS:
        assert f"| `{option}` |" in text
    for name, (status, _) in problems.CODES.items():
        assert f"| {status} | `{name}` |" in text


@pytest.mark.parametrize("changes", [{"images": 0}, {"image_bytes": 10**9}, {"queue": 8}, {"answer_seconds": 0}])
def test_limits_make_sense(changes: dict[str, int]) -> None:
    with pytest.raises(DataError, match="expected"):
        Limits(**changes)  # type: ignore[arg-type]
