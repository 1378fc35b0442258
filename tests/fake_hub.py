"""A small Hugging Face hub on the loopback: it serves folders, records commits, and refuses in the hub's own ways."""

from __future__ import annotations

import base64
import hashlib
import json
import threading
from dataclasses import dataclass, field
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from typing import Any
from urllib.parse import unquote, urlparse

COMMIT = "a" * 40


@dataclass
class FakeHub:
    """What the server holds; `files` is what pushes left, `served` what may be downloaded."""

    served: dict[str, Path] = field(default_factory=dict)
    gated: set[str] = field(default_factory=set)
    private: dict[str, str] = field(default_factory=dict)  # repository → the token that opens it
    branches: dict[str, tuple[str, Path]] = field(default_factory=dict)  # revision → commit and folder, of datasets
    break_off: set[str] = field(default_factory=set)  # files of which one download sends the first half only
    proxied: list[str] = field(default_factory=list)  # hosts asked for as by a proxy's client
    refuse: int | None = None  # status for every write
    repos: list[dict[str, Any]] = field(default_factory=list)
    commits: list[dict[str, Any]] = field(default_factory=list)
    files: dict[str, bytes] = field(default_factory=dict)
    blobs: dict[str, bytes] = field(default_factory=dict)
    tokens: set[str | None] = field(default_factory=set)
    requests: list[str] = field(default_factory=list)
    server: ThreadingHTTPServer | None = None

    def __enter__(self) -> FakeHub:
        hub = self

        class Handler(_Handler):
            def __init__(self, *args: Any) -> None:
                self.hub = hub
                super().__init__(*args)

        self.server = ThreadingHTTPServer(("127.0.0.1", 0), Handler)
        threading.Thread(target=self.server.serve_forever, daemon=True).start()
        return self

    def __exit__(self, *_: object) -> None:
        assert self.server is not None
        self.server.shutdown()
        self.server.server_close()

    @property
    def url(self) -> str:
        assert self.server is not None
        return f"http://127.0.0.1:{self.server.server_port}"


class _Handler(BaseHTTPRequestHandler):
    hub: FakeHub
    protocol_version = "HTTP/1.1"

    def log_message(self, *_: object) -> None:
        pass

    def answer(self, status: int, content: Any = b"", headers: dict[str, str] | None = None) -> None:
        body = content if isinstance(content, bytes) else json.dumps(content).encode()
        headers = {"Content-Length": str(len(body)), **(headers or {})}
        self.send_response(status)
        for name, value in headers.items():
            self.send_header(name, value)
        self.end_headers()
        if self.command != "HEAD":
            self.wfile.write(body)

    def body(self) -> bytes:
        if self.headers.get("Transfer-Encoding") == "chunked":
            parts = []
            while size := int(self.rfile.readline(), 16):
                parts.append(self.rfile.read(size))
                self.rfile.readline()
            self.rfile.readline()
            return b"".join(parts)
        return self.rfile.read(int(self.headers.get("Content-Length", 0)))

    def do_GET(self) -> None:
        url = urlparse(self.path)
        path = unquote(url.path)
        if url.netloc:
            self.hub.proxied.append(url.netloc)
        self.hub.requests.append(f"{self.command} {path}")
        parts = path.strip("/").split("/")
        if parts[:2] == ["api", "datasets"]:
            return self.describe("/".join(parts[2:4]), parts[4:])
        if parts[0] == "datasets":
            parts = parts[1:]
        if parts[:2] == ["api", "models"]:
            return self.describe("/".join(parts[2:4]), parts[4:])
        if "resolve" in parts:
            place = parts.index("resolve")
            return self.serve("/".join(parts[:place]), "/".join(parts[place + 2 :]), parts[place + 1])
        return self.answer(404, {"error": "no"})

    do_HEAD = do_GET

    def refused(self, repo: str) -> bool:
        token = self.hub.private.get(repo)
        if token is not None and self.headers.get("Authorization") != f"Bearer {token}":
            self.answer(401, {"error": "no"}, {"X-Error-Code": "RepoNotFound", "X-Error-Message": "not found"})
            return True
        if repo in self.hub.gated:
            self.answer(
                403, {"error": "gated"}, {"X-Error-Code": "GatedRepo", "X-Error-Message": "Access is restricted"}
            )
        elif repo not in self.hub.served:
            self.answer(404, {"error": "nothing"}, {"X-Error-Code": "RepoNotFound", "X-Error-Message": "not found"})
        return repo in self.hub.gated or repo not in self.hub.served

    def describe(self, repo: str, rest: list[str]) -> None:
        if self.refused(repo):
            return
        revision = rest[1] if len(rest) > 1 else "main"
        commit, folder = self.at(repo, revision)
        if commit is None:
            return self.answer(404, {"error": "no"}, {"X-Error-Code": "RevisionNotFound", "X-Error-Message": "no"})
        files = sorted(file for file in folder.rglob("*") if file.is_file())
        names = [file.relative_to(folder).as_posix() for file in files]
        if rest[:1] == ["tree"]:
            tree = [
                {"type": "file", "path": name, "size": file.stat().st_size, "oid": _hash(file)}
                for name, file in zip(names, files, strict=True)
            ]
            return self.answer(200, tree)
        siblings = [{"rfilename": name} for name in names]
        return self.answer(200, {"id": repo, "sha": commit, "siblings": siblings, "private": False, "tags": []})

    def at(self, repo: str, revision: str) -> tuple[str | None, Path]:
        """The commit that a revision means, and its folder."""
        if revision in ("main", COMMIT):
            return COMMIT, self.hub.served[repo]
        for name, (commit, folder) in self.hub.branches.items():
            if revision in (name, commit):
                return commit, folder
        return None, self.hub.served[repo]

    def serve(self, repo: str, name: str, revision: str) -> None:
        if self.refused(repo):
            return
        commit, folder = self.at(repo, revision)
        file = folder / name
        if commit is None or not file.is_file():
            return self.answer(404, {"error": "no"}, {"X-Error-Code": "EntryNotFound", "X-Error-Message": "no"})
        headers = {"ETag": f'"{_hash(file)}"', "X-Repo-Commit": commit}
        content = file.read_bytes()
        if name in self.hub.break_off and self.command == "GET":
            self.hub.break_off.remove(name)
            self.send_response(200)
            for key, value in {"Content-Length": str(len(content)), **headers}.items():
                self.send_header(key, value)
            self.end_headers()
            self.wfile.write(content[: len(content) // 2])
            self.close_connection = True
            return None
        return self.answer(200, content, headers)

    def do_PUT(self) -> None:
        self.hub.blobs[self.path.rsplit("/", 1)[-1]] = self.body()
        self.answer(200)

    def do_POST(self) -> None:
        path, body = unquote(urlparse(self.path).path), self.body()
        self.hub.requests.append(f"POST {path}")
        self.hub.tokens.add(self.headers.get("Authorization"))
        if self.hub.refuse is not None:
            return self.answer(self.hub.refuse, {"error": "refused"}, {"X-Error-Message": "refused"})
        if path == "/api/repos/create":
            asked = json.loads(body)
            self.hub.repos.append(asked)
            return self.answer(200, {"url": f"{self.hub.url}/{asked['organization']}/{asked['name']}"})
        if path == "/api/validate-yaml":
            return self.answer(200, {"warnings": [], "errors": []})
        if "/preupload/" in path:
            modes = [
                {
                    "path": file["path"],
                    "uploadMode": "lfs" if file["path"].endswith("safetensors") else "regular",
                    "shouldIgnore": False,
                }
                for file in json.loads(body)["files"]
            ]
            return self.answer(200, {"files": modes})
        if path.endswith("/info/lfs/objects/batch"):
            objects = [
                {**entry, "actions": {"upload": {"href": f"{self.hub.url}/put/{entry['oid']}"}}}
                for entry in json.loads(body)["objects"]
            ]
            return self.answer(200, {"transfer": "basic", "objects": objects})
        if "/commit/" in path:
            return self.commit(body)
        return self.answer(404, {"error": "no"})

    def commit(self, body: bytes) -> None:
        lines = [json.loads(line) for line in body.splitlines() if line.strip()]
        self.hub.commits.append(lines[0]["value"])
        for line in lines[1:]:
            value = line["value"]
            if line["key"] == "file":
                self.hub.files[value["path"]] = base64.b64decode(value["content"])
            elif line["key"] == "lfsFile":
                self.hub.files[value["path"]] = self.hub.blobs[value["oid"]]
        self.answer(200, {"success": True, "commitOid": COMMIT, "commitUrl": f"{self.hub.url}/me/rm/commit/{COMMIT}"})


def _hash(file: Path) -> str:
    return hashlib.sha1(file.read_bytes()).hexdigest()
