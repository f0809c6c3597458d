"""What the Hugging Face Hub answers to its client, on this machine: repositories in memory, no xet."""

from __future__ import annotations

import base64
import hashlib
import json
import re
import threading
from collections.abc import Iterator
from dataclasses import dataclass, field
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from typing import Any
from urllib.parse import unquote, urlsplit

import pytest
import yaml

LARGE = (".safetensors", ".onnx")


@dataclass
class Repository:
    private: bool
    branches: dict[str, str] = field(default_factory=dict)  # branch -> commit
    commits: dict[str, dict[str, bytes]] = field(default_factory=dict)  # commit -> path -> content
    messages: list[str] = field(default_factory=list)

    def commit(self, branch: str, files: dict[str, bytes], message: str) -> str:
        sha = hashlib.sha1(f"{len(self.commits)}/{branch}".encode()).hexdigest()
        self.commits[sha], self.branches[branch] = files, sha
        self.messages.append(message)
        return sha


@dataclass
class Hub:
    """The state, and what was asked; `tokens` are those that exist, and whose they are."""

    url: str = ""
    tokens: dict[str, str] = field(default_factory=lambda: {"hf_ada": "ada", "hf_bob": "bob"})
    repositories: dict[str, Repository] = field(default_factory=dict)
    blobs: dict[str, bytes] = field(default_factory=dict)
    asked: list[str] = field(default_factory=list)
    broken: str = ""  # a part of a path that is answered with 500


@pytest.fixture
def hub(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> Iterator[Hub]:
    """The stand-in, which the client takes for the hub; its cache is empty and nobody is logged in."""
    from huggingface_hub import constants, file_download

    hub = Hub()
    server = ThreadingHTTPServer(("127.0.0.1", 0), type("Handler", (_Handler,), {"hub": hub}))
    hub.url = f"http://127.0.0.1:{server.server_port}"
    thread = threading.Thread(target=server.serve_forever, daemon=True)
    thread.start()
    monkeypatch.setattr(constants, "ENDPOINT", hub.url)
    template = hub.url + "/{repo_id}/resolve/{revision}/{filename}"
    for module in (constants, file_download):  # older clients copied it
        monkeypatch.setattr(module, "HUGGINGFACE_CO_URL_TEMPLATE", template, raising=False)
    monkeypatch.setattr(constants, "HF_HUB_CACHE", str(tmp_path / "hub-cache"))
    monkeypatch.setattr(constants, "HF_TOKEN_PATH", str(tmp_path / "no-token"))
    monkeypatch.setattr(constants, "HF_HUB_DISABLE_XET", True, raising=False)
    for name in ("HF_TOKEN", "HUGGING_FACE_HUB_TOKEN", "HF_HUB_OFFLINE", "TRANSFORMERS_OFFLINE"):
        monkeypatch.delenv(name, raising=False)
    monkeypatch.setattr(constants, "HF_HUB_OFFLINE", False)
    yield hub
    server.shutdown()
    server.server_close()
    thread.join()


class _Answer(Exception):
    def __init__(self, status: int, value: Any = None, **headers: str) -> None:
        self.status, self.value, self.headers = status, value, headers


class _Handler(BaseHTTPRequestHandler):
    hub: Hub
    protocol_version = "HTTP/1.1"

    def log_message(self, *_: object) -> None:
        pass

    def do_GET(self) -> None:
        self.answer()

    do_HEAD = do_POST = do_PUT = do_GET

    def answer(self) -> None:
        body = self.body()
        path = unquote(urlsplit(self.path).path)
        self.hub.asked.append(f"{self.command} {path}")
        try:
            if self.hub.broken and self.hub.broken in path:
                raise _Answer(500, {"error": "Internal error"})
            for method, pattern, handle in _ROUTES:
                match = re.fullmatch(pattern, path)
                if match and self.command in method:
                    handle(self, body, **match.groupdict())
            raise _Answer(404, {"error": "no such address"})
        except _Answer as answer:
            self.send(answer)

    def send(self, answer: _Answer) -> None:
        content = answer.value if isinstance(answer.value, bytes) else json.dumps(answer.value).encode()
        self.send_response(answer.status)
        for name, value in answer.headers.items():
            self.send_header(name.replace("_", "-"), value)
        self.send_header("Content-Length", str(len(content)))
        self.end_headers()
        if self.command != "HEAD":
            self.wfile.write(content)

    def body(self) -> bytes:
        if self.headers.get("Transfer-Encoding") == "chunked":
            parts = []
            while size := int(self.rfile.readline(), 16):
                parts.append(self.rfile.read(size))
                self.rfile.readline()
            self.rfile.readline()
            return b"".join(parts)
        return self.rfile.read(int(self.headers.get("Content-Length") or 0))

    def user(self) -> str | None:
        header = self.headers.get("Authorization")
        if header is None:
            return None
        user = self.hub.tokens.get(header.removeprefix("Bearer "))
        if user is None:
            raise _Answer(
                401, {"error": "Invalid credentials"}, X_Error_Message="Invalid credentials in Authorization header"
            )
        return user

    def repository(self, id: str, *, write: bool = False) -> Repository:
        user, owner = self.user(), id.split("/")[0]
        found = self.hub.repositories.get(id)
        if found is None or (found.private and user != owner):
            status = 401 if user is None else 404
            raise _Answer(status, {"error": "Repository not found"}, X_Error_Code="RepoNotFound")
        if write and user != owner:
            raise _Answer(403, {"error": "Forbidden"}, X_Error_Message="You don't have the required permissions")
        return found

    def files(self, repository: Repository, revision: str | None) -> tuple[str, dict[str, bytes]]:
        sha = repository.branches.get(revision or "main", revision or "")
        if sha not in repository.commits:
            raise _Answer(404, {"error": "Invalid rev id"}, X_Error_Code="RevisionNotFound")
        return sha, repository.commits[sha]

    def create(self, body: bytes) -> None:
        wanted = json.loads(body)
        user = self.user()
        if user is None:
            raise _Answer(401, {"error": "no token"})
        owner = wanted.get("organization") or user
        id = f"{owner}/{wanted['name']}"
        if id in self.hub.repositories:
            raise _Answer(409, {"error": "You already created this model repo", "url": f"{self.hub.url}/{id}"})
        if owner != user:
            raise _Answer(403, {"error": f"You don't have the rights to create a model under the namespace {owner}"})
        private = bool(wanted.get("private")) or wanted.get("visibility") == "private"
        self.hub.repositories[id] = Repository(private)
        self.hub.repositories[id].commit("main", {".gitattributes": b""}, "initial commit")
        raise _Answer(200, {"url": f"{self.hub.url}/{id}", "name": id, "id": "1"})

    def validate(self, body: bytes) -> None:
        """The hub's own rules are stricter; these catch what a captioner's card could get wrong."""
        match = re.match(r"---\n(.*?)\n---\n", json.loads(body)["content"], re.S)
        data = yaml.safe_load(match[1]) if match else None
        errors = []
        if not isinstance(data, dict):
            errors.append("no metadata")
        elif not re.fullmatch(r"[a-z0-9.+-]+", str(data.get("license"))):
            errors.append('"license" must be one of the known ones')
        else:
            for model in data.get("model-index", []):
                for result in model["results"]:
                    if not ({"type"} <= result["task"].keys() and {"name", "type"} <= result["dataset"].keys()):
                        errors.append('"model-index" lacks a task or a data set')
                    if not all({"type", "value"} <= metric.keys() for metric in result["metrics"]):
                        errors.append('"model-index" lacks a metric')
        answer = {"errors": [{"message": e} for e in errors], "warnings": []}
        raise _Answer(400 if errors else 200, answer)

    def info(self, body: bytes, id: str, revision: str | None = None) -> None:
        repository = self.repository(id)
        sha, files = self.files(repository, revision)
        siblings = [{"rfilename": name} for name in files]
        value = {"_id": "1", "id": id, "modelId": id, "sha": sha, "private": repository.private, "siblings": siblings}
        raise _Answer(200, {**value, "tags": [], "downloads": 0, "likes": 0})

    def tree(self, body: bytes, id: str, revision: str) -> None:
        _, files = self.files(self.repository(id), revision)
        raise _Answer(200, [_entry(name, content) for name, content in files.items()])

    def branch(self, body: bytes, id: str, revision: str) -> None:
        repository = self.repository(id, write=True)
        if revision in repository.branches:
            raise _Answer(409, {"error": "Reference already exists"})
        repository.branches[revision] = repository.branches["main"]
        raise _Answer(201, {})

    def preupload(self, body: bytes, id: str, revision: str) -> None:
        self.repository(id, write=True)
        modes = [
            {"path": f["path"], "uploadMode": "lfs" if f["path"].endswith(LARGE) else "regular", "shouldIgnore": False}
            for f in json.loads(body)["files"]
        ]
        raise _Answer(200, {"files": modes})

    def batch(self, body: bytes, id: str) -> None:
        self.repository(id, write=True)
        objects = []
        for wanted in json.loads(body)["objects"]:
            actions = {"upload": {"href": f"{self.hub.url}/lfs/{wanted['oid']}"}}
            known = wanted["oid"] in self.hub.blobs
            objects.append({"oid": wanted["oid"], "size": wanted["size"], **({} if known else {"actions": actions})})
        raise _Answer(200, {"transfer": "basic", "objects": objects})

    def put(self, body: bytes, oid: str) -> None:
        assert hashlib.sha256(body).hexdigest() == oid
        self.hub.blobs[oid] = body
        raise _Answer(200, {})

    def commit(self, body: bytes, id: str, revision: str) -> None:
        repository = self.repository(id, write=True)
        _, before = self.files(repository, revision)
        files, message = dict(before), ""
        for line in body.splitlines():
            item = json.loads(line)
            value = item["value"]
            if item["key"] == "header":
                message = value["summary"]
            elif item["key"] == "file":
                files[value["path"]] = base64.b64decode(value["content"])
            elif item["key"] == "lfsFile":
                files[value["path"]] = self.hub.blobs[value["oid"]]
            elif item["key"] == "deletedFile":
                del files[value["path"]]
            else:
                raise _Answer(400, {"error": f"unknown operation {item['key']}"})
        sha = repository.commit(revision, files, message)
        raise _Answer(200, {"success": True, "commitOid": sha, "commitUrl": f"{self.hub.url}/{id}/commit/{sha}"})

    def resolve(self, body: bytes, id: str, revision: str, name: str) -> None:
        sha, files = self.files(self.repository(id), revision)
        if name not in files:
            raise _Answer(404, {"error": "Entry not found"}, X_Error_Code="EntryNotFound")
        entry = _entry(name, files[name])
        etag = entry["lfs"]["oid"] if "lfs" in entry else entry["oid"]
        raise _Answer(200, files[name], X_Repo_Commit=sha, ETag=f'"{etag}"')


def _entry(name: str, content: bytes) -> dict[str, Any]:
    oid = hashlib.sha1(b"blob %d\0" % len(content) + content).hexdigest()
    entry: dict[str, Any] = {"type": "file", "path": name, "size": len(content), "oid": oid}
    if name.endswith(LARGE):
        entry["lfs"] = {"oid": hashlib.sha256(content).hexdigest(), "size": len(content), "pointerSize": 134}
    return entry


_ID = r"(?P<id>[^/]+/[^/]+)"
_ROUTES = (
    ("POST", "/api/repos/create", _Handler.create),
    ("POST", "/api/validate-yaml", _Handler.validate),
    ("GET", f"/api/models/{_ID}", _Handler.info),
    ("GET", f"/api/models/{_ID}/revision/(?P<revision>.+)", _Handler.info),
    ("GET", f"/api/models/{_ID}/tree/(?P<revision>[^/]+)/?", _Handler.tree),
    ("POST", f"/api/models/{_ID}/branch/(?P<revision>[^/]+)", _Handler.branch),
    ("POST", f"/api/models/{_ID}/preupload/(?P<revision>[^/]+)", _Handler.preupload),
    ("POST", f"/api/models/{_ID}/commit/(?P<revision>[^/]+)", _Handler.commit),
    ("POST", rf"/{_ID}\.git/info/lfs/objects/batch", _Handler.batch),
    ("PUT", "/lfs/(?P<oid>[0-9a-f]+)", _Handler.put),
    ("GET HEAD", f"/{_ID}/resolve/(?P<revision>[^/]+)/(?P<name>.+)", _Handler.resolve),
)
