"""`showtell serve` as a process, for tests that ask it."""

from __future__ import annotations

import contextlib
import json
import signal
import socket
import subprocess
import sys
import threading
import time
import urllib.request
from pathlib import Path
from typing import Any


class Running:
    """`showtell serve` as a process."""

    def __init__(self, folder: Path, *options: str, code: str = "") -> None:
        program = ["-c", f"{code}\nfrom showtell.cli import main; main()"] if code else ["-m", "showtell"]
        command = [sys.executable, *program, "serve", str(folder), "--port", "0", *options]
        self.process = subprocess.Popen(command, stderr=subprocess.PIPE, text=True)
        self.lines: list[str] = []
        self.port = 0
        for line in self.process.stderr or ():
            self.lines.append(line)
            if '"listening"' in line:
                self.port = int(json.loads(line)["url"].rstrip("/").rsplit(":", 1)[1])
                break
        assert self.port, self.lines
        self.reader = threading.Thread(target=lambda: self.lines.extend(self.process.stderr or ()), daemon=True)
        self.reader.start()
        self.wait_until_ready()

    def wait_until_ready(self) -> None:
        for _ in range(600):
            with contextlib.suppress(OSError):
                urllib.request.urlopen(self.url("/readyz"))
                return
            time.sleep(0.1)
        raise AssertionError(self.lines)

    def url(self, path: str) -> str:
        return f"http://127.0.0.1:{self.port}{path}"

    def post(self, content: bytes) -> Any:
        body, kind = form(content)
        request = urllib.request.Request(self.url("/v1/captions"), body, {"Content-Type": kind})
        return json.load(urllib.request.urlopen(request))

    def connect(self) -> socket.socket:
        return socket.create_connection(("127.0.0.1", self.port), timeout=60)

    def stop(self, which: signal.Signals = signal.SIGTERM) -> int:
        self.process.send_signal(which)
        code = self.process.wait(60)
        self.reader.join(10)
        return code


def form(content: bytes) -> tuple[bytes, str]:
    head = b'--b\r\nContent-Disposition: form-data; name="images"; filename="a.png"\r\n\r\n'
    return head + content + b"\r\n--b--\r\n", "multipart/form-data; boundary=b"
