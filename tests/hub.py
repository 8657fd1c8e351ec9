"""The part of the hub's HTTP API that an upload and a download need, on loopback, with what it was asked and its faults."""

import base64
import hashlib
import json
import re
from collections.abc import Iterator
from contextlib import contextmanager
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from threading import Event, Thread
from urllib.parse import parse_qs

import huggingface_hub.constants
import huggingface_hub.file_download

COMMIT = "a" * 40
REFUSED = 403  # unlike 503 the client does not try it again for half a minute


class Hub(ThreadingHTTPServer):
    """A hub with one repository, whatever it is called.

    `files`: committed path -> content; `requests`: (method, path, authorization) in order; `refuse`: the status that all
    requests get; `gate`: the status that requests for a file's content get, as of a repository with terms to accept.
    `faults`: path -> what goes wrong when its content is next asked for. `breaks`: the connection ends after half
    of it; `ends`: and all is refused from then on; `hangs`: nothing comes after half, which `halfway` tells; `lies`: other
    bytes come, as many as promised. Any fault of `tree`: all is refused from the list of files on.
    `ranges`: where the answers began that were to go on.
    """

    def __init__(self):
        super().__init__(("127.0.0.1", 0), _Handler)
        self.url = f"http://127.0.0.1:{self.server_port}"
        self.files, self.blobs, self.requests, self.refuse, self.gate = {}, {}, [], None, None
        self.faults, self.ranges, self.halfway = {}, [], Event()

    def listed(self) -> list[dict]:
        """All that the hub says about its files, in the words of its several answers."""
        found = []
        for path, content in self.files.items():
            about = {"rfilename": path, "path": path, "type": "file", "size": len(content)}
            about["blobId"] = about["oid"] = hashlib.sha1(content).hexdigest()
            if _mode(path) == "lfs":
                digest = hashlib.sha256(content).hexdigest()
                about["lfs"] = {"sha256": digest, "oid": digest, "size": len(content), "pointerSize": 130}
            found.append(about)
        return found


class _Handler(BaseHTTPRequestHandler):
    def log_message(self, *_) -> None:
        pass

    def do_POST(self) -> None:
        body = self._body()
        if self.server.refuse:
            self._answer({"error": "no"}, self.server.refuse)
        elif self.path == "/api/repos/create":
            self._answer({"url": f"{self.server.url}/{json.loads(body)['organization']}/{json.loads(body)['name']}"})
        elif "/paths-info/" in self.path:
            paths = parse_qs(body.decode())["paths"] if body[:1] != b"{" else json.loads(body)["paths"]
            self._answer([each for each in self.server.listed() if each["path"] in paths])
        elif "/preupload/" in self.path:
            modes = [
                {"path": file["path"], "uploadMode": _mode(file["path"]), "shouldIgnore": False, "oid": None}
                for file in json.loads(body)["files"]
            ]
            self._answer({"files": modes})
        elif self.path.endswith("/info/lfs/objects/batch"):
            objects = [
                {**each, "actions": {"upload": {"href": f"{self.server.url}/lfs/{each['oid']}", "header": {}}}}
                for each in json.loads(body)["objects"]
            ]
            self._answer({"transfer": "basic", "objects": objects})
        elif "/commit/" in self.path:
            for line in map(json.loads, body.splitlines()):
                value = line["value"]
                if line["key"] == "file":
                    self.server.files[value["path"]] = base64.b64decode(value["content"])
                if line["key"] == "lfsFile":
                    self.server.files[value["path"]] = self.server.blobs[value["oid"]]
            name = re.search(r"/api/models/(.+)/commit/", self.path)[1]
            url = f"{self.server.url}/{name}/commit/{COMMIT}"
            self._answer({"success": True, "commitOid": COMMIT, "commitUrl": url, "hookOutput": ""})
        else:
            self._answer({"errors": [], "warnings": []})  # of a README's front matter

    def do_PUT(self) -> None:
        self.server.blobs[self.path.rsplit("/", 1)[-1]] = self._body()
        self._answer({})

    def do_GET(self) -> None:
        self._file(True)

    def do_HEAD(self) -> None:
        self._file(False)

    def _file(self, whole: bool) -> None:
        self._body()
        if "/tree/" in self.path and self.server.faults.pop("tree", None):
            self.server.refuse = REFUSED
        if self.server.refuse:
            return self._answer({"error": "no"}, self.server.refuse)
        if "/tree/" in self.path:
            return self._answer(self.server.listed())
        if name := re.fullmatch(r"/api/(?:models|datasets)/([^/]+/[^/?]+)(/revision/.*)?", self.path.partition("?")[0]):
            card = {"license": "mit"} if "README.md" in self.server.files else {}
            about = {"id": name[1], "sha": COMMIT, "siblings": self.server.listed(), "tags": [], "cardData": card}
            return self._answer(about)
        if self.server.gate:
            return self._answer({"error": "gated"}, self.server.gate, {"X-Error-Code": "GatedRepo"})
        match = re.fullmatch(r"(?:/datasets)?/[^/]+/[^/]+/resolve/[^/]+/(.+)", self.path)
        content = self.server.files.get(match[1]) if match else None
        first, last = (self.headers.get("Range") or "bytes=0-").removeprefix("bytes=").split("-")
        start, stop = int(first), int(last or len(content or b"") - 1) + 1
        self.server.ranges += [start] if start else []
        self.send_response(404 if content is None else 206 if start or last else 200)
        if content is None:
            self.send_header("X-Error-Code", "EntryNotFound")
        else:
            digest = hashlib.sha256 if _mode(match[1]) == "lfs" else hashlib.sha1
            self.send_header("ETag", f'"{digest(content).hexdigest()}"')
            self.send_header("Content-Range", f"bytes {start}-{stop - 1}/{len(content)}")
        self.send_header("Content-Length", str(stop - start))
        self.send_header("X-Repo-Commit", COMMIT)
        self.end_headers()
        if whole and content is not None:
            self._send(content[start:stop], self.server.faults.pop(match[1], None))

    def _send(self, content: bytes, fault: str | None) -> None:
        if fault == "lies":
            content = content[:-1] + bytes([content[-1] ^ 1])
        if fault == "ends":
            self.server.refuse = REFUSED
        self.wfile.write(content[: len(content) // 2 if fault in ("breaks", "ends", "hangs") else None])
        if fault == "hangs":
            self.server.halfway.set()
            self.rfile.read()  # until the other side is gone

    def _body(self) -> bytes:
        self.server.requests.append((self.command, self.path, self.headers.get("Authorization")))
        if self.headers.get("Transfer-Encoding") == "chunked":
            parts = []
            while size := int(self.rfile.readline(), 16):
                parts.append(self.rfile.read(size))
                self.rfile.readline()
            self.rfile.readline()
            return b"".join(parts)
        return self.rfile.read(int(self.headers.get("Content-Length") or 0))

    def _answer(self, value: object, status: int = 200, headers: dict | None = None) -> None:
        content = json.dumps(value).encode()
        self.send_response(status)
        for name, each in (headers or {}).items():
            self.send_header(name, each)
        self.send_header("Content-Type", "application/json")
        self.send_header("Content-Length", str(len(content)))
        self.end_headers()
        self.wfile.write(content)


def _mode(path: str) -> str:
    return "lfs" if path.endswith((".pt", ".safetensors", ".png")) else "regular"


@contextmanager
def serve() -> Iterator[Hub]:
    hub = Hub()
    Thread(target=hub.serve_forever, daemon=True).start()
    try:
        yield hub
    finally:
        hub.shutdown()
        hub.server_close()


def point_at(hub: Hub, home, monkeypatch) -> None:
    """The hub's client of this process and of those it starts asks `hub`, and keeps what it fetches in `home`."""
    variables = {"HF_ENDPOINT": hub.url, "HF_HUB_DISABLE_XET": "1", "HF_HOME": str(home)}
    for name, value in variables.items():
        monkeypatch.setenv(name, value)
    constants = huggingface_hub.constants  # read from the environment once
    template = hub.url + constants.HUGGINGFACE_CO_URL_TEMPLATE.removeprefix(constants.ENDPOINT)
    monkeypatch.setattr(constants, "ENDPOINT", hub.url)
    monkeypatch.setattr(constants, "HF_HUB_CACHE", str(home / "hub"))
    for module in (constants, huggingface_hub.file_download):
        monkeypatch.setattr(module, "HUGGINGFACE_CO_URL_TEMPLATE", template, raising=False)
