"""The real process: signals, slow clients, what it imports, and the container's recipe."""

from __future__ import annotations

import contextlib
import io
import json
import re
import shlex
import signal
import socket
import subprocess
import sys
import threading
import time
import tomllib
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
from PIL import Image
from serve_process import Running, form
from typer.testing import CliRunner

from showtell.cli import app

pytest.importorskip("uvicorn", reason="needs the extra 'serve'")

ROOT = Path(__file__).parent.parent.parent
RUNTIME = ROOT / "requirements-runtime.txt"


def photo() -> bytes:
    buffer = io.BytesIO()
    Image.linear_gradient("L").save(buffer, "PNG")
    return buffer.getvalue()


def started_post(length: int) -> bytes:
    return (
        f"POST /v1/captions HTTP/1.1\r\nHost: x\r\nContent-Type: multipart/form-data; boundary=b\r\n"
        f"Content-Length: {length}\r\n\r\n"
    ).encode()


def read_all(connection: socket.socket) -> bytes:
    parts = []
    while part := connection.recv(65536):
        parts.append(part)
    return b"".join(parts)


@pytest.fixture
def running(tiny_bundle: Path) -> Iterator[Running]:
    running = Running(tiny_bundle, "--body-timeout", "1.5")
    yield running
    if running.process.poll() is None:
        running.process.kill()
        running.process.wait()


def dribble(connection: socket.socket) -> None:
    """A byte at a time, until the other side has had enough."""
    with contextlib.suppress(OSError):
        while True:
            connection.sendall(b"a")
            time.sleep(0.02)


@pytest.mark.slow
def test_the_command_lines_caption_slow_clients_and_a_graceful_end(running: Running, tiny_bundle: Path) -> None:
    from showtell.captioner import Captioner

    content = photo()
    said = running.post(content)
    assert said["results"][0]["captions"][0]["text"] == Captioner.load(tiny_bundle).caption(content)[0].text
    assert re.fullmatch(r"[0-9a-f]{12}", said["model"]["digest"])

    for data, status, code in (
        (started_post(9999) + b"--b\r\n", 408, "slow_body"),
        (b"\x16\x03\x01\x00\xee nonsense\r\n\r\n", 400, "malformed"),
        (b"GET / HTTP/1.1\r\nX: " + b"a" * 50_000, 431, "headers_too_large"),
        (b"GET /" + b"a" * 50_000 + b" HTTP/1.1\r\nHost: x\r\n\r\n", 431, "headers_too_large"),
        (started_post(200_000_000), 413, "too_large"),
    ):
        with running.connect() as connection:
            connection.sendall(data)
            answer = read_all(connection) if status != 413 else connection.recv(65536)
            assert answer.startswith(f"HTTP/1.1 {status} ".encode()), answer
            if status != 413:
                assert json.loads(answer.partition(b"\r\n\r\n")[2])["error"]["code"] == code
    with running.connect() as connection:  # who goes on sending is told all the same
        connection.sendall(started_post(9999) + b"--b\r\n")
        sender = threading.Thread(target=dribble, args=(connection,), daemon=True)
        sender.start()
        assert connection.recv(65536).startswith(b"HTTP/1.1 408 ")
    sender.join(10)
    assert running.post(content) == said

    body, _ = form(content)
    with running.connect() as connection:  # a request that has begun is finished
        connection.sendall(started_post(len(body)) + body[:100])
        time.sleep(0.2)
        running.process.send_signal(signal.SIGTERM)
        time.sleep(0.3)
        with pytest.raises(OSError, match="refused"):
            running.connect()
        connection.sendall(body[100:])
        answer = read_all(connection)
    assert answer.startswith(b"HTTP/1.1 200 ")
    assert json.loads(answer.partition(b"\r\n\r\n")[2]) == said
    assert running.process.wait(30) == 0
    running.reader.join(10)
    assert '"stopped"' in running.lines[-1]
    assert all(json.loads(line)["event"] != "bug" for line in running.lines)


@pytest.mark.slow
def test_an_exported_folder_is_served_with_the_few_requirements(tiny_bundle: Path, tmp_path: Path) -> None:
    from showtell.export import export_onnx

    folder = export_onnx(tiny_bundle, tmp_path / "onnx")
    needed = set(re.findall(r"^([\w-]+)", RUNTIME.read_text(encoding="utf-8"), re.M))
    code = (
        "import atexit, importlib.metadata as m, sys; before = set(sys.modules)\n"
        "for name in ('torch', 'torchvision', 'timm', 'tokenizers', 'onnx', 'safetensors'): sys.modules[name] = None\n"
        "def tell():\n"
        "    known = m.packages_distributions()\n"
        "    found = {n.lower().replace(chr(95), chr(45)) for name in set(sys.modules) - before for n in known.get(name, ())"
        " if sys.modules[name] is not None}\n"
        "    print('DISTRIBUTIONS', ' '.join(sorted(found)), file=sys.stderr)\n"
        "atexit.register(tell)"
    )
    running = Running(folder, code=code)
    assert running.post(photo())["results"][0]["captions"]
    assert running.stop(signal.SIGINT) == 130
    said = next(line for line in running.lines if line.startswith("DISTRIBUTIONS"))
    imported = set(said.split()[1:]) - {"showtell"}
    assert needed <= imported, "a requirement that nothing imports"
    assert imported <= needed | dependencies(needed), "an import that no requirement brings"


def dependencies(names: set[str]) -> set[str]:
    """What the named distributions require, and so on."""
    from importlib.metadata import PackageNotFoundError, requires

    found: set[str] = set()
    waiting = list(names)
    while waiting:
        try:
            wanted = requires(waiting.pop()) or []
        except PackageNotFoundError:
            continue
        for line in wanted:
            name = re.match(r"[\w.-]+", line)[0].lower().replace("_", "-")  # type: ignore[index]
            if "extra ==" not in line and name not in found:
                found.add(name)
                waiting.append(name)
    return found


def test_requirements_say_what_the_project_says() -> None:
    project = tomllib.loads((ROOT / "pyproject.toml").read_text(encoding="utf-8"))["project"]
    known = {*project["dependencies"], *(r for extra in project["optional-dependencies"].values() for r in extra)}
    lines = [line for line in RUNTIME.read_text(encoding="utf-8").splitlines() if not line.startswith("#")]
    assert lines == sorted(lines)
    assert set(lines) <= known
    assert set(project["optional-dependencies"]["serve"]) <= set(lines)
    assert set(project["optional-dependencies"]["serve"]) <= set(project["optional-dependencies"]["dev"])


def test_the_container_file() -> None:
    text = (ROOT / "Containerfile").read_text(encoding="utf-8")
    steps = [line.split(" ", 1) for line in text.replace("\\\n", "").splitlines() if line and line[0] != "#"]
    known = {
        "ARG",
        "FROM",
        "WORKDIR",
        "COPY",
        "RUN",
        "ENV",
        "USER",
        "EXPOSE",
        "STOPSIGNAL",
        "HEALTHCHECK",
        "ENTRYPOINT",
        "CMD",
    }
    assert {step for step, _ in steps} <= known
    assert "torch" not in " ".join(rest for _, rest in steps)
    for step, rest in steps:
        if step == "COPY" and "--from" not in rest:
            assert all((ROOT / name).exists() for name in shlex.split(rest)[:-1]), rest
    run = dict(steps)
    assert int(run["USER"].split(":")[0]) > 0
    arguments = json.loads(run["ENTRYPOINT"]) + json.loads(run["CMD"])
    assert arguments[0] == "showtell"
    import typer

    group: Any = typer.main.get_command(app)
    command = group.commands[arguments[1]]
    assert command.make_context("serve", arguments[2:]).params["host"] == "0.0.0.0"
    health = json.loads(run["HEALTHCHECK"].removeprefix("CMD "))
    compile(health[2], "HEALTHCHECK", "exec")


@pytest.mark.slow
def test_a_model_that_does_not_run_is_no_success(tiny_bundle: Path) -> None:
    program = (
        "import sys\n"
        "from showtell.captioner import Captioner\n"
        "from showtell.cli import main\n"
        "def fail(*_): raise MemoryError('no room for it')\n"
        "Captioner.caption_seen = fail\n"
        f"sys.argv[1:] = ['serve', {str(tiny_bundle)!r}, '--port', '0']\n"
        "main()\n"
    )
    done = subprocess.run([sys.executable, "-c", program], capture_output=True, text=True)
    assert done.returncode == 2, done.stderr
    assert "does not run here: MemoryError: no room for it" in done.stderr.splitlines()[-1]


def test_wrong_input_is_one_sentence(tmp_path: Path, tiny_bundle: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    run = CliRunner().invoke
    missing = run(app, ["serve", str(tmp_path)])
    assert (missing.exit_code, "has no config.json" in missing.stderr) == (2, True)
    for arguments, part in ((["--token", ""], "token"), (["--max-images", "9", "--queue", "4"], "--queue 4"),
                            (["--max-image-mb", "99"], "--max-request-mb 64"), (["--timeout", "0"], "answer_seconds"),
                            (["--host", "no.such.host.invalid"], "cannot listen")):  # fmt: skip
        result = run(app, ["serve", str(tiny_bundle), *arguments])
        assert result.exit_code == 2
        assert part in result.stderr.splitlines()[-1]
    monkeypatch.setenv("SHOWTELL_TOKEN", "")
    assert "SHOWTELL_TOKEN" in run(app, ["serve", str(tiny_bundle)]).stderr
    monkeypatch.delenv("SHOWTELL_TOKEN")
    with socket.create_server(("127.0.0.1", 0)) as taken:
        port = str(taken.getsockname()[1])
        result = run(app, ["serve", str(tiny_bundle), "--port", port])
    assert (result.exit_code, "in use" in result.stderr) == (2, True)


def test_a_missing_extra_says_what_installs_it(tiny_bundle: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    for name in [name for name in sys.modules if name.startswith("showtell.serve.")]:
        monkeypatch.delitem(sys.modules, name)
    monkeypatch.setitem(sys.modules, "fastapi", None)
    result = CliRunner().invoke(app, ["serve", str(tiny_bundle)])
    assert result.exit_code == 2
    assert "pip install 'showtell[serve]'" in result.stderr
