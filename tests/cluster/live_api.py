"""The API server without kubectl: requests and watch streams that cost little, for tests with thousands of events."""

from __future__ import annotations

import http.client
import json
import ssl
import threading
import time
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from types import TracebackType
from typing import Self

from testbed.cluster import Document
from testbed.control_plane import ControlPlane
from testbed.errors import BedError
from testbed.wait import until

SECONDS = 30.0
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
        self._api, self._namespace, self._see = api, namespace, see
        self._threads = [threading.Thread(target=self._follow, args=(kind,), daemon=True) for kind in kinds]
        self._connections: list[http.client.HTTPSConnection] = []
        self._is_over = False
        self.lock = threading.RLock()
        self.failure: BaseException | None = None

    def __enter__(self) -> Self:
        for thread in self._threads:
            thread.start()
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self._is_over = True
        for connection in self._connections:
            if connection.sock is not None:
                connection.sock.shutdown(2)
        for thread in self._threads:
            thread.join(SECONDS)
        for connection in self._connections:
            connection.close()
        if self.failure is not None:
            raise self.failure  # also when the test has failed by then: without its events it had to

    def _follow(self, kind: str) -> None:
        namespace = "" if kind == "Node" else self._namespace
        try:
            self._read(kind, f"{self._api.path(kind, namespace=namespace)}?watch=1&resourceVersion=0")
        except Exception as error:
            if not self._is_over:
                self.failure = error

    def _read(self, kind: str, path: str) -> None:
        answer = until(lambda: self._opened(path), seconds=SECONDS, what=f"a watch of {kind}")
        with answer:
            while line := answer.readline():
                event = json.loads(line)
                if event["type"] == "ERROR":
                    raise BedError(f"the watch of {kind} broke: {event['object'].get('message')}")
                with self.lock:
                    self._see(Seen(at=time.time(), kind=kind, type=event["type"], body=event["object"]))
        if not self._is_over:
            raise BedError(f"the watch of {kind} ended")

    def _opened(self, path: str) -> http.client.HTTPResponse | None:
        """None as long as the API server does not serve the kind yet."""
        connection = self._api.connect(None)
        connection.request("GET", path)
        answer = connection.getresponse()
        if answer.status != 200:
            connection.close()
            return None
        self._connections.append(connection)
        return answer
