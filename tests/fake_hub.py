"""A Hugging Face Hub in this process: the endpoints with which `huggingface_hub` fetches files and creates commits."""

from __future__ import annotations

import base64
import hashlib
import json
import re
import threading
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from typing import Any
from urllib.parse import unquote

import pytest
import yaml

RESOLVE = re.compile(r"/([\w.-]+/[\w.-]+)/resolve/([^/]+)/(.+)")
API = re.compile(r"/api/models/([\w.-]+/[\w.-]+)/(preupload|commit|branch)/(.+)")
INFO = re.compile(r"/api/models/([\w.-]+/[\w.-]+)/revision/[^/?]+\?expand=xetEnabled")
"""What huggingface_hub 0.30 asks before it writes."""
BATCH = re.compile(r"/([\w.-]+/[\w.-]+)\.git/info/lfs/objects/batch")


@dataclass
class Hub:
    """The content of the server, and what was asked of it."""

    address: str
    repositories: dict[str, dict[str, dict[str, bytes]]] = field(default_factory=dict)
    """owner/name -> revision -> path -> content."""
    private: dict[str, bool] = field(default_factory=dict)
    blobs: dict[str, bytes] = field(default_factory=dict)
    """SHA-256 -> content of a large file."""
    requests: list[str] = field(default_factory=list)
    tokens: list[str] = field(default_factory=list)
    messages: list[str] = field(default_factory=list)
    """Messages of commits."""
    write_token: str = ""
    """The token that writing needs; empty: none."""

    def add(self, repository: str, revision: str = "main", **files: bytes) -> None:
        """Add files by name to a revision; `model_safetensors` is model.safetensors."""
        content = {name.replace("_", ".", 1): data for name, data in files.items()}
        self.repositories.setdefault(repository, {}).setdefault(revision, {}).update(content)

    def files(self, repository: str, revision: str = "main") -> dict[str, bytes]:
        """Return the files of a revision by path."""
        return self.repositories[repository][revision]


def commit_of(files: dict[str, bytes]) -> str:
    """Return a commit id that changes with the files."""
    return hashlib.sha1(b"".join(name.encode() + data for name, data in sorted(files.items()))).hexdigest()


class Handler(BaseHTTPRequestHandler):
    """Answers the requests of `huggingface_hub`."""

    protocol_version = "HTTP/1.1"
    hub: Hub

    def log_message(self, *arguments: Any) -> None:
        """Print nothing."""

    def do_HEAD(self) -> None:
        """Answer with the headers of a file."""
        self.do_GET()

    def do_GET(self) -> None:
        """Answer with a file, or with what is known about a revision."""
        self._note()
        if (match := INFO.fullmatch(unquote(self.path))) and match[1] in self.hub.repositories:
            commit_id = commit_of(self.hub.files(match[1]))
            return self._answer(200, {"id": match[1], "sha": commit_id, "xetEnabled": False})
        match = RESOLVE.fullmatch(unquote(self.path))
        if match is None:
            return self._answer(404, {"error": "no such page"})
        repository, revision, name = match.groups()
        if repository not in self.hub.repositories:
            return self._answer(401, {"error": "no such repository"}, {"X-Error-Code": "RepoNotFound"})
        if repository.endswith("/gated"):
            return self._answer(403, {"error": "gated"}, {"X-Error-Code": "GatedRepo"})
        revisions = self.hub.repositories[repository]
        by_commit = {commit_of(files): files for files in revisions.values()}
        files = revisions.get(revision, by_commit.get(revision))
        if files is None:
            return self._answer(404, {"error": "no such revision"}, {"X-Error-Code": "RevisionNotFound"})
        commit = {"X-Repo-Commit": commit_of(files)}
        if name not in files:
            return self._answer(404, {"error": "no such file"}, {"X-Error-Code": "EntryNotFound"} | commit)
        return self._answer(200, files[name], commit | {"ETag": f'"{hashlib.sha256(files[name]).hexdigest()}"'})

    def do_PUT(self) -> None:
        """Receive a large file."""
        self._note()
        self.hub.blobs[self.path.rsplit("/", 1)[-1]] = self._body()
        self._answer(200, {})

    def do_POST(self) -> None:
        """Create a repository, a branch or a commit."""
        self._note()
        body = self._body()
        token = self.headers.get("Authorization", "").removeprefix("Bearer ")
        if self.hub.write_token and token != self.hub.write_token:
            return self._answer(403, {"error": "this token cannot write"})
        if self.path == "/api/repos/create":
            return self._create(json.loads(body))
        if self.path == "/api/validate-yaml":
            return self._validate(json.loads(body)["content"])
        if match := BATCH.fullmatch(self.path):
            objects = json.loads(body)["objects"]
            for item in objects:
                item["actions"] = {"upload": {"href": f"{self.hub.address}/blobs/{item['oid']}"}}
            return self._answer(200, {"transfer": "basic", "objects": objects})
        match = API.fullmatch(unquote(self.path))
        if match is None:
            return self._answer(404, {"error": "no such page"})
        repository, action, revision = match.groups()
        if action == "preupload":
            large = (".safetensors", ".onnx")
            modes = [
                {"path": file["path"], "uploadMode": "lfs" if file["path"].endswith(large) else "regular"}
                for file in json.loads(body)["files"]
            ]
            return self._answer(200, {"files": [{**mode, "shouldIgnore": False} for mode in modes]})
        if action == "branch":
            self.hub.repositories[repository].setdefault(revision, {})
            return self._answer(200, {})
        return self._commit(repository, revision, [json.loads(line) for line in body.decode().splitlines()])

    def _create(self, request: dict[str, Any]) -> None:
        name = f"{request['organization']}/{request['name']}" if request.get("organization") else request["name"]
        if name in self.hub.repositories:
            return self._answer(409, {"error": "exists", "url": f"{self.hub.address}/{name}"})
        self.hub.repositories[name] = {"main": {}}
        self.hub.private[name] = request.get("private", request.get("visibility") == "private")
        return self._answer(200, {"url": f"{self.hub.address}/{name}", "name": name})

    def _validate(self, content: str) -> None:
        match = re.match(r"---\n(.*?)\n---\n", content, re.DOTALL)
        metadata = yaml.safe_load(match[1]) if match else None
        valid = isinstance(metadata, dict) and metadata.get("library_name") == "sais"
        self._answer(200 if valid else 400, {"warnings": [], "errors": [] if valid else [{"message": "no metadata"}]})

    def _commit(self, repository: str, revision: str, operations: list[dict[str, Any]]) -> None:
        files = self.hub.repositories[repository][revision]
        for operation in operations:
            value = operation["value"]
            if operation["key"] == "header":
                self.hub.messages.append(value["summary"])
            elif operation["key"] == "file":
                files[value["path"]] = base64.b64decode(value["content"])
            elif operation["key"] == "lfsFile":
                files[value["path"]] = self.hub.blobs[value["oid"]]
        commit = commit_of(files)
        url = f"{self.hub.address}/{repository}/commit/{commit}"
        self._answer(200, {"success": True, "commitOid": commit, "commitUrl": url, "hookOutput": ""})

    def _note(self) -> None:
        self.hub.requests.append(f"{self.command} {unquote(self.path)}")
        self.hub.tokens.append(self.headers.get("Authorization", "").removeprefix("Bearer "))

    def _body(self) -> bytes:
        if self.headers.get("Transfer-Encoding") != "chunked":
            return self.rfile.read(int(self.headers.get("Content-Length", 0)))
        body = b""
        while size := int(self.rfile.readline(), 16):
            body += self.rfile.read(size)
            self.rfile.readline()
        self.rfile.readline()
        return body

    def _answer(self, status: int, content: bytes | dict[str, Any], headers: dict[str, str] | None = None) -> None:
        data = content if isinstance(content, bytes) else json.dumps(content).encode()
        self.send_response(status)
        for name, value in (headers or {}).items():
            self.send_header(name, value)
        if isinstance(content, dict):
            self.send_header("Content-Type", "application/json")
        self.send_header("Content-Length", str(len(data)))
        self.end_headers()
        if self.command != "HEAD":
            self.wfile.write(data)


@contextmanager
def fake_hub() -> Iterator[Hub]:
    """Run a hub at a free port of this machine."""
    hub = Hub("")
    server = ThreadingHTTPServer(("127.0.0.1", 0), type("BoundHandler", (Handler,), {"hub": hub}))
    hub.address = f"http://127.0.0.1:{server.server_port}"
    thread = threading.Thread(target=server.serve_forever, kwargs={"poll_interval": 0.05}, daemon=True)
    thread.start()
    try:
        yield hub
    finally:
        server.shutdown()
        server.server_close()
        thread.join()


@contextmanager
def only_hub(monkeypatch: pytest.MonkeyPatch, folder: Path) -> Iterator[Hub]:
    """Run a hub which HF_ENDPOINT names; `folder` is the working directory and has the cache."""
    from huggingface_hub import constants

    monkeypatch.chdir(folder)
    monkeypatch.setattr(constants, "HF_HUB_CACHE", str(folder / "cache"))
    monkeypatch.setattr(constants, "HF_HUB_DISABLE_XET", True, raising=False)  # of 0.34
    for name in ("HF_TOKEN", "http_proxy", "HTTP_PROXY", "https_proxy", "HTTPS_PROXY", "all_proxy", "ALL_PROXY"):
        monkeypatch.delenv(name, raising=False)
    with fake_hub() as running:
        monkeypatch.setenv("HF_ENDPOINT", running.address)
        yield running
