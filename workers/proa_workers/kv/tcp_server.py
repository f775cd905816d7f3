"""Transport over TCP, holding side: a data port whose threads send leased blocks."""

from __future__ import annotations

import logging
import socket
import threading
import time
from collections.abc import Collection, Iterable, Iterator, Sequence
from contextlib import contextmanager, suppress
from typing import Protocol

from proa_proto.v1 import kv_control_pb2 as pb

from proa_workers.core.lease import Lease, Reader, Transfer
from proa_workers.errors import StaleTransfer, TransferFailed, UnknownTransfer, WorkerError
from proa_workers.kv.frames import receive_message, send_message, send_views
from proa_workers.kv.layout import BlockRun
from proa_workers.kv.memory import KvMemory, probe_pattern
from proa_workers.kv.stop import StopSignal
from proa_workers.kv.wire import peer_value, run_values, transfer_value

log = logging.getLogger(__name__)

IDLE_SECONDS = 90.0
REQUEST_SECONDS = 10.0
SEND_SECONDS = 60.0
MAX_CONNECTIONS = 256
ACCEPT_PAUSE_SECONDS = 0.1  # after a failure that may last
GATHER_BYTES = 16 << 20  # of a device pool, what is copied to the host at a time

CODES: dict[type[WorkerError], pb.ReadStatus.Code.ValueType] = {
    StaleTransfer: pb.ReadStatus.STALE,
    UnknownTransfer: pb.ReadStatus.UNKNOWN,
}


class SendGate(Protocol):
    """Who says what may be sent, and waits for sends before blocks are used again."""

    def begin_send(self, transfer: Transfer, reader: Reader, runs: Sequence[BlockRun]) -> Lease:
        """Hold the lease; raises StaleTransfer, UnknownTransfer."""

    def end_send(self, lease: Lease, num_bytes: int) -> bool:
        """True when the lease was valid until now."""


class TcpServer:
    """Serves until `close`. One thread accepts, one per connection sends."""

    def __init__(self, memory: KvMemory, gate: SendGate, host: str, port: int) -> None:
        self._memory = memory
        self._gate = gate
        family = socket.AF_INET6 if ":" in host else socket.AF_INET
        self._listener = socket.create_server((host, port), family=family, backlog=MAX_CONNECTIONS)
        self.port: int = self._listener.getsockname()[1]
        self._lock = threading.Lock()
        self._open: dict[socket.socket, threading.Thread] = {}
        self._sends: dict[StopSignal, Lease] = {}
        self._closed = threading.Event()
        self._acceptor = threading.Thread(target=self._accept, name="kv-accept", daemon=True)
        self._acceptor.start()

    def cut(self, leases: Collection[Lease]) -> None:
        """End sends of `leases` now: a reader that has stopped reading must not keep their blocks."""
        with self._lock:
            stops = [stop for stop, lease in self._sends.items() if lease in leases]
        for stop in stops:
            stop.stop(TransferFailed("the lease ended in mid-send"))

    def close(self) -> None:
        """Stop accepting, cut every connection, and wait for their threads."""
        with self._lock:
            self._closed.set()
            connections = dict(self._open)
        for sock in (self._listener, *connections):
            with suppress(OSError):
                sock.shutdown(socket.SHUT_RDWR)
        for thread in (self._acceptor, *connections.values()):
            thread.join(REQUEST_SECONDS)
        self._listener.close()

    def _accept(self) -> None:
        while not self._closed.is_set():
            try:
                sock, _ = self._listener.accept()
            except OSError as error:  # closed; or no file descriptor is left, or the peer is gone already
                if not self._closed.wait(ACCEPT_PAUSE_SECONDS):
                    log.warning("data connection not accepted", extra={"reason": str(error)})
                continue
            thread = threading.Thread(target=self._serve, args=(sock,), name="kv-send", daemon=True)
            with self._lock:
                is_refused = self._closed.is_set() or len(self._open) >= MAX_CONNECTIONS
                if not is_refused:
                    self._open[sock] = thread
                    thread.start()  # under the lock: `close` joins what it finds
            if is_refused:
                sock.close()

    def _serve(self, sock: socket.socket) -> None:
        sock.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
        try:
            while has_request(sock):
                self._answer(sock)
        except TransferFailed as error:
            log.info("data connection ended", extra={"reason": str(error)})
        finally:
            with self._lock:
                del self._open[sock]
            sock.close()

    def _answer(self, sock: socket.socket) -> None:
        request = receive_message(sock, pb.ReadRequest, StopSignal(time.monotonic() + REQUEST_SECONDS))
        stop = StopSignal(time.monotonic() + SEND_SECONDS)
        if request.runs:
            self._send_leased(sock, request, stop)
        else:
            probe = memoryview(probe_pattern(self._memory.layout.block_bytes))
            send_body(sock, probe.nbytes, [[probe]], stop)
            send_verdict(sock, True, stop)

    def _send_leased(self, sock: socket.socket, request: pb.ReadRequest, stop: StopSignal) -> None:
        runs = run_values(request.runs)
        try:
            lease = self._gate.begin_send(transfer_value(request.transfer), peer_value(request.reader), runs)
        except (StaleTransfer, UnknownTransfer) as error:
            send_message(sock, pb.ReadStatus(code=CODES[type(error)], message=str(error)), stop)
            return
        num_bytes = sum(run.num_blocks for run in runs) * self._memory.layout.block_bytes
        num_sent = 0
        try:
            with self._cuttable(lease, sock, stop):
                send_body(sock, num_bytes, gathered(self._memory, runs), stop)
            num_sent = num_bytes
        finally:
            # NOTE: what was sent is copied into the kernel by now (not so with sendfile), so the blocks may change.
            is_valid = self._gate.end_send(lease, num_sent)
        send_verdict(sock, is_valid, stop)

    @contextmanager
    def _cuttable(self, lease: Lease, sock: socket.socket, stop: StopSignal) -> Iterator[None]:
        with self._lock:
            self._sends[stop] = lease
        try:
            with stop.watching(sock):
                yield
        finally:
            with self._lock:
                del self._sends[stop]


def send_body(sock: socket.socket, num_bytes: int, batches: Iterable[list[memoryview]], stop: StopSignal) -> None:
    send_message(sock, pb.ReadStatus(code=pb.ReadStatus.OK, num_bytes=num_bytes), stop)
    for views in batches:
        send_views(sock, views, stop)


def send_verdict(sock: socket.socket, is_valid: bool, stop: StopSignal) -> None:
    status = pb.ReadStatus(code=pb.ReadStatus.OK)
    if not is_valid:
        status = pb.ReadStatus(code=pb.ReadStatus.STALE, message="the lease ended in mid-send: recompute the prompt")
    send_message(sock, status, stop)


def has_request(sock: socket.socket) -> bool:
    """Wait for the next request; False when the peer closes or stays idle too long."""
    sock.settimeout(IDLE_SECONDS)
    try:
        return bool(sock.recv(1, socket.MSG_PEEK))
    except OSError:
        return False


def gathered(memory: KvMemory, runs: Sequence[BlockRun]) -> Iterator[list[memoryview]]:
    """Bytes of `runs` in batches of about GATHER_BYTES."""
    step = max(1, GATHER_BYTES // memory.layout.block_bytes)
    batch: list[memoryview] = []
    room = step
    for run in runs:
        for start in range(run.start, run.start + run.num_blocks, step):
            count = min(step, run.start + run.num_blocks - start)
            batch.append(memory.read_run(BlockRun(start, count)))
            room -= count
            if room <= 0:
                yield batch
                batch, room = [], step
    if batch:
        yield batch
