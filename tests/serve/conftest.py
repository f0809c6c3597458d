"""A running server around any engine, in a thread of the test's process."""

from __future__ import annotations

import contextlib
import socket
import threading
import time
from collections.abc import Callable, Iterator
from typing import Any

import pytest

from showtell.captioner import Captioner
from showtell.captioning import Engine


@contextlib.contextmanager
def _serving(engine: Engine, **settings: Any) -> Iterator[str]:
    import uvicorn

    from showtell.serve.app import Settings, build_app
    from showtell.serve.run import _config

    chosen = Settings(**settings)
    app = build_app(Captioner(engine), chosen)
    server = uvicorn.Server(_config(app, chosen.limits))
    listener = socket.create_server(("127.0.0.1", 0))
    thread = threading.Thread(target=server.run, args=([listener],), daemon=True)
    thread.start()
    deadline = time.monotonic() + 30
    while not app.state.service.ready:
        assert time.monotonic() < deadline, "the server does not start"
        time.sleep(0.01)
    try:
        yield f"http://127.0.0.1:{listener.getsockname()[1]}"
    finally:
        server.should_exit = True
        thread.join(30)
        assert not thread.is_alive()


@pytest.fixture(scope="session")
def serving() -> Callable[..., Any]:
    """`with serving(engine, **settings) as url`"""
    pytest.importorskip("uvicorn", reason="needs the extra 'serve'")
    return _serving
