"""URLs: only public addresses, whatever they are dressed as; no more bytes, time and redirects than allowed."""

from __future__ import annotations

import asyncio
import contextlib
from collections.abc import AsyncIterator, Awaitable, Callable
from dataclasses import replace
from typing import Any

import pytest

pytest.importorskip("fastapi", reason="needs the extra 'serve'")
from starlette.exceptions import HTTPException

from showtell.serve import fetch as module
from showtell.serve.fetch import fetch, is_public
from showtell.serve.limits import Limits

LIMITS = Limits(image_bytes=5000, url_seconds=5.0)
Talk = Callable[[asyncio.StreamReader, asyncio.StreamWriter], Awaitable[None]]


def refused(url: str, **options: Any) -> str:
    with pytest.raises(HTTPException) as caught:
        asyncio.run(fetch(url, LIMITS, lambda count: None, **options))
    return str(caught.value.detail["code"])  # type: ignore[index]


@pytest.mark.parametrize(
    "address",
    ["127.0.0.1", "127.9.9.9", "0.0.0.0", "10.1.2.3", "172.31.0.1", "192.168.0.1", "169.254.169.254", "100.64.0.1",
     "192.0.0.8", "198.18.0.1", "224.0.0.1", "240.0.0.1", "255.255.255.255", "192.88.99.1", "168.63.129.16", "::", "::1", "fe80::1",
     "fe80::1%eth0", "fc00::1", "fd12::1", "ff02::1", "::ffff:127.0.0.1", "::ffff:8.8.8.8", "::127.0.0.1",
     "64:ff9b::7f00:1", "2002:7f00:1::", "2001::1", "2001:db8::1"],
)  # fmt: skip
def test_addresses_that_are_not_public(address: str) -> None:
    assert not is_public(address, 80)


@pytest.mark.parametrize("address", ["93.184.215.14", "8.8.8.8", "2606:2800:21f::1"])
def test_public_addresses_on_the_ports_of_the_web(address: str) -> None:
    assert is_public(address, 80)
    assert is_public(address, 443)
    assert not is_public(address, 22)
    assert not is_public(address, 8080)


@pytest.mark.parametrize(
    "url",
    ["file:///etc/passwd", "ftp://8.8.8.8/", "gopher://8.8.8.8/", "//8.8.8.8/", "a.jpg", "", "http://", "http:///a",
     "http://user@8.8.8.8/", "http://u:p@8.8.8.8/", "http://8.8.8.8:22/", "http://8.8.8.8:99999/", "http://[::1",
     "http://8.8.8.8/ a", "http://8.8.8.8/\r\nX: y", "http://é.example/", "http://127.0.0.1/", "http://2130706433/",
     "http://0x7f.1/", "http://127.1/", "http://localhost/", "http://[::ffff:127.0.0.1]/"],
)  # fmt: skip
def test_urls_that_are_not_fetched(url: str, monkeypatch: pytest.MonkeyPatch) -> None:
    async def connect(*_: Any, **__: Any) -> Any:
        raise AssertionError("connected")

    monkeypatch.setattr(asyncio, "open_connection", connect)
    assert refused(url) == "url_refused"


def test_one_private_address_among_public_ones_is_enough(monkeypatch: pytest.MonkeyPatch) -> None:
    async def run() -> None:
        loop = asyncio.get_running_loop()

        async def resolve(*_: Any, **__: Any) -> Any:
            return [(2, 1, 6, "", ("8.8.8.8", 80)), (2, 1, 6, "", ("127.0.0.1", 80))]

        monkeypatch.setattr(loop, "getaddrinfo", resolve)
        await fetch("http://rebinding.example/", LIMITS, lambda count: None)

    with pytest.raises(HTTPException) as caught:
        asyncio.run(run())
    assert caught.value.detail["code"] == "url_refused"  # type: ignore[index]


@contextlib.asynccontextmanager
async def host(talk: Talk) -> AsyncIterator[int]:
    server = await asyncio.start_server(talk, "127.0.0.1", 0)
    async with server:
        yield server.sockets[0].getsockname()[1]


def served(
    answer: bytes, *, path: str = "/a.jpg", then: float = 0.0, limits: Limits = LIMITS
) -> tuple[bytes | str, list[bytes]]:
    """What `fetch` gives, or the code of its refusal, from a host on this machine that `judge` lets pass."""
    heard: list[bytes] = []

    async def talk(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        heard.append(await reader.readuntil(b"\r\n\r\n"))
        writer.write(answer)
        await asyncio.sleep(then)
        writer.close()

    async def run() -> bytes:
        async with host(talk) as port:
            here = lambda address, asked: (address, asked) == ("127.0.0.1", port)  # noqa: E731
            return await fetch(f"http://127.0.0.1:{port}{path}", limits, lambda count: None, here)

    try:
        return asyncio.run(run()), heard
    except HTTPException as error:
        return error.detail["code"], heard  # type: ignore[index]


def test_an_image_is_fetched() -> None:
    got, heard = served(b"HTTP/1.1 200 OK\r\nContent-Length: 4\r\n\r\nJPEG", path="/b?c=d")
    assert got == b"JPEG"
    assert heard[0].startswith(b"GET /b?c=d HTTP/1.1\r\n")
    assert served(b"HTTP/1.1 200 OK\r\nTransfer-Encoding: chunked\r\n\r\n2\r\nJP\r\n2\r\nEG\r\n0\r\n\r\n")[0] == b"JPEG"
    assert served(b"HTTP/1.1 200 OK\r\n\r\nJPEG")[0] == b"JPEG"


@pytest.mark.parametrize(
    "answer",
    [b"HTTP/1.1 404 No\r\nContent-Length: 0\r\n\r\n", b"nonsense\r\n\r\n", b"", b"HTTP/1.1 200 OK\r\nContent-Length: 9\r\n\r\nJPEG",
     b"HTTP/1.1 200 OK\r\n\r\n" + bytes(5001), b"HTTP/1.1 200 OK\r\nX: " + b"a" * 99_999,
     b"HTTP/1.1 302 There\r\nLocation: /a.jpg\r\nContent-Length: 0\r\n\r\n"],
)  # fmt: skip
def test_answers_that_are_no_image(answer: bytes) -> None:
    assert served(answer)[0] == "url_failed"


@pytest.mark.parametrize("to", ["http://127.0.0.1:1/", "http://localhost/", "file:///etc/passwd", "//169.254.169.254/"])
def test_redirects_are_judged_too(to: str) -> None:
    got, heard = served(f"HTTP/1.1 302 There\r\nLocation: {to}\r\nContent-Length: 0\r\n\r\n".encode())
    assert (got, len(heard)) == ("url_refused", 1)


def test_a_slow_host_is_given_up() -> None:
    limits = replace(LIMITS, url_seconds=0.1)
    assert served(b"HTTP/1.1 200 OK\r\n", then=3.0, limits=limits)[0] == "url_failed"


def test_what_is_fetched_counts(monkeypatch: pytest.MonkeyPatch) -> None:
    assert module._REDIRECTS == 3
    taken: list[int] = []

    async def talk(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        await reader.readuntil(b"\r\n\r\n")
        writer.write(b"HTTP/1.1 200 OK\r\n\r\n" + bytes(1234))
        writer.close()

    async def run() -> None:
        async with host(talk) as port:
            await fetch(f"http://127.0.0.1:{port}/", LIMITS, taken.append, lambda address, asked: True)

    asyncio.run(run())
    assert sum(taken) == 1234
