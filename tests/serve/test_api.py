"""The API: what it answers, what it refuses, and that answers are the captioner's own."""

from __future__ import annotations

import base64
import io
import json
import logging
import math
from collections.abc import Callable, Iterator, Sequence
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from PIL import Image

from showtell.captioning import BaseCaptioner, Caption, Pixels, Word
from showtell.decoding import Sampling, SearchOptions
from showtell.errors import DataError
from showtell.images import ImageTransform, open_image

pytest.importorskip("fastapi", reason="needs the extra 'serve'")
from fastapi.testclient import TestClient

from showtell.serve import problems
from showtell.serve.app import Settings, build_app
from showtell.serve.body import clean_name
from showtell.serve.limits import Limits

ROOT = Path(__file__).parent.parent.parent
SMALL = Limits(image_bytes=20_000, request_bytes=60_000, held_bytes=120_000, pixels=90_000, images=3, queue=4)


class Meter(BaseCaptioner):
    """Says how bright a photo is: what it says of one does not depend on the others, and can be foretold."""

    transform = ImageTransform(
        size=8, resize=8, crop_mode="center", mean=(0.5,) * 3, std=(0.5,) * 3, interpolation="bilinear"
    )
    defaults = SearchOptions(beam=3)
    recipe = {"name": "meter"}  # noqa: RUF012 (as every captioner has it)
    grid = (2, 2)

    def __init__(self) -> None:
        self.asked: list[SearchOptions] = []

    def _search(
        self, pixels: Pixels, places: Sequence[int], options: SearchOptions, sampling: Sampling | None
    ) -> list[list[Caption]]:
        self.asked.append(options)
        return [[_say(float(image.mean()), rank) for rank in range(options.n)] for image in pixels]


def _say(brightness: float, rank: int) -> Caption:
    looked = np.full((2, 2), 0.25, np.float32)
    return Caption(f"{brightness:.4f} {rank}", -1.5 - rank, -0.5, (Word(f"{brightness:.4f}", -0.25, looked),))


class Broken(Meter):
    """Fails on photos, not on the gray ones of the warm-up."""

    def _search(self, pixels: Pixels, *others: Any) -> list[list[Caption]]:
        if pixels.max() > 0.5:
            raise ValueError("the model is broken")
        return super()._search(pixels, *others)


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

    def start(captioner: BaseCaptioner | None = None, **settings: Any) -> TestClient:
        client = TestClient(build_app(captioner or Meter(), Settings(**settings)), raise_server_exceptions=False)
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
    client, captioner = start(), Meter()
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


def test_a_broken_image_among_good_ones(start: Start) -> None:
    client = start()
    answer = client.post("/v1/captions", files=files(photo(10), b"nothing", photo(20)[:40], photo(30)))
    assert answer.status_code == 200
    results = answer.json()["results"]
    assert ["error" in result for result in results] == [False, True, True, False]
    assert results[1]["error"]["code"] == "bad_image"
    assert "1.png" in results[1]["error"]["message"]
    assert results[3]["captions"][0]["text"] == Meter().caption(photo(30))[0].text
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
    ({"json": {"images": ["AAAA"], "sample": True}}, (422, "wrong_option")),
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
    ],
)
def test_what_is_wrong_with_json_is_said(start: Start, body: Any, said: str) -> None:
    refused = start().post("/v1/captions", content=json.dumps(body), headers=JSON)
    assert refused.json()["error"]["message"] == said


def test_paths_and_methods(start: Start) -> None:
    client = start()
    for path in ("/nothing", "/v1/captions/", "/page/index.html", "/..%2fapp.py", "//etc/passwd"):
        assert code(client.get(path)) == (404, "not_found")
    refused = client.get("/v1/captions")
    assert code(refused) == (405, "wrong_method")
    assert refused.headers["Allow"] == "POST"


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
    assert {p["name"] for p in operation["parameters"]} == {"n", "beam", "attention"}
    assert set(operation["requestBody"]["content"]) == {"multipart/form-data", "application/json"}
    said = json.dumps(operation["responses"])
    for name, (status, _) in problems.CODES.items():
        assert status in (404, 405) or f"`{name}`" in said


def test_codes_are_documented() -> None:
    text = (ROOT / "docs" / "serving.md").read_text(encoding="utf-8")
    for name, (status, _) in problems.CODES.items():
        assert f"| {status} | `{name}` |" in text


@pytest.mark.parametrize("changes", [{"images": 0}, {"image_bytes": 10**9}, {"queue": 8}, {"answer_seconds": 0}])
def test_limits_make_sense(changes: dict[str, int]) -> None:
    with pytest.raises(DataError, match="expected"):
        Limits(**changes)  # type: ignore[arg-type]
