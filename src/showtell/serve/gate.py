"""The layer around all routes: request ids, log lines, metrics, headers, and refusals that clients can read."""

from __future__ import annotations

import asyncio
import re
import time
import uuid
from collections.abc import MutableMapping
from typing import Any

from starlette.datastructures import Headers, MutableHeaders
from starlette.requests import ClientDisconnect
from starlette.responses import JSONResponse
from starlette.routing import Match, Router
from starlette.types import ASGIApp, Message, Receive, Scope, Send

from showtell.serve import problems
from showtell.serve.limits import Limits
from showtell.serve.monitoring import Numbers, log

_DRAIN_SECONDS = 2.0
_LINGER_SECONDS = 1.0
_OWN_ID = re.compile(r"[A-Za-z0-9._-]{1,64}")
_GONE = 499  # the client left before the answer; in the log only
HEADERS = {
    "X-Content-Type-Options": "nosniff",
    "Referrer-Policy": "no-referrer",
    "Cross-Origin-Resource-Policy": "same-origin",
    "Cache-Control": "no-store",
}


class Gate:
    """The outermost layer of the application."""

    def __init__(self, app: ASGIApp, router: Router, numbers: Numbers, limits: Limits) -> None:
        self._app, self._router, self._numbers, self._limits = app, router, numbers, limits

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        """ASGI."""
        if scope["type"] != "http":
            return await self._app(scope, receive, send)
        started = time.monotonic()
        exchange = _Exchange(scope, receive, send, self._limits.request_bytes)
        scope["state"] = {**scope.get("state", {}), "images": 0}
        try:
            if _header_bytes(scope) > self._limits.header_bytes:
                code = "headers_too_large"
                await JSONResponse(problems.body(code, problems.CODES[code][1]), 431)(
                    scope, exchange.receive, exchange.send
                )
            else:
                await self._app(scope, exchange.receive, exchange.send)
        except ClientDisconnect:
            pass  # nobody is there to read why
        except Exception as error:
            log("bug", level=40, error=error, id=exchange.id)
            if not exchange.status:
                answer = JSONResponse(problems.body("internal", f"{problems.CODES['internal'][1]}: {exchange.id}"), 500)
                await answer(scope, exchange.receive, exchange.send)
        finally:
            self._note(scope, exchange, time.monotonic() - started)

    def _note(self, scope: Scope, exchange: _Exchange, seconds: float) -> None:
        status, route = exchange.status or _GONE, _route(self._router, scope)
        self._numbers.requests.labels(route, str(status)).inc()
        self._numbers.seconds.labels(route).observe(seconds)
        log(
            "request", id=exchange.id, method=scope["method"][:16], path=scope["path"][:200], status=status,
            ms=round(seconds * 1000, 1), images=scope["state"]["images"],
        )  # fmt: skip


class _Exchange:
    """One request and its answer. Knows whether the body was read, and reads more of it before refusing.

    A client that is still sending when the connection closes may never see the answer. So the rest of a refused body
    is discarded, for at most two seconds and four times the bytes a request may have. If the body goes on after that,
    the connection stays open for another second after the answer, so that the client can read it and leave.
    """

    def __init__(self, scope: Scope, receive: Receive, send: Send, most: int) -> None:
        self._receive, self._send, self._most = receive, send, most
        headers = Headers(scope=scope)
        own = headers.get("x-request-id", "")
        self.id = own if _OWN_ID.fullmatch(own) else uuid.uuid4().hex
        self.status = 0
        self._unread = headers.get("content-length", "0") != "0" or "transfer-encoding" in headers
        self._asked_first = "expect" in headers  # the client awaits 100 Continue; it gets the refusal instead

    async def receive(self) -> Message:
        """ASGI: the next part of the body."""
        message = await self._receive()
        self._asked_first = False
        if message["type"] == "http.disconnect" or not message.get("more_body", False):
            self._unread = False
        return message

    async def send(self, message: MutableMapping[str, Any]) -> None:
        """ASGI: a part of the answer."""
        if message["type"] == "http.response.start":
            self.status = message["status"]
            message = {**message, "headers": list(message["headers"])}  # a copy: one response may answer many requests
            headers = MutableHeaders(scope=message)
            headers["X-Request-ID"] = self.id
            for name, value in HEADERS.items():
                headers.setdefault(name, value)
            if self._unread:
                await self._drain()
            if self._unread:
                headers["Connection"] = "close"
        elif self._unread and not message.get("more_body", False):
            await self._send({**message, "more_body": True})
            await self._drain(_LINGER_SECONDS)
            message = {"type": "http.response.body", "body": b"", "more_body": False}
        await self._send(message)

    async def _drain(self, seconds: float = _DRAIN_SECONDS) -> None:
        left = 4 * self._most
        if self._asked_first:
            return
        try:
            async with asyncio.timeout(seconds):
                while self._unread and left > 0:
                    left -= len((await self.receive()).get("body", b""))
        except TimeoutError:
            return


def _header_bytes(scope: Scope) -> int:
    """The bytes of the target and all headers; h11 limits them only if they arrive in several pieces."""
    target = len(scope.get("raw_path", b"")) + len(scope.get("query_string", b""))
    return target + sum(len(name) + len(value) for name, value in scope["headers"])


def _route(router: Router, scope: Scope) -> str:
    """The path of the matching route, so that clients cannot make up metric labels."""
    for route in router.routes:
        if route.matches(scope)[0] is not Match.NONE:
            return str(getattr(route, "path", "other"))
    return "other"
