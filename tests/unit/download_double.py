"""A double of a hub and of a registry, written for these tests: protocols, scripted faults, counted bytes."""

from __future__ import annotations

import hashlib
import json
import re
import threading
from collections import defaultdict, deque
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass, field
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from typing import Any
from urllib.parse import unquote, urlsplit

from proa_operator.local.backoff import Backoff
from proa_operator.model_download.lock import LockTiming
from proa_operator.model_download.retry import Patience
from proa_operator.model_download.settings import Settings
from proa_operator.model_download.stop import Stop
from proa_operator.model_download.uri import parse_uri

COMMIT = "c0ffee" + "0" * 34
REPOSITORY = "org/model"
WEIGHTS = "model.safetensors"
MODEL: dict[str, bytes] = {
    "config.json": b'{"architectures": ["Tiny"]}',
    "tokenizer.json": b"{}",
    "sub/extra.json": b"[1, 2, 3]",
    "empty.txt": b"",
    WEIGHTS: bytes(range(256)) * 4096,
    "pytorch_model.bin": b"the same weights again",
    "README.md": b"# not needed",
}
NEEDED = sorted(set(MODEL) - {"pytorch_model.bin", "README.md"})
NEEDED_BYTES = sum(len(MODEL[path]) for path in NEEDED)
_HOLD_SECONDS = 60.0


@dataclass(frozen=True, kw_only=True)
class Fault:
    """What is done once instead of an answer; the fields that are set count."""

    status: int = 0
    headers: Mapping[str, str] = field(default_factory=dict)
    content: bytes | None = None
    """Other bytes than listed."""
    cut_after: int | None = None
    """The connection ends after so many bytes of the body."""
    hold_after: int | None = None
    """After so many bytes nothing more comes until `release`."""
    ignores_range: bool = False
    other_range: bool = False


@dataclass(frozen=True, kw_only=True)
class Seen:
    """One request."""

    name: str
    path: str
    range: str
    authorization: str


class Double(ThreadingHTTPServer):
    """`faults[NAME]` are used up one by one; NAME is a file's path, list, manifest, token or cdn/PATH."""

    daemon_threads = True

    def __init__(self) -> None:
        super().__init__(("127.0.0.1", 0), _Handler)
        self.files = dict(MODEL)
        self.lies: dict[str, Any] = {}
        """By path: fields of the hub's list, or of the layer, that are not true."""
        self.names: dict[str, str] = {}
        """By path: another name in the list."""
        self.faults: defaultdict[str, deque[Fault]] = defaultdict(deque)
        self.seen: list[Seen] = []
        self.sent: defaultdict[str, int] = defaultdict(int)
        self.commit = COMMIT
        self.gone: set[str] = set()
        self.secret = ""
        """What the hub's Authorization, or the registry's password, must be."""
        self.cdn = ""
        """Address of another double that has the contents."""
        self.media_type = "application/vnd.cncf.model.weight.v1.raw"
        self.title = "org.opencontainers.image.title"
        self.held = threading.Event()
        self.release = threading.Event()

    @property
    def url(self) -> str:
        return f"http://127.0.0.1:{self.server_address[1]}"

    @property
    def oci(self) -> str:
        return f"oci://127.0.0.1:{self.server_address[1]}/team/model"

    @property
    def file_bytes(self) -> int:
        """Bytes of contents, without lists and tokens."""
        return sum(count for name, count in self.sent.items() if name.removeprefix("cdn/") in self.files)

    def plan(self, name: str, *faults: Fault) -> None:
        self.faults[name].extend(faults)

    def manifest(self) -> bytes:
        layers = [self._layer(path, content) for path, content in sorted(self.files.items())]
        return json.dumps({"schemaVersion": 2, "mediaType": MANIFEST, "layers": layers}).encode()

    def listing(self) -> bytes:
        entries = []
        for path, content in self.files.items():
            entry: dict[str, Any] = {"rfilename": self.names.get(path, path), "size": len(content)}
            entry["blobId"] = hashlib.sha1(b"blob %d\0" % len(content) + content).hexdigest()
            if path.endswith((".safetensors", ".bin")):
                entry["lfs"] = {"sha256": hashlib.sha256(content).hexdigest(), "size": len(content)}
            entries.append(entry | self.lies.get(path, {}))
        return json.dumps({"sha": self.commit, "siblings": entries}).encode()

    def _layer(self, path: str, content: bytes) -> dict[str, Any]:
        layer = {
            "mediaType": self.media_type,
            "digest": f"sha256:{hashlib.sha256(content).hexdigest()}",
            "size": len(content),
            "annotations": {self.title: self.names.get(path, path)},
        }
        return layer | self.lies.get(path, {})


MANIFEST = "application/vnd.oci.image.manifest.v1+json"


class _Handler(BaseHTTPRequestHandler):
    server: Double
    protocol_version = "HTTP/1.1"

    def log_message(self, format: str, *args: object) -> None:  # noqa: A002
        """Nothing."""

    def do_GET(self) -> None:
        name, content = self._find(unquote(urlsplit(self.path).path))
        double = self.server
        double.seen.append(
            Seen(
                name=name,
                path=urlsplit(self.path).path,
                range=self.headers.get("Range", ""),
                authorization=self.headers.get("Authorization", ""),
            )
        )
        fault = double.faults[name].popleft() if double.faults[name] else Fault()
        if fault.status:
            self._answer(name, fault.status, fault.headers, b"")
        elif content is None:
            self._answer(name, 404, {}, b"")
        elif self._asks_for_login(name):
            self._answer(name, 401, self._challenge(), b"")
        elif double.cdn and name in double.files:
            self._answer(name, 302, {"Location": f"{double.cdn}/cdn/{name}?signature=s3cret"}, b"")
        else:
            self._content(name, content if fault.content is None else fault.content, fault)

    def _find(self, path: str) -> tuple[str, bytes | None]:
        double = self.server
        if path.startswith(f"/api/models/{REPOSITORY}/revision/"):
            revision = path.rpartition("/")[2]
            return "list", None if revision in double.gone else double.listing()
        if found := re.fullmatch(f"/{REPOSITORY}/resolve/[^/]+/(.+)", path):
            return found[1], double.files.get(found[1])
        if path.startswith("/cdn/"):
            return path[1:], double.files.get(path[5:])
        if found := re.fullmatch("/v2/team/model/manifests/(.+)", path):
            return "manifest", None if found[1] in double.gone else double.manifest()
        if found := re.fullmatch("/v2/team/model/blobs/sha256:(.+)", path):
            for name, content in double.files.items():
                if hashlib.sha256(content).hexdigest() == found[1]:
                    return name, content
        if path == "/token":
            return "token", json.dumps({"token": "given"}).encode()
        return path, None

    def _asks_for_login(self, name: str) -> bool:
        double, sent = self.server, self.headers.get("Authorization", "")
        if not double.secret or name == "token" or name.startswith("cdn/"):
            return False
        if self.path.startswith("/v2/"):
            return sent != "Bearer given"
        return sent != double.secret

    def _challenge(self) -> dict[str, str]:
        realm = f'Bearer realm="{self.server.url}/token",service="registry",scope="repository:team/model:pull"'
        return {"WWW-Authenticate": realm} if self.path.startswith("/v2/") else {}

    def _content(self, name: str, content: bytes, fault: Fault) -> None:
        asked = re.fullmatch(r"bytes=(\d+)-", self.headers.get("Range", ""))
        if asked is None or fault.ignores_range:
            self._answer(name, 200, fault.headers, content, fault)
            return
        start = int(asked[1]) - fault.other_range
        if start >= len(content):
            self._answer(name, 416, {}, b"")
            return
        given = {"Content-Range": f"bytes {start}-{len(content) - 1}/{len(content)}"}
        self._answer(name, 206, given, content[start:], fault)

    def _answer(self, name: str, status: int, headers: Mapping[str, str], body: bytes, fault: Fault = Fault()) -> None:
        self.send_response(status)
        for header, value in headers.items():
            self.send_header(header, value)
        self.send_header("Content-Length", str(len(body)))
        self.end_headers()
        stops = [stop for stop in (fault.cut_after, fault.hold_after) if stop is not None]
        first = body[: min(stops, default=len(body))]
        self.server.sent[name] += len(first)
        self.wfile.write(first)
        self.wfile.flush()
        if fault.hold_after is not None:
            self.server.held.set()
            self.server.release.wait(_HOLD_SECONDS)
        self.close_connection = self.close_connection or len(first) < len(body)


class Impatient(Stop):
    """Remembers the waits instead of waiting."""

    def __init__(self) -> None:
        super().__init__()
        self.waits: list[float] = []

    def pause(self, seconds: float) -> None:
        self.waits.append(seconds)
        self.check()


@contextmanager
def served() -> Iterator[Double]:
    """A running double."""
    with Double() as double:
        thread = threading.Thread(target=double.serve_forever, args=(0.02,), daemon=True)
        thread.start()
        try:
            yield double
        finally:
            double.release.set()
            double.shutdown()
            thread.join(60)


def settings(target: Path, uri: str, endpoint: str, **changes: Any) -> Settings:
    """Small, without real waits when used with Impatient."""
    given: dict[str, Any] = {
        "uri": parse_uri(uri),
        "target": target,
        "progress_port": None,
        "num_parallel": 2,
        "endpoint": endpoint,
        "token": "",
        "patience": Patience(num_attempts=4, backoff=Backoff(first_seconds=1.0, cap_seconds=8.0, jitter=0.5)),
        "lock": LockTiming(stale_seconds=30.0, wait_seconds=60.0),
    }
    return Settings(**given | changes)


def is_whole(target: Path, files: Mapping[str, bytes] = MODEL) -> bool:
    """Exactly the needed files with their contents, and the record."""
    found = {str(path.relative_to(target)): path.read_bytes() for path in target.rglob("*") if path.is_file()}
    record = json.loads(found.pop("complete.json"))
    return found == {path: files[path] for path in NEEDED} and [file["path"] for file in record["files"]] == NEEDED
