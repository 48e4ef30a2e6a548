"""A Hub on this machine: the few endpoints that huggingface_hub asks for files of a dataset, with faults on request."""

from __future__ import annotations

import hashlib
import json
import re
import threading
from collections import Counter
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from urllib.parse import parse_qs, unquote, urlsplit

import huggingface_hub
import pytest
from huggingface_hub import constants, file_download
from huggingface_hub.utils import _http

REPO = "org/arm"
LARGE = (".mp4", ".parquet")  # as in LFS: known by their SHA-256


class LocalHub(ThreadingHTTPServer):
    """Serves the folder of one dataset; every change that `commit` is told of is a new commit of main."""

    daemon_threads = True

    def __init__(self, folder: Path):
        super().__init__(("127.0.0.1", 0), _Answers)
        self.folder, self.sent, self.asked = folder, Counter[str](), Counter[str]()
        self.faults: dict[str, list[str]] = {}  # by path: what goes wrong at the next GETs
        self.denied = 0  # status of every answer, if not 0
        self.delay = 0.0  # seconds before a file
        self.commits: dict[str, dict[str, bytes]] = {}
        self.head = self.commit()

    @property
    def url(self) -> str:
        return f"http://127.0.0.1:{self.server_address[1]}"

    def commit(self) -> str:
        """Take the folder as it is now as the newest commit of main."""
        files = {p.relative_to(self.folder).as_posix(): p for p in sorted(self.folder.rglob("*")) if p.is_file()}
        content = {name: path.read_bytes() for name, path in files.items()}
        whole = b"".join(name.encode() + data for name, data in content.items())
        self.head = hashlib.sha1(whole).hexdigest()
        self.commits[self.head] = content
        return self.head

    def fetched(self) -> dict[str, int]:
        """Files whose content was sent, with the number of bytes, since the last call."""
        sent, self.sent = self.sent, Counter[str]()
        return dict(sent)


def digest_of(name: str, data: bytes) -> str:
    """The content's name: SHA-256 of large files, of others what git calls them."""
    if name.endswith(LARGE):
        return hashlib.sha256(data).hexdigest()
    return hashlib.sha1(b"blob %d\0" % len(data) + data).hexdigest()


class _Answers(BaseHTTPRequestHandler):
    server: LocalHub
    protocol_version = "HTTP/1.1"

    def log_message(self, *_: object) -> None:
        pass

    def do_HEAD(self) -> None:
        self._answer(b"HEAD")

    def do_GET(self) -> None:
        self._answer(b"GET")

    def do_POST(self) -> None:
        body = self.rfile.read(int(self.headers["Content-Length"]))
        self._answer(b"POST", parse_qs(body.decode()))

    def _answer(self, verb: bytes, form: dict[str, list[str]] | None = None) -> None:
        hub, path = self.server, unquote(urlsplit(self.path).path)
        hub.asked[verb.decode()] += 1
        if hub.denied:
            self._json({"error": "no"}, hub.denied)
        elif found := re.fullmatch(rf"/api/datasets/{REPO}(?:/(revision|tree|paths-info)/([^/]+))?", path):
            what, revision = found.groups()
            commit = hub.head if revision in (None, "main") else revision
            files = hub.commits.get(commit)
            if files is None:
                self._json({"error": "no such revision"}, 404, {"X-Error-Code": "RevisionNotFound"})
            elif what in ("tree", "paths-info"):
                wanted = files if form is None else [name for name in form["paths"] if name in files]
                self._json([_entry(name, files[name]) for name in wanted])
            else:
                siblings = [{"rfilename": name} for name in files]
                self._json({"id": REPO, "sha": commit, "siblings": siblings, "private": False, "tags": []})
        elif found := re.fullmatch(rf"/datasets/{REPO}/resolve/([^/]+)/(.+)", path):
            self._file(verb, *found.groups())
        else:
            self._json({"error": "no such repository"}, 404, {"X-Error-Code": "RepoNotFound"})

    def _file(self, verb: bytes, revision: str, name: str) -> None:
        hub = self.server
        commit = hub.head if revision == "main" else revision
        if name not in hub.commits.get(commit, {}):
            self._json({"error": "no such file"}, 404, {"X-Error-Code": "EntryNotFound", "X-Repo-Commit": commit})
            return
        data = hub.commits[commit][name]
        facts = {"X-Repo-Commit": commit, "ETag": f'"{digest_of(name, data)}"', "Accept-Ranges": "bytes"}
        facts |= {"X-Linked-Etag": facts["ETag"], "X-Linked-Size": str(len(data))} if name.endswith(LARGE) else {}
        fault = (hub.faults.get(name) or [""]).pop(0) if verb == b"GET" else ""
        first = int(self.headers.get("Range", "bytes=0-").removeprefix("bytes=").split("-")[0])
        part = data[first:]
        if verb == b"GET":
            threading.Event().wait(hub.delay)
        if fault.isdigit():
            self._json({"error": "no"}, int(fault), facts)
            return
        if fault == "short":  # a proxy's answer, whole by its own account
            part = part[: len(part) // 2]
        self.send_response(206 if first else 200)
        if first:
            facts["Content-Range"] = f"bytes {first}-{len(data) - 1}/{len(data)}"
        for key, value in {**facts, "Content-Length": str(len(part))}.items():
            self.send_header(key, value)
        self.end_headers()
        if verb == b"GET":
            part = part[: len(part) // 2] if fault == "cut" else part
            with suppress(ConnectionError):  # of a client that has gone
                for piece in (part[i : i + 100] for i in range(0, len(part), 100)) if fault == "slow" else (part,):
                    self.wfile.write(piece)
                    hub.sent[name] += len(piece)
                    threading.Event().wait(0.05 * (fault == "slow"))
            self.close_connection = fault == "cut"

    def _json(self, value: object, status: int = 200, more: dict[str, str] | None = None) -> None:
        data = json.dumps(value).encode()
        self.send_response(status)
        for key, text in {**(more or {}), "Content-Type": "application/json", "Content-Length": str(len(data))}.items():
            self.send_header(key, text)
        self.end_headers()
        if self.command != "HEAD":
            self.wfile.write(data)


def _entry(name: str, data: bytes) -> dict[str, object]:
    lfs = {"oid": digest_of(name, data), "size": len(data), "pointerSize": 130}
    entry: dict[str, object] = {"type": "file", "path": name, "size": len(data), "oid": "0" * 40}
    return entry | ({"lfs": lfs} if name.endswith(LARGE) else {"oid": digest_of(name, data)})


@contextmanager
def serving(folder: Path, cache: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[LocalHub]:
    """Serve the dataset in `folder` to a client whose cache is `cache`."""
    with LocalHub(folder) as hub:
        thread = threading.Thread(target=hub.serve_forever, kwargs={"poll_interval": 0.01}, daemon=True)
        thread.start()
        use(hub.url, cache, monkeypatch)
        yield hub
        hub.shutdown()
        thread.join()
        getattr(huggingface_hub, "close_session", lambda: None)()  # older ones have none


def use(url: str, cache: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Let the client ask this Hub."""
    monkeypatch.setattr(constants, "ENDPOINT", url)
    for module in (constants, file_download):  # older ones copy it
        template = url + "/{repo_id}/resolve/{revision}/{filename}"
        monkeypatch.setattr(module, "HUGGINGFACE_CO_URL_TEMPLATE", template, raising=False)
    monkeypatch.setattr(constants, "HF_HUB_CACHE", str(cache))
    monkeypatch.setattr(constants, "HF_HUB_OFFLINE", False)
    forget()
    monkeypatch.setattr("time.sleep", lambda seconds: None)  # between attempts


def forget() -> None:
    """Let older clients, which look at their settings once, look at them again."""
    getattr(_http, "reset_sessions", lambda: None)()
