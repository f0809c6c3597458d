"""Fetches images from URLs, if the server allows them: from public addresses only, within the limits.

The host's name is resolved once, all its addresses are judged, and the connection goes to one of them: a name that
resolves differently a moment later (DNS rebinding) changes nothing. Redirects are judged like the first URL.
"""

from __future__ import annotations

import asyncio
import ipaddress
import socket
import ssl
from collections.abc import Callable
from dataclasses import dataclass
from urllib.parse import SplitResult, urljoin, urlsplit

import h11

from showtell.serve.limits import Limits
from showtell.serve.problems import refusal

_REDIRECTS = 3
_PORTS = {"http": 80, "https": 443}

Judge = Callable[[str, int], bool]


@dataclass(frozen=True, slots=True)
class _Answer:
    status: int
    location: str
    body: bytes


def is_public(address: str, port: int) -> bool:
    """Whether this is a public internet address with a web port, 80 or 443: not loopback, private, link-local or
    reserved, and no IPv4 address embedded in IPv6."""
    ip = ipaddress.ip_address(address.split("%")[0])
    if port not in _PORTS.values() or not ip.is_global or ip.is_multicast or ip.is_reserved:
        return False
    if isinstance(ip, ipaddress.IPv4Address):
        # Protocol assignments, which Python knows only in part; 6to4 relays; Azure's host, which has a public address.
        ours = ("192.0.0.0/24", "192.88.99.0/24", "168.63.129.16/32")
        return not any(ip in ipaddress.IPv4Network(net) for net in ours)
    unicast, tunnels = ipaddress.IPv6Network("2000::/3"), ("2001::/23", "2002::/16")
    return ip in unicast and not any(ip in ipaddress.IPv6Network(net) for net in tunnels)


async def fetch(url: str, limits: Limits, take: Callable[[int], None], judge: Judge = is_public) -> bytes:
    """The bytes behind a URL. Refuses with "url_refused" or "url_failed", or "busy" through `take`."""
    try:
        async with asyncio.timeout(limits.url_seconds):
            for _ in range(_REDIRECTS + 1):
                answer = await _get(url, limits, take, judge)
                if not answer.location:
                    return answer.body
                url = _follow(url, answer.location)
    except TimeoutError:
        raise refusal("url_failed", f"the URL's server took more than {limits.url_seconds:g} s") from None
    except (OSError, ssl.SSLError, h11.ProtocolError) as error:
        raise refusal("url_failed", f"the URL's server cannot be talked to ({type(error).__name__})") from None
    raise refusal("url_failed", f"the URL is redirected more than {_REDIRECTS} times")


def _follow(url: str, location: str) -> str:
    try:
        return urljoin(url, location)
    except ValueError:
        raise refusal("url_failed", "the URL's server redirects to what is no URL") from None


async def _get(url: str, limits: Limits, take: Callable[[int], None], judge: Judge) -> _Answer:
    parts, port = _parse(url)
    host = parts.hostname or ""
    address = await _resolve(host, port, judge)
    context = ssl.create_default_context() if parts.scheme == "https" else None
    reader, writer = await asyncio.open_connection(
        address, port, ssl=context, server_hostname=host if context is not None else None
    )
    try:
        connection = h11.Connection(h11.CLIENT, max_incomplete_event_size=limits.header_bytes)
        target = (parts.path or "/") + (f"?{parts.query}" if parts.query else "")
        headers = [("Host", parts.netloc), ("Accept", "image/*"), ("Accept-Encoding", "identity"),
                   ("User-Agent", "showtell"), ("Connection", "close")]  # fmt: skip
        request = h11.Request(method="GET", target=target, headers=headers)
        writer.write((connection.send(request) or b"") + (connection.send(h11.EndOfMessage()) or b""))
        return await _read(connection, reader, limits, take)
    finally:
        writer.transport.abort()  # not close(), which may wait for the server


async def _read(
    connection: h11.Connection, reader: asyncio.StreamReader, limits: Limits, take: Callable[[int], None]
) -> _Answer:
    status, location, body = 0, "", bytearray()
    while True:
        event = connection.next_event()
        if event is h11.NEED_DATA:
            connection.receive_data(await reader.read(65536))
        elif isinstance(event, h11.Response):
            status = event.status_code
            location = dict(event.headers).get(b"location", b"").decode("latin-1") if 300 <= status < 400 else ""
            if location:
                return _Answer(status, location, b"")
            if status != 200:
                raise refusal("url_failed", f"the URL's server answered {status}, expected 200")
        elif isinstance(event, h11.Data):
            take(len(event.data))
            body += event.data
            if len(body) > limits.image_bytes:
                raise refusal("url_failed", f"the URL gives more than {limits.image_bytes:,} bytes")
        elif isinstance(event, h11.EndOfMessage):
            return _Answer(status, "", bytes(body))
        elif isinstance(event, h11.ConnectionClosed):
            raise refusal("url_failed", "the URL's server closed the connection")


def _parse(url: str) -> tuple[SplitResult, int]:
    try:
        parts = urlsplit(url)
        port = parts.port or _PORTS.get(parts.scheme, 0)
        whole = url.isascii() and url.isprintable() and " " not in url and bool(parts.hostname)
    except ValueError:
        raise refusal("url_refused", "that is no URL") from None
    if parts.scheme not in _PORTS or not whole or parts.username is not None or parts.password is not None:
        raise refusal("url_refused", "expected an http or https URL of plain characters, without user and password")
    return parts, port


async def _resolve(host: str, port: int, judge: Judge) -> str:
    """The host's first address, if all pass the judge. The refusal does not tell what is wrong with them."""
    try:
        found = await asyncio.get_running_loop().getaddrinfo(host, port, type=socket.SOCK_STREAM)
        addresses = [str(entry[4][0]) for entry in found]
    except (OSError, UnicodeError):
        addresses = []
    if not addresses or not all(judge(address, port) for address in addresses):
        raise refusal("url_refused", "the URL's host has no public address, or its port is not 80 or 443")
    return addresses[0]
