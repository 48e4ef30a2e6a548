"""A Hub on this machine: the endpoints that huggingface_hub asks to fetch a repository, and to push to it.

Faults and refusals on request. What is pushed becomes a commit of a branch, or a pull request; large files come by LFS.
With `redirects` it sends clients where the Hub does: to another host for large files, to its cache for small ones.
"""

import base64
import hashlib
import json
import re
import threading
from collections import Counter
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from typing import Any
from urllib.parse import parse_qs, quote, unquote, urlsplit

import huggingface_hub
import pytest
from huggingface_hub import constants, file_download
from huggingface_hub.utils import _http

REPO = "org/arm"
LARGE = (".mp4", ".parquet", ".safetensors")  # as in LFS: known by their SHA-256
READER, WRITER = "hf_reader", "hf_writer"  # the tokens that it knows
PAUSE_S = 7  # that it asks for where it is busy


class LocalHub(ThreadingHTTPServer):
    """Serves the folder of one repository; every change that `commit` is told of is a new commit of main."""

    daemon_threads = True

    def __init__(self, folder: Path, kind: str = "datasets"):
        super().__init__(("127.0.0.1", 0), _Answers)
        self.kind, self.folder, self.sent, self.asked = kind, folder, Counter[str](), Counter[str]()
        self.faults: dict[str, list[str]] = {}  # by path: what goes wrong at the next GETs; "PUT": at uploads
        self.busy = 0  # so many of the next requests are too many
        self.redirects = False
        self.denied = 0  # status of every answer, if not 0
        self.delay = 0.0  # seconds before a file
        self.exists, self.private, self.gated, self.guarded = True, False, False, False  # guarded: who may write?
        self.pulls = 0
        self.messages: list[str] = []
        self.objects: dict[str, bytes] = {}
        self.commits: dict[str, dict[str, bytes]] = {}
        self.branches: dict[str, str] = {}
        self.commit()

    @property
    def url(self) -> str:
        return f"http://127.0.0.1:{self.server_address[1]}"

    def commit(self) -> str:
        """Take the folder as it is now as the newest commit of main."""
        files = {p.relative_to(self.folder).as_posix(): p for p in sorted(self.folder.rglob("*")) if p.is_file()}
        return self.add("main", {name: path.read_bytes() for name, path in files.items()})

    def add(self, branch: str, content: dict[str, bytes]) -> str:
        """Take files as the newest commit of a branch."""
        whole = b"".join(name.encode() + data for name, data in sorted(content.items()))
        self.branches[branch] = hashlib.sha1(whole).hexdigest()
        self.commits[self.branches[branch]] = content
        return self.branches[branch]

    @property
    def head(self) -> str:
        """The newest commit of main."""
        return self.branches["main"]

    def files(self, revision: str | None = None) -> dict[str, bytes]:
        """What a branch or commit holds."""
        return self.commits.get(self.branches.get(revision or "main", revision or ""), {})

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
        if self.headers["Content-Type"] == "application/x-www-form-urlencoded":
            self._answer(b"POST", parse_qs(body.decode()))
        else:
            self._push([json.loads(line) for line in body.splitlines()])

    def do_PUT(self) -> None:
        """Take a large file."""
        if self.headers["Transfer-Encoding"] == "chunked":
            parts = []
            while size := int(self.rfile.readline(), 16):
                parts.append(self.rfile.read(size))
                self.rfile.readline()
            self.rfile.readline()
            data = b"".join(parts)
        else:
            data = self.rfile.read(int(self.headers["Content-Length"]))
        if (self.server.faults.get("PUT") or [""]).pop(0) == "cut":
            self.close_connection = True
            return
        if self._asks_for_a_pause():
            return
        self.server.objects[self.path.rpartition("/")[2]] = data
        self._json({})

    def do_DELETE(self) -> None:
        """Forget a tag."""
        known = self.server.branches.pop(unquote(self.path).rpartition("/tag/")[2], None)
        self._json({}, 404 if known is None else 200)

    def _asks_for_a_pause(self) -> bool:
        if not self.server.busy:
            return False
        self.server.busy -= 1
        self._json({"error": "slow down"}, 429, {"Retry-After": str(PAUSE_S)})
        return True

    def _refuses(self, writes: bool) -> bool:
        """Answer who may not do this, as the Hub does; tell whether that was so."""
        hub, token = self.server, (self.headers["Authorization"] or "").removeprefix("Bearer ")
        if self._asks_for_a_pause():
            return True
        if hub.denied:
            self._json({"error": "no"}, hub.denied)
        elif token not in ("", READER, WRITER):
            said = "Invalid credentials in Authorization header"
            self._json({"error": said}, 401, {"X-Error-Message": said})
        elif (hub.private or (writes and hub.guarded)) and not token:
            self._json({"error": "Repository not found"}, 401, {"X-Error-Code": "RepoNotFound"})
        elif writes and hub.guarded and token != WRITER:
            self._json({"error": "Forbidden"}, 403, {"X-Error-Message": "you need write access"})
        else:
            return False
        return True

    def _push(self, lines: list[dict[str, Any]]) -> None:
        hub, path, query = self.server, unquote(urlsplit(self.path).path), parse_qs(urlsplit(self.path).query)
        hub.asked["push"] += 1
        page = f"{hub.url}/{'' if hub.kind == 'models' else f'{hub.kind}/'}{REPO}"
        (first, *rest), repo = lines or [{}], rf"/api/{hub.kind}/{REPO}"
        if self._refuses(writes=True):
            return
        if path == "/api/repos/create":
            existed, hub.exists = hub.exists, True
            hub.private = (
                hub.private if existed else first.get("visibility") == "private" or first.get("private", False)
            )
            self._json({"url": page}, 409 if existed else 200)
        elif path == "/api/validate-yaml":
            self._json({"errors": [], "warnings": []})
        elif found := re.fullmatch(rf"{repo}/(branch|tag)/(.+)", path):
            name, start = (first["tag"], found[2]) if found[1] == "tag" else (found[2], "main")
            known = name in hub.branches
            hub.branches.setdefault(name, hub.branches[start])
            self._json({}, 409 if known else 200)
        elif path.startswith(f"{repo}/preupload/"):
            names = [each["path"] for each in first["files"]]
            modes = [{"path": n, "uploadMode": "lfs" if n.endswith(LARGE) else "regular"} for n in names]
            self._json({"files": [{**mode, "shouldIgnore": False} for mode in modes]})
        elif path.endswith(f"{REPO}.git/info/lfs/objects/batch"):
            missing = [each for each in first["objects"] if each["oid"] not in hub.objects]
            links = [{**each, "actions": {"upload": {"href": f"{hub.url}/lfs/{each['oid']}"}}} for each in missing]
            self._json({"objects": links})
        elif found := re.fullmatch(rf"{repo}/commit/(.+)", path):
            if found[1] not in hub.branches:
                self._json({"error": "no such revision"}, 404, {"X-Error-Code": "RevisionNotFound"})
                return
            content = dict(hub.files(found[1]))
            for line in rest:
                value = line["value"]
                if line["key"] == "deletedFile":
                    del content[value["path"]]
                else:
                    large = line["key"] == "lfsFile"
                    data = hub.objects[value["oid"]] if large else base64.b64decode(value["content"])
                    content[value["path"]] = data
            hub.messages.append(first["value"]["summary"])
            hub.pulls += "create_pr" in query
            commit = hub.add(f"refs/pr/{hub.pulls}" if "create_pr" in query else found[1], content)
            pull = f"{page}/discussions/{hub.pulls}" if "create_pr" in query else None
            self._json({"commitUrl": f"{page}/commit/{commit}", "commitOid": commit, "pullRequestUrl": pull})
        else:
            self._json({"error": f"unknown: {path}"}, 404)

    def _answer(self, verb: bytes, form: dict[str, list[str]] | None = None) -> None:
        hub, path = self.server, unquote(urlsplit(self.path).path)
        hub.asked[verb.decode()] += 1
        under = "" if hub.kind == "models" else f"{hub.kind}/"
        if self._refuses(writes=False):
            return
        if not hub.exists:
            self._json({"error": "no such repository"}, 404, {"X-Error-Code": "RepoNotFound"})
        elif found := re.fullmatch(rf"/api/{hub.kind}/{REPO}(?:/(revision|tree|paths-info)/(.+))?", path):
            what, revision = found.groups()
            commit = hub.branches.get(revision or "main", revision)
            files = hub.commits.get(commit)
            if files is None:
                self._json({"error": "no such revision"}, 404, {"X-Error-Code": "RevisionNotFound"})
            elif what in ("tree", "paths-info"):
                wanted = files if form is None else [name for name in form["paths"] if name in files]
                self._json([_entry(name, files[name]) for name in wanted])
            else:
                siblings = [{"rfilename": name} for name in files]
                self._json({"id": REPO, "sha": commit, "siblings": siblings, "private": False, "tags": []})
        elif found := re.fullmatch(rf"/{under}{REPO}/resolve/([^/]+)/(.+)", path):
            self._file(verb, *found.groups())
        elif found := re.fullmatch(rf"/(?:cdn|api/resolve-cache)/{under}{REPO}/([^/]+)/(.+)", path):
            assert path.startswith("/api") or not self.headers["Authorization"]  # no token for another host
            self._file(verb, *found.groups(), moved=True)
        else:
            self._json({"error": "no such repository"}, 404, {"X-Error-Code": "RepoNotFound"})

    def _file(self, verb: bytes, revision: str, name: str, moved: bool = False) -> None:
        hub, large = self.server, name.endswith(LARGE)
        commit = hub.branches.get(revision, revision)
        if hub.gated:
            self._json({"error": "gated"}, 403 if self.headers["Authorization"] else 401, {"X-Error-Code": "GatedRepo"})
            return
        if name not in hub.commits.get(commit, {}):
            self._json({"error": "no such file"}, 404, {"X-Error-Code": "EntryNotFound", "X-Repo-Commit": commit})
            return
        data = hub.commits[commit][name]
        facts = {"X-Repo-Commit": commit, "ETag": f'"{digest_of(name, data)}"', "Accept-Ranges": "bytes"}
        facts |= {"X-Linked-Etag": facts["ETag"], "X-Linked-Size": str(len(data))} if large else {}
        if hub.redirects and not moved:
            rest = f"{'' if hub.kind == 'models' else f'{hub.kind}/'}{REPO}/{commit}/{quote(name)}"
            host = hub.url.replace("127.0.0.1", "localhost")
            place = f"{host}/cdn/{rest}?signed=1" if large else f"/api/resolve-cache/{rest}"
            self._json({}, 302 if large else 307, facts | {"Location": place})
            return
        if moved and large:  # the host of large files has names of its own for them
            facts = {"ETag": '"another"', "Accept-Ranges": "bytes"}
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
def serving(folder: Path, cache: Path, monkeypatch: pytest.MonkeyPatch, kind: str = "datasets") -> Iterator[LocalHub]:
    """Serve the repository in `folder` to a client whose cache is `cache`."""
    with LocalHub(folder, kind) as hub:
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
    monkeypatch.setattr(constants, "HF_HUB_DISABLE_XET", True, raising=False)  # whose own server is not ours
    forget()
    monkeypatch.setattr("time.sleep", lambda seconds: None)  # between attempts


def forget() -> None:
    """Let older clients, which look at their settings once, look at them again."""
    getattr(_http, "reset_sessions", lambda: None)()
