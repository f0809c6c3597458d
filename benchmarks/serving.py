"""A server under load and under attack.

python benchmarks/serving.py BUNDLE IMAGES [--clients 32] [--seconds 60] [--batch 16] [--hostile 500] [--seed 0]

Each client sends one photo per request and waits for the answer: for half of `--seconds` the server captions one by one
(`--batch 1`), for all of them in batches, then for the other half one by one again, so that other load affects both.
Every answer is compared with `showtell caption`'s. Then come hostile requests: each must be refused with its documented
status and code, and a good request after it must be served.
"""

from __future__ import annotations

import argparse
import asyncio
import base64
import contextlib
import functools
import io
import json
import os
import random
import re
import statistics
import struct
import subprocess
import sys
import threading
import time
import zlib
from collections import Counter
from collections.abc import Iterator
from dataclasses import dataclass, field
from pathlib import Path

from PIL import Image

from showtell.images import find_images

TOKEN = "open-sesame"
BOUNDARY = "showtell-benchmark"
SHOWTELL = [sys.executable, "-m", "showtell"]


@dataclass
class Server:
    """A server in its own process, and the errors in its log."""

    process: subprocess.Popen[str]
    port: int = 0
    bugs: list[str] = field(default_factory=list)

    @property
    def resident(self) -> float:
        """The process's resident memory in MiB."""
        text = Path(f"/proc/{self.process.pid}/status").read_text()
        return int(re.search(r"VmRSS:\s+(\d+)", text)[1]) / 1024  # type: ignore[index]


@contextlib.contextmanager
def running(bundle: str, *options: str, token: str = "") -> Iterator[Server]:
    command = [*SHOWTELL, "serve", bundle, "--port", "0", *options]
    environment = {**os.environ, **({"SHOWTELL_TOKEN": token} if token else {})}
    server = Server(subprocess.Popen(command, stderr=subprocess.PIPE, text=True, env=environment))
    listening = threading.Event()

    def read_log() -> None:
        for line in server.process.stderr or ():
            try:
                event = json.loads(line)
            except ValueError:
                event = {"event": "bug", "line": line}
            if event["event"] == "listening":
                server.port = int(event["url"].rstrip("/").rsplit(":", 1)[1])
                listening.set()
            elif event["level"] == "error" if "level" in event else True:
                server.bugs.append(line)

    threading.Thread(target=read_log, daemon=True).start()
    try:
        assert listening.wait(120), server.bugs
        asyncio.run(ready(server.port))
        yield server
    finally:
        server.process.terminate()
        code = server.process.wait(120)
    assert code == 0, f"exit code {code} after SIGTERM"


async def ready(port: int) -> None:
    for _ in range(600):
        status, _ = await talk(port, request("GET", "/readyz"))
        if status == 200:
            return
        await asyncio.sleep(0.2)
    raise SystemExit("the server does not get ready")


# Requests as bytes: a well-behaved client would not send hostile ones.


def request(method: str, path: str, body: bytes = b"", **headers: str) -> bytes:
    lines = {"host": "localhost", "connection": "close", **{k.replace("_", "-"): v for k, v in headers.items()}}
    if body or method == "POST":
        lines.setdefault("content-length", str(len(body)))
    head = "".join(f"{name}: {value}\r\n" for name, value in lines.items())
    return f"{method} {path} HTTP/1.1\r\n{head}\r\n".encode("latin-1") + body


def form(*parts: tuple[str, str, bytes]) -> bytes:
    """A multipart body of parts (field, filename or "", content)."""
    out = b""
    for name, filename, content in parts:
        file = f'; filename="{filename}"' if filename else ""
        out += (
            f'--{BOUNDARY}\r\nContent-Disposition: form-data; name="{name}"{file}\r\n\r\n'.encode() + content + b"\r\n"
        )
    return out + f"--{BOUNDARY}--\r\n".encode()


def post(body: bytes, kind: str = f"multipart/form-data; boundary={BOUNDARY}", **headers: str) -> bytes:
    return request(
        "POST", "/v1/captions", body, **{"content_type": kind, "authorization": f"Bearer {TOKEN}", **headers}
    )


def post_json(value: object) -> bytes:
    return post(json.dumps(value).encode(), "application/json")


async def talk(port: int, data: bytes, *, drip: float = 0.0) -> tuple[int, dict[str, object]]:
    """Status and JSON of the answer to `data`; with `drip`, one more byte follows every `drip` seconds."""
    reader, writer = await asyncio.open_connection("127.0.0.1", port)
    try:
        with contextlib.suppress(ConnectionError):  # refused while we were still sending: the answer is there
            writer.write(data)
            await writer.drain()
        dripping = asyncio.create_task(_drip(writer, drip)) if drip else None
        answer = await asyncio.wait_for(reader.read(), 120)
        if dripping is not None:
            dripping.cancel()
    finally:
        writer.close()
    head, _, body = answer.partition(b"\r\n\r\n")
    status = int(head.split(b" ", 2)[1]) if head.startswith(b"HTTP/") else 0
    try:
        return status, json.loads(body)
    except ValueError:
        return status, {}


async def _drip(writer: asyncio.StreamWriter, pause: float) -> None:
    with contextlib.suppress(ConnectionError):
        while True:
            writer.write(b"x")
            await writer.drain()
            await asyncio.sleep(pause)


# Load


@dataclass
class Load:
    seconds: float
    times: list[float] = field(default_factory=list)
    errors: Counter[str] = field(default_factory=Counter)
    wrong: int = 0
    memory: list[float] = field(default_factory=list)

    @property
    def rate(self) -> float:
        return len(self.times) / self.seconds


async def put_under_load(
    server: Server, photos: list[Path], expected: dict[str, str], clients: int, seconds: float, seed: int
) -> Load:
    load, began = Load(seconds), time.monotonic()
    bodies = {str(path): post(form(("images", path.name, path.read_bytes()))) for path in photos}

    async def client(number: int) -> None:
        rng = random.Random(f"{seed}/{number}")
        while time.monotonic() - began < seconds:
            name, started = rng.choice(list(bodies)), time.monotonic()
            try:
                status, answer = await talk(server.port, bodies[name])
            except (OSError, TimeoutError) as error:
                load.errors[type(error).__name__] += 1
                continue
            if status != 200:
                load.errors[f"{status}"] += 1
                continue
            if time.monotonic() - began <= seconds:
                load.times.append(time.monotonic() - started)
            load.wrong += answer["results"][0]["captions"][0]["text"] != expected[name]  # type: ignore[index]

    async def watch() -> None:
        while time.monotonic() - began < seconds:
            load.memory.append(server.resident)
            await asyncio.sleep(1)

    await asyncio.gather(watch(), *(client(i) for i in range(clients)))
    return load


def command_line(bundle: str, photos: list[Path]) -> dict[str, str]:
    command = [*SHOWTELL, "caption", bundle, *map(str, photos), "--format", "jsonl"]
    out = subprocess.run(command, check=True, capture_output=True, text=True).stdout
    return {line["image"]: line["caption"] for line in map(json.loads, out.splitlines())}


# Hostile requests: bytes to send, the statuses and codes expected, seconds between dripped bytes.

Attack = tuple[bytes, str, float]


@functools.cache
def png_bomb(width: int, height: int) -> bytes:
    """A complete PNG of black pixels, tiny until it is decoded."""

    def chunk(kind: bytes, data: bytes) -> bytes:
        return struct.pack(">I", len(data)) + kind + data + struct.pack(">I", zlib.crc32(kind + data))

    head = chunk(b"IHDR", struct.pack(">IIBBBBB", width, height, 1, 0, 0, 0, 0))
    pixels = chunk(b"IDAT", zlib.compress(b"\0" * (1 + width // 8) * height))
    return b"\x89PNG\r\n\x1a\n" + head + pixels + chunk(b"IEND", b"")


URLS = (
    "http://127.0.0.1/", "http://localhost/a.jpg", "http://[::1]/", "http://169.254.169.254/latest/meta-data/",
    "http://10.0.0.1/", "http://192.168.1.1/", "http://172.16.3.4/", "http://0.0.0.0/", "http://0/",
    "http://2130706433/", "http://0x7f000001/", "http://127.1/", "http://[::ffff:127.0.0.1]/", "http://[fe80::1]/",
    "http://[fd00::1]/", "http://[64:ff9b::7f00:1]/", "http://[2002:7f00:1::]/", "http://224.0.0.1/",
    "http://100.64.0.1/", "file:///etc/passwd", "ftp://127.0.0.1/a", "gopher://127.0.0.1:6379/_", "//127.0.0.1/a",
    "http://user:secret@127.0.0.1/", "http://127.0.0.1:22/", "http://localhost.:80/", "http://a b/", "http://",
    "javascript:alert(1)", "data:image/png;base64,AAAA", "http://metadata.invalid/", "http://127.0.0.1\r\nX: y/",
)  # fmt: skip
PATHS = (
    "/../../etc/passwd", "/%2e%2e/%2e%2e/etc/passwd", "/..%2f..%2fetc%2fpasswd", "/page/index.html", "//etc/passwd",
    "/v1/captions/../../..", "/v1/captions/", "/config.json", "/.git/config", "/%00", "/\xff", "/docs/../app.py",
    "/v1/captions%20", "/admin?x=" + "a" * 900,
)  # fmt: skip


def attacks(rng: random.Random, photo: bytes) -> list[tuple[str, Attack]]:
    """One attack of each kind, with details drawn at random."""
    bomb = png_bomb(20_000, 20_000)
    cut = photo[: rng.randrange(20, len(photo) * 3 // 4)]
    noise = rng.randbytes(rng.randrange(1, 5000))
    image = ("images", "a.jpg", photo)
    b64 = base64.b64encode(photo).decode()
    nasty = rng.choice(["../../etc/passwd", "C:\\windows\\x", "a\0b", "<script>", "x" * 1500, "‮gpj.exe"])
    option = rng.choice(["n=0", "n=11", "n=x", "n=1e9", "beam=0", "beam=999", "n=5&beam=2", "attention=maybe", "m=1"])
    word = rng.choice(
        [
            "xyzzy" * 3,
            "x" * rng.randrange(101, 9000),
            "",
            " ",
            "<end>",
            "a\0b",
            "\ud7ff",
            "|",
            "'; DROP TABLE",
            "%n" * 30,
        ]
    )
    wish = rng.choice([{"with": ["a", word]}, {"without": [word] * rng.randrange(1, 4000)}, {"with": ["a"] * 5}, {"with": word}, {"begins": word + "xyzzy"},
                       {"without": ["|".join("abcdefgh" * 6)]}, {"min_length": 9, "max_length": 3}, {"max_length": 1e9}, {"length_penalty": 1e308},
                       {"diverse": True}, {"n": 2, "diverse": True, "with": ["a"]}, {"temperature": 1}, {"sample": True, "temperature": 1e-40},
                       {"sample": True, "beam": 2}, {"sample": True, "seed": -1}, {"sample": True, "top_p": 0}, {"with": [["a"]]}, {"with": {"a": 1}}])  # fmt: skip
    no_token = rng.choice(
        ["", "Bearer", "Bearer wrong", f"Basic {TOKEN}", f"Bearer {TOKEN}x", f"Bearer {TOKEN[:-1]}", "\xe9"]
    )
    shape = rng.choice([[], {}, {"images": []}, {"images": "a"}, {"images": [7]}, {"images": [{}]}, {"images": [None]},
                        {"images": [{"data": b64, "url": "http://a/"}]}, {"images": [{"path": "/etc/passwd"}]}, 7, None])  # fmt: skip
    bad_json = rng.choice([b"", b"{", b"\xff\xfe", b'{"images": [', b"9" * 5000, b"nul", b'{"images": ["a"],}'])
    wide = rng.randrange(9000, 60000)
    return [
        ("not HTTP", (rng.choice([b"\x16\x03\x01\x02\x00" + noise + b"\r\n\r\n", b"HELLO\r\n\r\n"]), "400 malformed", 0)),
        ("bad length", (request("POST", "/v1/captions", content_length=rng.choice(["-1", "x", "1e3"])), "400 malformed", 0)),
        ("huge headers", (request("GET", "/", x="a" * rng.randrange(20_000, 200_000)), "431 headers_too_large", 0)),
        ("huge path", (request("GET", "/" + "a" * rng.randrange(70_000, 200_000)), "431 headers_too_large", 0)),
        ("path", (request("GET", rng.choice(PATHS)), "404 not_found|400 malformed", 0)),
        ("method", (request(rng.choice(["PUT", "DELETE", "PATCH", "GET"]), "/v1/captions"), "405 wrong_method", 0)),
        ("token", (post(form(image), authorization=no_token), "401 bad_token", 0)),
        ("type", (post(noise, rng.choice(["text/plain", "image/jpeg", "application/xml", "x", "application/x-www-form-urlencoded"])), "415 wrong_type", 0)),
        ("no JSON", (post(bad_json, "application/json"), "400 malformed", 0)),
        ("JSON's shape", (post_json(shape), "400 malformed", 0)),
        ("deep JSON", (post(rng.choice([b"[", b'{"images":']) * rng.randrange(2000, 300_000), "application/json"), "400 malformed", 0)),
        ("wide JSON", (post(b'{"images": [' + b"1," * 1_500_000 + b"1]}", "application/json"), "400 malformed", 0)),
        ("long JSON", (post(b'{"images": ["' + b"A" * 5_000_000 + b'"]}', "application/json"), "413 too_large", 0)),
        ("no base64", (post_json({"images": [rng.choice(["***", "a", "é", "data:,"])]}), "422 bad_image", 0)),
        ("option", (request("POST", f"/v1/captions?{option}", form(image), content_type=f"multipart/form-data; boundary={BOUNDARY}", authorization=f"Bearer {TOKEN}"), "422 wrong_option", 0)),
        ("wish", (post_json({"images": [b64], **wish}), "422 wrong_option", 0)),
        ("no image", (post(form(("images", "a.jpg", noise))), "422 bad_image", 0)),
        ("truncated", (post(form(("images", "a.jpg", cut))), "422 bad_image", 0)),
        ("name", (post(form(("images", nasty, cut))), "422 bad_image|400 malformed", 0)),
        ("bomb by header", (post(form(("images", "a.png", bomb[:16] + struct.pack(">II", wide, wide) + bomb[24:]))), "422 bad_image", 0)),
        ("bomb by content", (post(form(("images", "a.png", bomb))), "422 bad_image", 0)),
        ("large image", (post(form(("images", "a.jpg", photo + b"\0" * 1_100_000))), "413 too_large", 0)),
        ("large request", (post(form(image) + b"\0" * 4_500_000), "413 too_large", 0)),
        ("many images", (post(form(*[image] * rng.randrange(5, 60))), "413 too_many_images", 0)),
        ("many fields", (post(form(*[("x" * rng.randrange(1, 50), "", b"1")] * 3000)), "422 wrong_option", 0)),
        ("cut form", (post(form(image)[: -rng.randrange(len(BOUNDARY), 2000)]), "400 malformed", 0)),
        ("no boundary", (post(form(image), "multipart/form-data"), "400 malformed", 0)),
        ("part's headers", (post(f"--{BOUNDARY}\r\nX: {'a' * 9000}\r\n\r\n".encode()), "400 malformed", 0)),
        ("URL", (post_json({"images": [{"url": rng.choice(URLS)}]}), "422 url_refused", 0)),
        ("slow body", (post(form(image), content_length=str(10**6))[:-200], "408 slow_body", 0.3)),
        ("slow headers", (b"GET / HTTP/1.1\r\nHost: ", "408 slow_body", 0.5)),
    ]  # fmt: skip


async def attack(port: int, photo: Path, caption: str, count: int, seed: int) -> tuple[Counter[str], list[str]]:
    """How many attacks were refused as documented, by kind, and what went wrong."""
    rng, content = random.Random(seed), photo.read_bytes()
    kinds = [kind for kind, _ in attacks(rng, content)]
    order = [kinds[i % len(kinds)] for i in range(count)]
    rng.shuffle(order)
    refused: Counter[str] = Counter()
    wrong: list[str] = []
    gate = asyncio.Semaphore(8)

    async def one(kind: str, seed: str) -> None:
        async with gate:
            data, right, drip = await asyncio.to_thread(lambda: dict(attacks(random.Random(seed), content))[kind])
            try:
                status, answer = await talk(port, data, drip=drip)
                found = f"{status} {answer.get('error', {}).get('code')}"  # type: ignore[attr-defined]
            except (OSError, TimeoutError) as error:
                found = type(error).__name__
            status, answer = await talk(port, post(form(("images", "good.jpg", content))))
        if found in right.split("|"):
            refused[kind] += 1
        else:
            wrong.append(f"{kind}: {found}, expected {right}: {data[:200]!r}")
        if status != 200 or answer["results"][0]["captions"][0]["text"] != caption:  # type: ignore[index]
            wrong.append(f"after {kind}: the good request got {status}")

    await asyncio.gather(*(one(kind, f"{seed}/{i}") for i, kind in enumerate(order)))
    return refused, wrong


def main() -> None:
    parser = argparse.ArgumentParser(description=(__doc__ or "").splitlines()[0])
    parser.add_argument("bundle")
    parser.add_argument("images")
    for name, value in (("clients", 32), ("seconds", 60), ("batch", 16), ("hostile", 500), ("seed", 0), ("photos", 64)):
        parser.add_argument(f"--{name}", type=int, default=value)
    given = parser.parse_args()
    found = list(find_images([given.images]))
    photos = found[:: max(1, len(found) // given.photos)][: given.photos]
    expected = command_line(given.bundle, photos)
    result: dict[str, object] = {**vars(given), "bundle": Path(given.bundle).name, "images": len(photos)}

    def run(batch: int, seconds: float) -> Load:
        with running(given.bundle, "--batch", str(batch), "--timeout", "120") as server:
            load = asyncio.run(put_under_load(server, photos, expected, given.clients, seconds, given.seed))
        load.errors["logged"] += len(server.bugs)
        print_load(f"batches of {batch}", load)
        return load

    if given.seconds:
        print(f"{given.clients} clients, {len(photos)} photos, {os.cpu_count()} cores, load {os.getloadavg()[0]:.1f}")
        single = [run(1, given.seconds / 2)]
        batched = run(given.batch, given.seconds)
        single.append(run(1, given.seconds / 2))
        alone = statistics.mean(load.rate for load in single)
        print(f"batching: {batched.rate / alone:.2f} × the throughput of one by one")
        loads = [*single, batched]
        result |= {
            "one_by_one_per_s": alone, "batched_per_s": batched.rate, "ratio": batched.rate / alone,
            "errors": sum(sum(load.errors.values()) for load in loads), "wrong": sum(load.wrong for load in loads),
            "answers": sum(len(load.times) for load in loads),
            "rss_start_mib": batched.memory[0], "rss_middle_mib": batched.memory[len(batched.memory) // 2],
            "rss_end_mib": batched.memory[-1],
        }  # fmt: skip
    if given.hostile:
        options = [
            "--allow-urls",
            "--max-image-mb",
            "1",
            "--max-request-mb",
            "4",
            "--max-images",
            "4",
            "--body-timeout",
            "2",
        ]
        small = make_photo(photos[0])
        caption = command_line(given.bundle, [small])[str(small)]
        with running(given.bundle, *options, token=TOKEN) as server:
            before = server.resident
            refused, wrong = asyncio.run(attack(server.port, small, caption, given.hostile, given.seed))
            after = server.resident
        wrong += server.bugs
        for kind, count in sorted(refused.items()):
            print(f"  {kind:18s} {count:4d} refused")
        print("\n".join(wrong[:20]))
        print(
            f"{sum(refused.values())} of {given.hostile} refused as documented; memory {before:.0f} -> {after:.0f} MiB"
        )
        result |= {
            "refused": sum(refused.values()),
            "not_as_documented": len(wrong),
            "hostile_rss_mib": [before, after],
        }
    print(json.dumps(result))


def make_photo(source: Path) -> Path:
    """A small JPEG of one of the photos, for the good requests."""
    import tempfile

    path = Path(tempfile.mkdtemp()) / "good.jpg"
    with Image.open(source) as image, io.BytesIO() as buffer:
        image.convert("RGB").resize((128, 128)).save(buffer, "JPEG")
        path.write_bytes(buffer.getvalue())
    return path


def print_load(name: str, load: Load) -> None:
    times = sorted(load.times) or [float("nan")]
    print(
        f"{name:16s} {load.rate:7.2f} photos/s   median {statistics.median(times):6.2f} s   "
        f"99 % {times[int(len(times) * 0.99)]:6.2f} s   errors {sum(load.errors.values())}   not the command line's "
        f"{load.wrong}   memory {load.memory[0]:.0f} -> {load.memory[-1]:.0f} MiB",
        flush=True,
    )


if __name__ == "__main__":
    main()
