"""Transport over TCP, reading side: requests on a few kept connections, bytes received straight into the pool."""

from __future__ import annotations

import socket
import threading
import time
from collections import deque
from collections.abc import Iterator, Sequence
from contextlib import contextmanager

from proa_proto.v1 import kv_control_pb2 as pb

from proa_workers.core.lease import Reader, Transfer
from proa_workers.errors import StaleTransfer, TransferFailed, UnknownTransfer, WorkerError
from proa_workers.kv.frames import receive_message, receive_views, send_message
from proa_workers.kv.layout import from_runs, to_runs
from proa_workers.kv.stop import StopSignal
from proa_workers.kv.transport import CHUNK_BYTES, Chunk
from proa_workers.kv.wire import peer_message, run_messages, transfer_message

CONNECT_SECONDS = 3.0
KEEP_SECONDS = 30.0  # below the server's idle limit, so that a kept connection is not one that it closes just now

STATUS_ERRORS: dict[pb.ReadStatus.Code.ValueType, type[WorkerError]] = {
    pb.ReadStatus.STALE: StaleTransfer,
    pb.ReadStatus.UNKNOWN: UnknownTransfer,
}


class TcpTransport:
    """Connections to one holder's data port; one request at a time on each."""

    name = "tcp"

    def __init__(self, address: str, *, reader: Reader, block_bytes: int, num_streams: int) -> None:
        self.num_streams = num_streams
        self._address = split_address(address)
        self._reader = reader
        self._block_bytes = block_bytes
        self._lock = threading.Lock()
        self._idle: deque[tuple[float, socket.socket]] = deque()
        self._is_closed = False

    def read(self, transfer: Transfer, chunks: Sequence[Chunk], stop: StopSignal) -> Iterator[Chunk]:
        """As BlockReader.read, in the order of `chunks`, over one connection that is kept for the next transfer."""
        runs = to_runs(block for chunk in chunks for block in from_runs([chunk.source]))
        request = pb.ReadRequest(
            transfer=transfer_message(transfer), reader=peer_message(self._reader), runs=run_messages(runs)
        )
        with self._connection(stop) as sock:
            send_message(sock, request, stop)
            expect_ok(sock, sum(chunk.num_bytes for chunk in chunks), stop)
            for group in grouped(chunks):
                receive_views(sock, [chunk.view() for chunk in group], stop)
                yield from group
            expect_ok(sock, 0, stop)

    def read_probe(self, stop: StopSignal) -> bytes:
        with self._connection(stop) as sock:
            send_message(sock, pb.ReadRequest(reader=peer_message(self._reader)), stop)
            expect_ok(sock, self._block_bytes, stop)
            target = bytearray(self._block_bytes)
            receive_views(sock, [memoryview(target)], stop)
            expect_ok(sock, 0, stop)
        return bytes(target)

    def close(self) -> None:
        with self._lock:
            self._is_closed = True
            idle, self._idle = self._idle, deque()
        for _, sock in idle:
            sock.close()

    def __del__(self) -> None:
        """A link that is dropped while a thread still reads through it leaves its connection to the last reference."""
        self.close()

    @contextmanager
    def _connection(self, stop: StopSignal) -> Iterator[socket.socket]:
        sock = self._kept() or self._connect(stop)
        try:
            with stop.watching(sock):
                yield sock
        except BaseException:  # also GeneratorExit: a connection left in mid-answer cannot be used again
            sock.close()
            raise
        self._keep(sock)

    def _keep(self, sock: socket.socket) -> None:
        """For the next request; a read that outlived `close` ends its connection."""
        with self._lock:
            if not self._is_closed:
                self._idle.append((time.monotonic(), sock))
                return
        sock.close()

    def _kept(self) -> socket.socket | None:
        with self._lock:
            while self._idle:
                since, sock = self._idle.pop()
                if time.monotonic() - since < KEEP_SECONDS:
                    return sock
                sock.close()
        return None

    def _connect(self, stop: StopSignal) -> socket.socket:
        try:
            sock = socket.create_connection(self._address, timeout=min(CONNECT_SECONDS, stop.check()))
        except OSError as error:
            raise TransferFailed(
                f"cannot reach the data port {self._address[0]}:{self._address[1]}: {error}"
            ) from error
        sock.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
        return sock


def expect_ok(sock: socket.socket, num_bytes: int, stop: StopSignal) -> None:
    """Read a ReadStatus that announces `num_bytes`; raises the error that its code names, else TransferFailed."""
    status = receive_message(sock, pb.ReadStatus, stop)
    if status.code != pb.ReadStatus.OK:
        raise STATUS_ERRORS.get(status.code, TransferFailed)(status.message)
    if status.num_bytes != num_bytes:
        raise TransferFailed(f"peer announces {status.num_bytes} bytes where {num_bytes} were asked for")


def grouped(chunks: Sequence[Chunk]) -> Iterator[list[Chunk]]:
    """Consecutive chunks of together at least CHUNK_BYTES: one system call fills many small ones."""
    group: list[Chunk] = []
    size = 0
    for chunk in chunks:
        group.append(chunk)
        size += chunk.num_bytes
        if size >= CHUNK_BYTES:
            yield group
            group, size = [], 0
    if group:
        yield group


def split_address(address: str) -> tuple[str, int]:
    """host:port or [host]:port; raises TransferFailed."""
    host, _, port = address.rpartition(":")
    if not host or not port.isdigit():
        raise TransferFailed(f"{address!r} is not host:port")
    return host.strip("[]"), int(port)
