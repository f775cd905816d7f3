"""Hello: compare layouts with a holder, choose a transport, and prove with one block that it works."""

from __future__ import annotations

import asyncio
import logging
import time
from collections.abc import Callable
from typing import Literal

import grpc.aio
from proa_proto.v1 import kv_control_pb2 as pb
from proa_proto.v1 import kv_control_pb2_grpc as pb_grpc

from proa_workers.core.lease import Reader
from proa_workers.errors import IncompatiblePeer, TransferFailed
from proa_workers.kv.layout import KvLayout
from proa_workers.kv.memory import probe_pattern
from proa_workers.kv.peer import RPC_SECONDS, PeerLink, call
from proa_workers.kv.shm import ShmTransport, host_id
from proa_workers.kv.stop import StopSignal
from proa_workers.kv.tcp import TcpTransport
from proa_workers.kv.transport import Transport
from proa_workers.kv.wire import peer_message, peer_value

log = logging.getLogger(__name__)

TransportChoice = Literal["auto", "shm", "tcp"]
OpenTransport = Callable[[pb.HelloReply, TransportChoice, Reader], Transport]

CHANNEL_OPTIONS = (("grpc.enable_http_proxy", 0), ("grpc.max_reconnect_backoff_ms", 1000))
NUM_STREAMS = 4


async def connect(
    address: str, *, reader: Reader, layout: KvLayout, choice: TransportChoice, open_transport: OpenTransport
) -> PeerLink:
    """Link to the holder whose KvControl is at `address`, tried with one probe block.

    Raises IncompatiblePeer when layouts differ or the transport asked for cannot work, TransferFailed when unreachable.
    """
    channel = grpc.aio.insecure_channel(address, options=CHANNEL_OPTIONS)
    try:
        stub = pb_grpc.KvControlStub(channel)
        request = pb.HelloRequest(reader=peer_message(reader), layout_hash=layout.compat_hash())
        hello = await call(stub.Hello, request, RPC_SECONDS, address)
        if hello.layout_hash != layout.compat_hash():
            raise IncompatiblePeer(
                f"{address} has KV layout {hello.layout_hash}, this worker {layout.compat_hash()}: "
                "give both pools the same model, dtype and block size"
            )
        transport = open_transport(hello, choice, reader)
        await probe_transport(transport, layout.block_bytes)
    except BaseException:  # also CancelledError: the channel must not be left open
        await channel.close()
        raise
    return PeerLink(address, channel, peer_value(hello.holder), transport, reader)


def open_transport(hello: pb.HelloReply, choice: TransportChoice, reader: Reader) -> Transport:
    """Shared memory when both see the same /dev/shm and it is not ruled out, else tcp.

    Raises IncompatiblePeer naming why the one asked for cannot work.
    """
    obstacle = shm_obstacle(hello)
    if choice == "tcp" or (choice == "auto" and obstacle):
        return open_tcp(hello, reader)
    if obstacle:
        raise IncompatiblePeer(f"shm was asked for, but {obstacle}: set the transport to tcp or auto")
    try:
        return ShmTransport(
            hello.shm_name, block_bytes=hello.block_bytes, num_blocks=hello.num_blocks, num_streams=NUM_STREAMS
        )
    except IncompatiblePeer as error:
        if choice == "shm":
            raise
        log.warning("KV pool on this host cannot be mapped, using tcp", extra={"reason": str(error)})
        return open_tcp(hello, reader)


def shm_obstacle(hello: pb.HelloReply) -> str:
    """Why the holder's pool cannot be mapped; empty when it can."""
    if not hello.shm_name:
        return f"the pool of {hello.holder.engine_id} is on a device"
    if hello.host_id != host_id():
        return f"{hello.holder.engine_id} has another /dev/shm ({hello.host_id}) than this worker ({host_id()})"
    return ""


def open_tcp(hello: pb.HelloReply, reader: Reader) -> TcpTransport:
    if not hello.tcp_address:
        raise IncompatiblePeer(f"{hello.holder.engine_id} has no data port: start it with the tcp transport")
    return TcpTransport(hello.tcp_address, reader=reader, block_bytes=hello.block_bytes, num_streams=NUM_STREAMS)


async def probe_transport(transport: Transport, block_bytes: int) -> float:
    """Seconds that reading the probe block took; raises TransferFailed when it fails or has the wrong bytes."""
    stop = StopSignal(time.monotonic() + RPC_SECONDS)
    start = time.perf_counter()
    block = await asyncio.to_thread(transport.read_probe, stop)
    seconds = time.perf_counter() - start
    if block != probe_pattern(block_bytes):
        raise TransferFailed(f"the probe block arrived with wrong bytes over {transport.name}")
    return seconds
