"""A hub of Hugging Face on this machine: its API, its files, a second host for large files, faults.

It serves what huggingface_hub asks for: /api/models/REPO, and HEAD and GET of
/REPO/resolve/REVISION/FILE, where large files are a redirect to the second host.
"""

from __future__ import annotations

import hashlib
import json
import re
import socket
import threading
import time
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from dataclasses import dataclass, field
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from typing import Any
from urllib.parse import unquote, urlsplit

PIECE_BYTES = 1 << 16


@dataclass
class Answer:
    """What a fault answers in the place of a file or of the API."""

    status: int = 200
    headers: dict[str, str] = field(default_factory=dict)
    body: bytes = b""


@dataclass
class Faults:
    """What goes wrong, for each request of a kind the first one that is left."""

    api: list[Answer] = field(default_factory=list)
    content: list[Answer | None] = field(default_factory=list)
    cuts: list[int] = field(default_factory=list)  # bytes of a body before the connection ends
    ranges: bool = True
    garbage: int = 0  # bodies with other bytes of the same number
    listed_sizes: bool = True
    needs_token: bool = False
    piece_s: float = 0.0  # between two pieces
    hidden: tuple[str, ...] = ()  # files that the API lists and nobody may have
    redirect_to: str = ""  # in the place of the second host
    etag: str = ""  # in the place of the checksum


class Hub:
    """Repositories of files in memory."""

    def __init__(self) -> None:
        self.repos: dict[str, dict[str, bytes]] = {}
        self.large_bytes = 100  # from here on a file is on the second host
        self.faults = Faults()
        self.requests: list[tuple[str, str, dict[str, str]]] = []
        self.sent_bytes = 0
        self.endpoint = self.second = ""

    def put(self, repo: str, files: dict[str, bytes]) -> None:
        """Serve files."""
        self.repos[repo] = files

    def commit(self, repo: str) -> str:
        text = repr(sorted((k, hashlib.sha256(v).hexdigest()) for k, v in self.repos[repo].items()))
        return hashlib.sha1(text.encode()).hexdigest()

    def contents(self) -> list[dict[str, str]]:
        """Return the headers of each request for a file's bytes."""
        return [
            headers
            for method, path, headers in self.requests
            if method == "GET" and not path.startswith("/api/")
        ]

    def is_large(self, data: bytes) -> bool:
        return len(data) >= self.large_bytes


def oid(data: bytes) -> str:
    return hashlib.sha1(b"blob %d\0" % len(data) + data).hexdigest()


def sha256(data: bytes) -> str:
    return hashlib.sha256(data).hexdigest()


class _Handler(BaseHTTPRequestHandler):
    protocol_version = "HTTP/1.1"
    hub: Hub
    is_second = False

    def log_message(self, *_: Any) -> None:
        pass

    def do_HEAD(self) -> None:
        self._serve()

    def do_GET(self) -> None:
        self._serve()

    def _serve(self) -> None:
        path = unquote(urlsplit(self.path).path)
        self.hub.requests.append((self.command, path, dict(self.headers)))
        with suppress(BrokenPipeError, ConnectionResetError):
            if self.is_second:
                self._second(path)
            elif path.startswith("/api/models/"):
                self._api(path.removeprefix("/api/models/"))
            else:
                self._resolve(path)

    def _answer(self, answer: Answer) -> None:
        self.send_response(answer.status)
        for name, value in answer.headers.items():
            self.send_header(name, value)
        self.send_header("Content-Length", str(len(answer.body)))
        self.end_headers()
        if self.command == "GET":
            self.wfile.write(answer.body)

    def _denied(self) -> bool:
        if self.hub.faults.needs_token and self.headers.get("Authorization") != "Bearer hf_right":
            self._answer(Answer(401, {"X-Error-Message": "Invalid username or password."}))
            return True
        return False

    def _api(self, rest: str) -> None:
        if self.hub.faults.api:
            return self._answer(self.hub.faults.api.pop(0))
        if self._denied():
            return None
        repo, _, revision = rest.partition("/revision/")
        if repo not in self.hub.repos:
            return self._answer(Answer(404, {"X-Error-Code": "RepoNotFound"}))
        commit = self.hub.commit(repo)
        if revision and revision not in ("main", commit):
            return self._answer(Answer(404, {"X-Error-Code": "RevisionNotFound"}))
        siblings = []
        for name, data in self.hub.repos[repo].items():
            about: dict[str, Any] = {"rfilename": name}
            if self.hub.faults.listed_sizes:
                about |= {"size": len(data), "blobId": oid(data)}
                if self.hub.is_large(data):
                    about["lfs"] = {"sha256": sha256(data), "size": len(data), "pointerSize": 130}
            siblings.append(about)
        body = json.dumps({"id": repo, "modelId": repo, "sha": commit, "siblings": siblings})
        return self._answer(Answer(200, {"Content-Type": "application/json"}, body.encode()))

    def _resolve(self, path: str) -> None:
        match = re.fullmatch(r"/([^/]+/[^/]+)/resolve/([^/]+)/(.+)", path)
        if self._denied():
            return None
        if not match or match[3] not in self.hub.repos.get(match[1], {}):
            return self._answer(Answer(404, {"X-Error-Code": "EntryNotFound"}))
        repo, name = match[1], match[3]
        if name in self.hub.faults.hidden:
            return self._answer(Answer(403, {"X-Error-Code": "GatedRepo"}))
        data, faults = self.hub.repos[repo][name], self.hub.faults
        headers = {"X-Repo-Commit": self.hub.commit(repo)}
        if not self.hub.is_large(data):
            return self._content(data, headers | {"ETag": f'"{oid(data)}"'})
        headers |= {
            "X-Linked-Size": str(len(data)),
            "X-Linked-ETag": f'"{faults.etag or sha256(data)}"',
        }
        where = faults.redirect_to or f"{self.hub.second}/{repo}/{name}"
        return self._answer(Answer(302, headers | {"Location": where}))

    def _second(self, path: str) -> None:
        owner, repo, name = path.lstrip("/").split("/", 2)
        self._content(self.hub.repos[f"{owner}/{repo}"][name], {"ETag": '"another"'})

    def _content(self, data: bytes, headers: dict[str, str]) -> None:
        faults = self.hub.faults
        if self.command == "GET" and faults.content and (answer := faults.content.pop(0)):
            return self._answer(answer)
        first, status = 0, 200
        asked = re.fullmatch(r"bytes=(\d+)-", self.headers.get("Range") or "")
        if asked and faults.ranges:
            first, status = int(asked[1]), 206
            if first >= len(data):
                return self._answer(Answer(416, {"Content-Range": f"bytes */{len(data)}"}))
            headers |= {"Content-Range": f"bytes {first}-{len(data) - 1}/{len(data)}"}
        if self.command == "GET" and faults.garbage:
            faults.garbage -= 1
            data = bytes(len(data))
        body = data[first:]
        self.send_response(status)
        for key, value in headers.items():
            self.send_header(key, value)
        self.send_header("Accept-Ranges", "bytes" if faults.ranges else "none")
        self.send_header("Content-Length", str(len(body)))
        self.end_headers()
        if self.command == "GET":
            self._send(body)

    def _send(self, body: bytes) -> None:
        faults = self.hub.faults
        end = faults.cuts.pop(0) if faults.cuts else len(body)
        for first in range(0, min(end, len(body)), PIECE_BYTES):
            piece = body[first : min(first + PIECE_BYTES, end)]
            if self.hub.faults is not faults:  # of an earlier test, whose client is gone
                return
            self.hub.sent_bytes += len(piece)  # before: the client may be the faster one
            self.wfile.write(piece)
            if faults.piece_s:
                time.sleep(faults.piece_s)
        if end < len(body):
            self.close_connection = True
            with suppress(OSError):
                self.connection.shutdown(socket.SHUT_RDWR)


class _Server(ThreadingHTTPServer):
    daemon_threads = True

    def handle_error(self, *_: Any) -> None:
        """Clients that go away are what the tests are about."""


@contextmanager
def loopback_hub() -> Iterator[Hub]:
    """Serve a hub on two ports for the time of this context."""
    hub = Hub()
    handler = type("Handler", (_Handler,), {"hub": hub})
    second = type("SecondHandler", (_Handler,), {"hub": hub, "is_second": True})
    servers = [_Server(("127.0.0.1", 0), each) for each in (handler, second)]
    hub.endpoint, hub.second = (f"http://127.0.0.1:{server.server_port}" for server in servers)
    threads = [
        threading.Thread(target=server.serve_forever, kwargs={"poll_interval": 0.02}, daemon=True)
        for server in servers
    ]
    for thread in threads:
        thread.start()
    try:
        yield hub
    finally:
        for server in servers:
            server.shutdown()
            server.server_close()
