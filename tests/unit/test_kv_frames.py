"""The data port against peers that are broken, silent or no workers at all."""

from __future__ import annotations

import errno
import socket
import threading
import time
from collections.abc import Callable, Iterator, Sequence
from contextlib import suppress

import pytest
from proa_proto.v1 import kv_control_pb2 as pb
from proa_workers.core.lease import Lease, Reader, Transfer
from proa_workers.errors import TransferFailed, UnknownTransfer
from proa_workers.kv import frames, tcp_server
from proa_workers.kv.frames import receive_message, receive_views, send_message, send_views
from proa_workers.kv.layout import BlockRun, KvLayout
from proa_workers.kv.memory import HostKvMemory, probe_pattern
from proa_workers.kv.stop import StopSignal
from proa_workers.kv.tcp import TcpTransport
from proa_workers.kv.tcp_server import TcpServer

LAYOUT = KvLayout(model="m", kind="mla", dtype="uint8", block_tokens=1, block_shape=(1000,))
READER = Reader("d", 1)
Wire = tuple[socket.socket, socket.socket]


class NoLeases:
    def begin_send(self, transfer: Transfer, reader: Reader, runs: Sequence[BlockRun]) -> Lease:
        raise UnknownTransfer("no lease")

    def end_send(self, lease: Lease, num_bytes: int) -> bool:
        return True


@pytest.fixture
def wire() -> Iterator[Wire]:
    ours, theirs = socket.socketpair()
    yield ours, theirs
    ours.close()
    theirs.close()


@pytest.fixture
def server() -> Iterator[TcpServer]:
    pool = HostKvMemory(LAYOUT, 2)
    server = TcpServer(pool, NoLeases(), "127.0.0.1", 0)
    yield server
    server.close()
    pool.close()


def soon(seconds: float = 60.0) -> StopSignal:
    return StopSignal(time.monotonic() + seconds)


def probe(port: int) -> bytes:
    transport = TcpTransport(f"127.0.0.1:{port}", reader=READER, block_bytes=1000, num_streams=1)
    try:
        return transport.read_probe(soon())
    finally:
        transport.close()


def test_many_views_in_few_calls(wire: Wire) -> None:
    ours, theirs = wire
    parts = [bytes([i % 256]) * (i % 7) for i in range(3000)]
    sender = threading.Thread(target=send_views, args=(ours, [memoryview(part) for part in parts], soon()))
    sender.start()
    targets = [bytearray(len(part)) for part in parts]
    receive_views(theirs, [memoryview(target) for target in targets], soon())
    sender.join(60)
    assert [bytes(target) for target in targets] == parts


@pytest.mark.parametrize(
    ("sent", "reason"),
    [
        (b"GET / HTTP/1.1\r\n\r\n", "is it a worker's data port"),
        (b"\0\0\0\x02\xff\xff", "unreadable ReadRequest"),
        (b"\0\0\0\x09abc", "closed the data connection"),
        (b"", "closed the data connection"),
    ],
)
def test_what_is_no_message(wire: Wire, sent: bytes, reason: str) -> None:
    ours, theirs = wire
    theirs.sendall(sent)
    theirs.shutdown(socket.SHUT_WR)
    with pytest.raises(TransferFailed, match=reason):
        receive_message(ours, pb.ReadRequest, soon())


@pytest.mark.parametrize(
    ("stop", "reason"),
    [(lambda: soon(), "data connection failed: timed out"), (lambda: soon(0.05), "past its deadline")],
    ids=["stalled", "deadline"],
)
def test_silence_ends(wire: Wire, stop: Callable[[], StopSignal], reason: str, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(frames, "STALL_SECONDS", 0.1)
    with pytest.raises(TransferFailed, match=reason):
        receive_message(wire[0], pb.ReadRequest, stop())


def test_stop_wakes_a_receiver_at_once(wire: Wire, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(frames, "STALL_SECONDS", 600.0)
    stop = soon(240.0)
    with stop.watching(wire[0]):
        threading.Timer(0.01, stop.stop, [TransferFailed("enough")]).start()
        with pytest.raises(TransferFailed, match="enough"):
            receive_message(wire[0], pb.ReadRequest, stop)
    assert stop.deadline - time.monotonic() > 120.0, "it was woken, not out of time"


def test_server_survives_strangers(server: TcpServer) -> None:
    for garbage in (b"", b"GET / HTTP/1.1\r\n\r\n", b"\0\0\0\x02\xff\xff"):
        address = ("127.0.0.1", server.port)
        with suppress(OSError), socket.create_connection(address, timeout=60) as stranger:  # cut off at some moment
            stranger.sendall(garbage)
            stranger.shutdown(socket.SHUT_WR)
            assert stranger.recv(1) == b""
    assert probe(server.port) == probe_pattern(1000)


def test_refused_request_leaves_the_connection_usable(server: TcpServer) -> None:
    with socket.create_connection(("127.0.0.1", server.port), timeout=60) as sock:
        for _ in range(2):
            send_message(sock, pb.ReadRequest(runs=[pb.BlockRun(start=0, num_blocks=1)]), soon())
            status = receive_message(sock, pb.ReadStatus, soon())
            assert (status.code, status.message) == (pb.ReadStatus.UNKNOWN, "no lease")


def test_too_many_connections_are_closed(server: TcpServer, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(tcp_server, "MAX_CONNECTIONS", 1)
    with socket.create_connection(("127.0.0.1", server.port), timeout=60) as first:
        send_message(first, pb.ReadRequest(reader=pb.Peer(engine_id="d")), soon())
        receive_message(first, pb.ReadStatus, soon())
        with socket.create_connection(("127.0.0.1", server.port), timeout=60) as second:
            assert second.recv(1) == b""


class FailingOnce:
    """Listener whose next `accept` fails, as with too many open files or a peer that is gone before it is accepted."""

    def __init__(self, listener: socket.socket) -> None:
        self._listener = listener
        self.has_failed = threading.Event()

    def accept(self) -> tuple[socket.socket, object]:
        if not self.has_failed.is_set():
            self.has_failed.set()
            raise OSError(errno.EMFILE, "too many open files")
        return self._listener.accept()

    def __getattr__(self, name: str) -> object:
        return getattr(self._listener, name)


def test_failed_accept_does_not_close_the_port(server: TcpServer, caplog: pytest.LogCaptureFixture) -> None:
    server._listener = listener = FailingOnce(server._listener)
    assert probe(server.port) == probe_pattern(1000)  # by the accept that was under way
    assert listener.has_failed.wait(60)
    assert probe(server.port) == probe_pattern(1000)
    assert "too many open files" in caplog.records[-1].reason


def test_close_cuts_idle_connections(server: TcpServer) -> None:
    with socket.create_connection(("127.0.0.1", server.port), timeout=60) as idle:
        send_message(idle, pb.ReadRequest(), soon())
        receive_message(idle, pb.ReadStatus, soon())
        server.close()
        while idle.recv(4096):  # its answer, and then the end: by itself the server would wait longer than this socket
            pass


def test_connection_that_outlives_its_transport_is_closed(server: TcpServer) -> None:
    transport = TcpTransport(f"127.0.0.1:{server.port}", reader=READER, block_bytes=1000, num_streams=1)
    with transport._connection(soon()) as sock:
        transport.close()  # the link to a restarted holder is replaced while a read is under way
    assert sock.fileno() == -1
