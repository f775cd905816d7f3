"""The API server without kubectl: requests and watch streams that cost little, for tests with thousands of events."""

from __future__ import annotations

import http.client
import json
import socket
import ssl
import threading
import time
from collections.abc import Callable, Mapping
from concurrent.futures import Future, ThreadPoolExecutor
from contextlib import closing
from dataclasses import dataclass
from functools import partial
from types import TracebackType
from typing import Self

from testbed.cluster import Document
from testbed.control_plane import ControlPlane
from testbed.errors import BedError
from testbed.wait import until

SECONDS = 30.0
STREAM_SECONDS = 240
APPLY, MERGE = "application/apply-patch+yaml", "application/merge-patch+json"
PATHS: Mapping[str, str] = {
    "Pod": "/api/v1/{}pods",
    "Node": "/api/v1/nodes",
    "StatefulSet": "/apis/apps/v1/{}statefulsets",
    "ControllerRevision": "/apis/apps/v1/{}controllerrevisions",
    "WorkerPool": "/apis/proa.dev/v1alpha1/{}workerpools",
    "DisaggregatedService": "/apis/proa.dev/v1alpha1/{}disaggregatedservices",
}


@dataclass(frozen=True, slots=True, kw_only=True)
class Seen:
    """One event of a watch stream."""

    at: float
    """When it arrived, seconds since the epoch."""
    kind: str
    type: str
    """ADDED, MODIFIED or DELETED."""
    body: Document

    @property
    def version(self) -> int:
        """Versions are etcd's revisions: they order the events of all kinds."""
        return int(self.body["metadata"]["resourceVersion"])


class RawApi:
    """Requests with all rights. A connection for each of them: callers are many threads."""

    def __init__(self, bed: ControlPlane) -> None:
        """The bed must have started."""
        self._host, self._port = bed.address, bed.port
        self._trust = ssl.create_default_context(cafile=str(bed.authority.certificate))
        self._trust.load_cert_chain(bed.run / "pki" / "admin.crt", bed.run / "pki" / "admin.key")

    def path(self, kind: str, name: str = "", namespace: str = "", subresource: str = "") -> str:
        """Of an object, or of a list without a name."""
        found = PATHS[kind].format(f"namespaces/{namespace}/" if namespace else "")
        return found + (f"/{name}" if name else "") + (f"/{subresource}" if subresource else "")

    def call(self, method: str, path: str, body: object = None, content: str = "application/json") -> Document:
        """The answer; BedError for anything but success."""
        connection = self.connect(SECONDS)
        try:
            text = None if body is None else json.dumps(body)
            connection.request(method, path, text, {"Content-Type": content, "Accept": "application/json"})
            answer = connection.getresponse()
            found: Document = json.loads(answer.read())
        finally:
            connection.close()
        if answer.status >= 300:
            raise BedError(f"{method} {path}: {answer.status} {found.get('message', found)}")
        return found

    def apply(self, kind: str, namespace: str, body: Document) -> Document:
        """Server-side apply, as a user's kubectl does."""
        path = self.path(kind, body["metadata"]["name"], namespace)
        return self.call("PATCH", f"{path}?fieldManager=user&force=true", body, APPLY)

    def connect(self, seconds: float | None) -> http.client.HTTPSConnection:
        """Not open yet."""
        return http.client.HTTPSConnection(self._host, self._port, timeout=seconds, context=self._trust)


class Watches:
    """Streams of some kinds in one namespace. `see` is called with one event at a time, under `lock`."""

    def __init__(self, api: RawApi, namespace: str, kinds: tuple[str, ...], see: Callable[[Seen], None]) -> None:
        """Nothing flows yet."""
        self._api, self._namespace, self._kinds, self._see = api, namespace, kinds, see
        self._threads = ThreadPoolExecutor(len(kinds))
        self._streams: list[Future[None]] = []
        self._connections: dict[str, http.client.HTTPSConnection] = {}
        self._is_over = False
        self.lock = threading.RLock()

    def __enter__(self) -> Self:
        self._streams = [self._threads.submit(self._follow, kind) for kind in self._kinds]
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        """Raises what broke a stream, also when the test has failed by then: without its events it had to."""
        self._is_over = True
        for connection in self._connections.values():
            if connection.sock is not None:
                connection.sock.shutdown(socket.SHUT_RDWR)
        self._threads.shutdown()
        for stream in self._streams:
            stream.result()

    def _follow(self, kind: str) -> None:
        """The API server ends a stream that is read too slowly: it goes on from the last event."""
        path = self._api.path(kind, namespace="" if kind == "Node" else self._namespace)
        version = "0"
        while not self._is_over:
            words = f"{path}?watch=1&timeoutSeconds={STREAM_SECONDS}&resourceVersion={version}"
            answer = until(partial(self._opened, kind, words), seconds=SECONDS, what=f"a watch of {kind}")
            with answer, closing(self._connections[kind]):
                version = self._read(kind, answer, version)

    def _read(self, kind: str, answer: http.client.HTTPResponse, version: str) -> str:
        """Until the stream ends; the version of its last event."""
        while line := self._line(answer):
            event = json.loads(line)
            if event["type"] == "ERROR":
                raise BedError(f"the watch of {kind} broke: {event['object'].get('message')}")
            with self.lock:
                self._see(Seen(at=time.time(), kind=kind, type=event["type"], body=event["object"]))
            version = event["object"]["metadata"]["resourceVersion"]
        return version

    def _line(self, answer: http.client.HTTPResponse) -> bytes:
        try:
            return answer.readline()
        except (OSError, ValueError, http.client.HTTPException):
            if self._is_over:
                return b""  # the end of the test cuts the stream anywhere
            raise

    def _opened(self, kind: str, path: str) -> http.client.HTTPResponse | None:
        """None as long as the API server does not serve the kind yet."""
        connection = self._api.connect(None)
        connection.request("GET", path)
        answer = connection.getresponse()
        if answer.status != 200:
            connection.close()
            return None
        self._connections[kind] = connection
        return answer
