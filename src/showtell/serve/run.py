"""The process around the application: sockets, signals, and connections that would not end by themselves."""

from __future__ import annotations

import asyncio
import contextlib
import hashlib
import json
import signal
import socket
import sys
from collections.abc import Iterator
from pathlib import Path
from types import FrameType
from typing import Any

import uvicorn
from fastapi import FastAPI
from uvicorn.protocols.http.h11_impl import H11Protocol

from showtell.captioner import Captioner
from showtell.errors import BundleError, DataError, first_line
from showtell.serve import problems
from showtell.serve.app import Service, Settings, build_app
from showtell.serve.limits import Limits
from showtell.serve.monitoring import log, log_to_stderr

_KEEP_ALIVE = 5  # seconds that an idle connection is kept
_LINGER = 1.0  # seconds from a refusal to the end of its connection
_STALLED = 30.0  # seconds that an answer may wait for a client that does not read it


def serve(captioner: Captioner, settings: Settings, *, host: str, port: int) -> None:
    """Serves until SIGTERM or Ctrl-C, then finishes the accepted requests; a second signal ends it at once.

    Raises `DataError` if it cannot listen, `BundleError` if the model does not run, `KeyboardInterrupt` after Ctrl-C.
    """
    log_to_stderr()
    listener = _listen(host, port)
    app = build_app(captioner, settings)
    server = _Server(_config(app, settings.limits), app.state.service)
    address, bound = listener.getsockname()[:2]
    shown = f"[{address}]" if ":" in address else address
    log("listening", url=f"http://{shown}:{bound}/", token=bool(settings.token), urls=settings.allow_urls)
    asyncio.run(server.serve(sockets=[listener]))
    log("stopped")
    if (failure := app.state.service.batcher.failure) is not None:
        raise BundleError(
            f"the captioner does not run here: {type(failure).__name__}: {first_line(failure)}; the log above says where; "
            "try it with  showtell caption"
        )
    if server.interrupted:
        raise KeyboardInterrupt("interrupted; what was accepted has been answered")


def digest_of(folder: Path) -> str:
    """Twelve hexadecimal digits that change when any file of a bundle or an exported folder does."""
    whole = hashlib.sha256()
    for path in sorted(path for path in folder.iterdir() if path.is_file()):
        with path.open("rb") as file:
            whole.update(path.name.encode() + hashlib.file_digest(file, "sha256").digest())
    return whole.hexdigest()[:12]


def _listen(host: str, port: int) -> socket.socket:
    try:
        family = socket.getaddrinfo(host, port, type=socket.SOCK_STREAM)[0][0]
        return socket.create_server((host, port), family=family, backlog=512)
    except (OSError, UnicodeError, OverflowError) as error:
        reason = (getattr(error, "strerror", None) or str(error)).lower()
        raise DataError(
            f"cannot listen on {host} port {port}: {reason}; choose others with --host and --port"
        ) from None


def _config(app: FastAPI, limits: Limits) -> uvicorn.Config:
    class Protocol(_Protocol):
        own_limits = limits

    return uvicorn.Config(
        app, http=Protocol, ws="none", lifespan="on", loop="asyncio", log_config=None, access_log=False,
        server_header=False, proxy_headers=False, timeout_keep_alive=_KEEP_ALIVE,
        timeout_graceful_shutdown=int(limits.body_seconds + limits.answer_seconds) + 5,
        h11_max_incomplete_event_size=limits.header_bytes,
    )  # fmt: skip


class _Server(uvicorn.Server):
    """uvicorn's server, but a signal that ended it is not raised again afterwards."""

    def __init__(self, config: uvicorn.Config, service: Service) -> None:
        super().__init__(config)
        self._service, self.interrupted = service, False

    @contextlib.contextmanager
    def capture_signals(self) -> Iterator[None]:
        """Handles SIGINT and SIGTERM while the server runs."""
        before = {which: signal.signal(which, self.handle_exit) for which in (signal.SIGINT, signal.SIGTERM)}
        try:
            yield
        finally:
            for which, handler in before.items():
                signal.signal(which, handler)

    def handle_exit(self, sig: int, frame: FrameType | None) -> None:
        """The first signal: accept no more and finish. The second: end now."""
        self.interrupted = self.interrupted or sig == signal.SIGINT
        self.force_exit = self.should_exit
        self._service.draining = self.should_exit = True


class _Protocol(H11Protocol):
    """uvicorn's connection, with timeouts for headers and for a client that does not read. What is not HTTP is
    refused in JSON, like everything else."""

    own_limits = Limits()
    _heading: asyncio.TimerHandle | None = None
    _stalling: asyncio.TimerHandle | None = None
    _refused = False

    def connection_made(self, transport: Any) -> None:
        """Starts to time the headers, or refuses a connection too many."""
        super().connection_made(transport)
        if len(self.connections) > self.own_limits.connections:
            self._refuse("busy", "too many connections; try again later")
        else:
            self._time_headers()

    def connection_lost(self, exc: Exception | None) -> None:
        """Stops the timers."""
        self._stop("_heading")
        self._stop("_stalling")
        super().connection_lost(exc)

    def data_received(self, data: bytes) -> None:
        """Limits how long headers take; the body has a limit of its own."""
        if self._refused:
            return
        super().data_received(data)
        if self._between_requests():
            self._time_headers()
        else:
            self._stop("_heading")

    def shutdown(self) -> None:
        """Closes the connection when the server ends."""
        if self._refused:
            self.transport.abort()
        else:
            super().shutdown()

    def pause_writing(self) -> None:
        """Starts to time a client that reads too slowly."""
        super().pause_writing()
        self._stalling = self.loop.call_later(_STALLED, self.transport.abort)

    def resume_writing(self) -> None:
        """Stops timing it: the client reads again."""
        super().resume_writing()
        self._stop("_stalling")

    def send_400_response(self, msg: str) -> None:
        """Refuses what uvicorn or h11 could not parse."""
        if getattr(sys.exception(), "error_status_hint", 400) == 431:
            self._refuse("headers_too_large", f"the headers have more than {self.own_limits.header_bytes:,} bytes")
        else:
            self._refuse("malformed", "that is no HTTP request")

    def _between_requests(self) -> bool:
        return self.cycle is None or (self.cycle.response_complete and self.conn.trailing_data[0] != b"")

    def _time_headers(self) -> None:
        if self._heading is None:
            self._heading = self.loop.call_later(self.own_limits.header_seconds, self._slow_headers)

    def _slow_headers(self) -> None:
        self._heading = None
        self._refuse("slow_body", f"the headers took more than {self.own_limits.header_seconds:g} s to arrive")

    def _stop(self, name: str) -> None:
        timer = getattr(self, name)
        if timer is not None:
            timer.cancel()
            setattr(self, name, None)

    def _refuse(self, code: str, message: str) -> None:
        """Answers outside the application and ends the connection, but only after the client has had time to read: one
        that is still sending would otherwise find the connection broken."""
        self._stop("_heading")
        status = problems.CODES[code][0]
        content = json.dumps(problems.body(code, message)).encode()
        lines = [
            f"HTTP/1.1 {status} ", "Content-Type: application/json", f"Content-Length: {len(content)}", "Connection: close",
            *(f"{name}: {value}" for name, value in problems.headers_of(status).items()),
        ]  # fmt: skip
        if not self.transport.is_closing() and not self._refused:
            self.transport.write("\r\n".join([*lines, "\r\n"]).encode() + content)
            if self.transport.can_write_eof():
                self.transport.write_eof()
            self.loop.call_later(_LINGER, self.transport.abort)
        self._refused = True
        log("refused", status=status, code=code)
