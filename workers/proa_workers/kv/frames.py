"""Framed messages and raw block bytes over a socket; every system call has a deadline.

Raises TransferFailed for whatever goes wrong with the connection.
"""

from __future__ import annotations

import socket
import struct
from collections.abc import Callable, Sequence
from typing import TypeVar

from google.protobuf.message import DecodeError, Message

from proa_workers.errors import TransferFailed
from proa_workers.kv.stop import StopSignal

LENGTH = struct.Struct("!I")
MAX_MESSAGE_BYTES = 16 << 20
MAX_VIEWS = 512  # per system call; the kernel takes 1024
STALL_SECONDS = 5.0  # without a single byte

M = TypeVar("M", bound=Message)


def send_message(sock: socket.socket, message: Message, stop: StopSignal) -> None:
    body = message.SerializeToString()
    send_views(sock, [memoryview(LENGTH.pack(len(body)) + body)], stop)


def receive_message(sock: socket.socket, kind: type[M], stop: StopSignal) -> M:
    """Next frame as a `kind`."""
    head = bytearray(LENGTH.size)
    receive_views(sock, [memoryview(head)], stop)
    (length,) = LENGTH.unpack(head)
    if length > MAX_MESSAGE_BYTES:
        raise TransferFailed(f"peer announces a message of {length} bytes; is it a worker's data port?")
    body = bytearray(length)
    receive_views(sock, [memoryview(body)], stop)
    try:
        return kind.FromString(bytes(body))
    except DecodeError as error:
        raise TransferFailed(f"peer sent an unreadable {kind.__name__}") from error


def send_views(sock: socket.socket, views: Sequence[memoryview], stop: StopSignal) -> None:
    """Send all bytes of `views`, gathered into few system calls."""
    _pump(sock, views, stop, lambda batch: sock.sendmsg(batch))


def receive_views(sock: socket.socket, views: Sequence[memoryview], stop: StopSignal) -> None:
    """Fill `views` in order, straight from the socket."""
    _pump(sock, views, stop, lambda batch: sock.recvmsg_into(batch)[0])


def _pump(
    sock: socket.socket, views: Sequence[memoryview], stop: StopSignal, move: Callable[[list[memoryview]], int]
) -> None:
    pending = [view for view in views if view.nbytes]
    first = 0
    while first < len(pending):
        sock.settimeout(min(STALL_SECONDS, stop.check()))
        try:
            count = move(pending[first : first + MAX_VIEWS])
        except OSError as error:
            stop.check()
            raise TransferFailed(f"data connection failed: {error or type(error).__name__}") from error
        if not count:
            stop.check()
            raise TransferFailed("peer closed the data connection")
        while first < len(pending) and count >= pending[first].nbytes:
            count -= pending[first].nbytes
            first += 1
        if count:
            pending[first] = pending[first][count:]
