"""The part of the hub's HTTP API that an upload and a download need, on loopback, with what it was asked."""

import base64
import json
import re
from collections.abc import Iterator
from contextlib import contextmanager
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from threading import Thread

COMMIT = "a" * 40


class Hub(ThreadingHTTPServer):
    """`files`: committed path -> content; `requests`: (method, path, authorization) in order; `refuse`: a status."""

    def __init__(self):
        super().__init__(("127.0.0.1", 0), _Handler)
        self.url = f"http://127.0.0.1:{self.server_port}"
        self.files, self.blobs, self.requests, self.refuse = {}, {}, [], None


class _Handler(BaseHTTPRequestHandler):
    def log_message(self, *_) -> None:
        pass

    def do_POST(self) -> None:
        body = self._body()
        if self.server.refuse:
            self._answer({"error": "no"}, self.server.refuse)
        elif self.path == "/api/repos/create":
            self._answer({"url": f"{self.server.url}/{json.loads(body)['organization']}/{json.loads(body)['name']}"})
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
        match = re.fullmatch(r"/[^/]+/[^/]+/resolve/[^/]+/(.+)", self.path)
        content = self.server.files.get(match[1]) if match else None
        self.send_response(404 if content is None else 200)
        if content is None:
            self.send_header("X-Error-Code", "EntryNotFound")
        self.send_header("Content-Length", str(len(content or b"")))
        self.send_header("ETag", f'"{hash(content) & (2**64 - 1):x}"')
        self.send_header("X-Repo-Commit", COMMIT)
        self.end_headers()
        if whole and content is not None:
            self.wfile.write(content)

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

    def _answer(self, value: dict, status: int = 200) -> None:
        content = json.dumps(value).encode()
        self.send_response(status)
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
