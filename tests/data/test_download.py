"""Downloads, against a server of our own."""

from __future__ import annotations

import io
import threading
import zipfile
from collections.abc import Iterator
from functools import partial
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path

import pytest

from showtell.data.download import Archive, download, get
from showtell.errors import DownloadError


def packed(names: dict[str, bytes]) -> bytes:
    stream = io.BytesIO()
    with zipfile.ZipFile(stream, "w") as archive:
        for name, content in names.items():
            archive.writestr(name, content)
    return stream.getvalue()


GOOD = packed({"set/a.txt": b"one" * 1000, "set/b.txt": b"two" * 1000})


class Handler(BaseHTTPRequestHandler):
    """Serves `files`; knows Range; `asked` keeps the ranges that were wanted."""

    def __init__(self, files: dict[str, bytes], asked: list[str], *rest: object) -> None:
        self.files, self.asked = files, asked
        super().__init__(*rest)  # type: ignore[arg-type]

    def do_GET(self) -> None:
        content = self.files.get(self.path)
        wanted = self.headers.get("Range", "")
        self.asked.append(wanted)
        if content is None:
            self.send_error(404)
            return
        start = int(wanted.removeprefix("bytes=").rstrip("-") or 0) if wanted else 0
        self.send_response(206 if wanted else 200)
        self.send_header("Content-Length", str(len(content) - start))
        self.end_headers()
        self.wfile.write(content[start:])

    def log_message(self, *_: object) -> None:
        pass


@pytest.fixture
def server() -> Iterator[tuple[str, dict[str, bytes], list[str]]]:
    files: dict[str, bytes] = {}
    asked: list[str] = []
    served = ThreadingHTTPServer(("127.0.0.1", 0), partial(Handler, files, asked))
    threading.Thread(target=served.serve_forever, daemon=True).start()
    yield f"http://127.0.0.1:{served.server_port}", files, asked
    served.shutdown()
    served.server_close()


Server = tuple[str, dict[str, bytes], list[str]]


def archive(url: str, *paths: str, at_least: int = 2) -> Archive:
    return Archive("set.zip", tuple(url + path for path in paths), ".txt", at_least)


def test_a_data_set_is_downloaded_and_unpacked(server: Server, tmp_path: Path) -> None:
    url, files, _ = server
    files["/set.zip"] = GOOD
    folder = get("toy", to=tmp_path / "toy", catalogue={"toy": [archive(url, "/set.zip")]})
    assert (folder / "set" / "a.txt").read_bytes() == b"one" * 1000
    assert [p.name for p in tmp_path.iterdir()] == ["toy"]


def test_an_interrupted_download_goes_on(server: Server, tmp_path: Path) -> None:
    url, files, asked = server
    files["/set.zip"] = GOOD
    (tmp_path / "set.zip.part").write_bytes(GOOD[:1234])
    assert download(archive(url, "/set.zip"), folder=tmp_path).read_bytes() == GOOD
    assert asked == ["bytes=1234-"]


def test_the_next_mirror_is_tried(server: Server, tmp_path: Path) -> None:
    url, files, _ = server
    files["/broken.zip"], files["/good.zip"] = GOOD[:2000], GOOD
    assert download(archive(url, "/none.zip", "/broken.zip", "/good.zip"), folder=tmp_path).read_bytes() == GOOD


def test_damage_is_noticed(server: Server, tmp_path: Path) -> None:
    url, files, _ = server
    files["/set.zip"] = GOOD.replace(b"oneone", b"onetwo", 1)
    with pytest.raises(DownloadError, match="damaged"):
        download(archive(url, "/set.zip"), folder=tmp_path)
    assert not list(tmp_path.iterdir())


def test_too_few_files_are_noticed(server: Server, tmp_path: Path) -> None:
    url, files, _ = server
    files["/set.zip"] = GOOD
    with pytest.raises(DownloadError, match="expected at least 3"):
        download(archive(url, "/set.zip", at_least=3), folder=tmp_path)


def test_nothing_is_written_outside(server: Server, tmp_path: Path) -> None:
    url, files, _ = server
    files["/set.zip"] = packed({"../../evil.txt": b"x", "good.txt": b"y"})
    with pytest.raises(DownloadError, match="outside"):
        get("toy", to=tmp_path / "in" / "toy", catalogue={"toy": [archive(url, "/set.zip")]})
    assert not (tmp_path / "evil.txt").exists()
    assert not (tmp_path / "in" / "toy").exists()


def test_archives_that_one_has_are_used(tmp_path: Path) -> None:
    (tmp_path / "set.zip").write_bytes(GOOD)
    folder = get("toy", to=tmp_path / "out", source=tmp_path, catalogue={"toy": [archive("http://127.0.0.1:9")]})
    assert (folder / "set" / "b.txt").is_file()


def test_wrong_names_and_full_folders_are_refused(tmp_path: Path) -> None:
    with pytest.raises(DownloadError, match="flickr8k"):
        get("flickr9k", to=tmp_path / "x")
    (tmp_path / "thesis.tex").touch()
    with pytest.raises(DownloadError, match="not an empty folder"):
        get("flickr8k", to=tmp_path)


def test_archives_that_were_there_stay(server: Server, tmp_path: Path) -> None:
    url, files, asked = server
    files["/set.zip"] = GOOD
    (tmp_path / "set.zip").write_bytes(GOOD)
    catalogue = {"set": (archive(url, "/set.zip"),)}
    for source in (tmp_path, None):
        get("set", to=tmp_path / f"data-{source is None}", source=source, catalogue=catalogue)
        assert (tmp_path / "set.zip").read_bytes() == GOOD
    assert not asked
    get("set", to=tmp_path / "elsewhere" / "data", catalogue=catalogue)
    assert [path.name for path in (tmp_path / "elsewhere").iterdir()] == ["data"]  # its own it removes


def test_an_archive_that_came_before_another_failed_goes_in_the_end(server: Server, tmp_path: Path) -> None:
    url, files, asked = server
    files["/set.zip"] = GOOD
    second = Archive("more.zip", (url + "/more.zip",), ".txt", 1)
    catalogue = {"set": (archive(url, "/set.zip"), second)}
    with pytest.raises(DownloadError, match=r"more\.zip"):
        get("set", to=tmp_path / "data", catalogue=catalogue)
    files["/more.zip"] = packed({"more/c.txt": b"three" * 1000})
    get("set", to=tmp_path / "data", catalogue=catalogue)
    assert [path.name for path in tmp_path.iterdir()] == ["data"]
    assert len(asked) == 3  # the first one was kept
