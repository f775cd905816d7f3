"""How far the download is: one JSON line now and then, and GET /progress for the operator."""

from __future__ import annotations

import json
import logging
import socket
import socketserver
import threading
from collections.abc import Iterator
from contextlib import ExitStack, contextmanager
from enum import StrEnum
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer

_log = logging.getLogger(__name__)
_LINE_SECONDS = 15.0
_CLIENT_SECONDS = 5.0


class Phase(StrEnum):
    """What the process does."""

    WAITING = "waiting"
    """For another download into the same folder."""
    LISTING = "listing"
    DOWNLOADING = "downloading"
    COMPLETE = "complete"
    FAILED = "failed"


class Progress:
    """Written by the threads of the download, read by the server."""

    def __init__(self) -> None:
        self._lock = threading.Lock()
        self._phase = Phase.WAITING
        self._bytes: dict[str, int] = {}
        self._total = 0

    def enter(self, phase: Phase) -> None:
        with self._lock:
            self._phase = phase
        _log.info("phase", extra=self.snapshot())

    def expect(self, total_bytes: int) -> None:
        with self._lock:
            self._total = total_bytes

    def hold(self, path: str, num_bytes: int) -> None:
        """So much of the file is on the disk."""
        with self._lock:
            self._bytes[path] = num_bytes

    def snapshot(self) -> dict[str, object]:
        """`bytesTotal` is 0 while unknown."""
        with self._lock:
            return {"phase": self._phase.value, "bytesDone": sum(self._bytes.values()), "bytesTotal": self._total}


@contextmanager
def told(progress: Progress, port: int | None) -> Iterator[None]:
    """Lines while it lasts, and an answer on `port` unless None; 0 takes a free one and logs it. OSError if taken."""
    end = threading.Event()
    lines = threading.Thread(target=_lines, args=(progress, end), name="progress", daemon=True)
    with ExitStack() as stack:
        if port is not None:
            stack.enter_context(_served(progress, port))
        lines.start()
        try:
            yield
        finally:
            end.set()
            lines.join(_LINE_SECONDS)


def _lines(progress: Progress, end: threading.Event) -> None:
    last = progress.snapshot()
    while not end.wait(_LINE_SECONDS):
        if (now := progress.snapshot()) != last:
            _log.info("progress", extra=now)
            last = now


@contextmanager
def _served(progress: Progress, port: int) -> Iterator[None]:
    server = _Server(progress, port)
    thread = threading.Thread(target=server.serve_forever, args=(0.1,), name="progress-server", daemon=True)
    thread.start()
    _log.info("progress is served", extra={"port": server.server_address[1]})
    try:
        yield
    finally:
        server.shutdown()
        server.server_close()


class _Server(ThreadingHTTPServer):
    """Pod addresses may be of either family."""

    daemon_threads = True
    address_family = socket.AF_INET6 if socket.has_dualstack_ipv6() else socket.AF_INET

    def __init__(self, progress: Progress, port: int) -> None:
        self.progress = progress
        super().__init__(("", port), _Handler)

    def server_bind(self) -> None:
        if self.address_family is socket.AF_INET6:
            self.socket.setsockopt(socket.IPPROTO_IPV6, socket.IPV6_V6ONLY, 0)
        # NOTE: not HTTPServer's own, which asks the name server who we are.
        socketserver.TCPServer.server_bind(self)


class _Handler(BaseHTTPRequestHandler):
    server: _Server
    timeout = _CLIENT_SECONDS

    def do_GET(self) -> None:
        """/progress as JSON: what Progress.snapshot tells; 404 for anything else."""
        if self.path != "/progress":
            self.send_error(404)
            return
        body = json.dumps(self.server.progress.snapshot()).encode()
        self.send_response(200)
        self.send_header("Content-Type", "application/json")
        self.send_header("Content-Length", str(len(body)))
        self.end_headers()
        self.wfile.write(body)

    def log_message(self, format: str, *args: object) -> None:  # noqa: A002 - the base class's name
        """Nothing: the operator asks every few seconds."""
