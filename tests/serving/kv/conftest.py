"""A holder and a reader in one process that talk over real loopback sockets and real shared memory."""

from __future__ import annotations

import asyncio
import json
import random
import threading
from collections.abc import AsyncIterator, Awaitable, Callable, Iterator, Sequence
from dataclasses import dataclass, field

import grpc.aio
import pytest
from proa_proto.v1 import kv_control_pb2 as pb
from proa_proto.v1 import kv_control_pb2_grpc as pb_grpc
from proa_workers.core.lease import Reader, Transfer
from proa_workers.errors import TransferFailed
from proa_workers.kv.connect import OpenTransport, TransportChoice, open_transport
from proa_workers.kv.handoff import HandOff
from proa_workers.kv.holder import KvHolder
from proa_workers.kv.layout import BlockRun, KvLayout
from proa_workers.kv.memory import HostKvMemory, KvMemory
from proa_workers.kv.reader import KvReader
from proa_workers.kv.stop import StopSignal
from proa_workers.kv.transport import Chunk, Transport
from proa_workers.serving.interceptor import ErrorInterceptor
from proa_workers.serving.kv_control import KvControl

LAYOUT = KvLayout(model="m", kind="mla", dtype="bfloat16", block_tokens=16, block_shape=(4, 16, 64))
NUM_BLOCKS = 64


class CopyingMemory:
    """As a device pool behaves: no shared memory, and what is read is a copy."""

    shm_name: str | None = None

    def __init__(self, layout: KvLayout, num_blocks: int) -> None:
        self.layout = layout
        self.num_blocks = num_blocks
        self._bytes = bytearray(layout.block_bytes * num_blocks)

    def read_run(self, run: BlockRun) -> memoryview:
        return memoryview(bytes(self._bytes[self._span(run)]))

    def write_run(self, run: BlockRun, source: memoryview) -> None:
        self._bytes[self._span(run)] = source

    def close(self) -> None:
        pass

    def _span(self, run: BlockRun) -> slice:
        size = self.layout.block_bytes
        return slice(run.start * size, (run.start + run.num_blocks) * size)


@dataclass(kw_only=True)
class Clock:
    now: float = 100.0

    def __call__(self) -> float:
        return self.now


class Pins:
    """Blocks that the holder's owner has pinned; complains about a second unpin."""

    def __init__(self) -> None:
        self.blocks: set[int] = set()
        self._lock = threading.Lock()

    def pin(self, blocks: Sequence[int]) -> None:
        with self._lock:
            assert self.blocks.isdisjoint(blocks)
            self.blocks |= set(blocks)

    def unpin(self, blocks: Sequence[int]) -> None:
        with self._lock:
            assert self.blocks >= set(blocks), f"{blocks} unpinned, pinned are {self.blocks}"
            self.blocks -= set(blocks)


class FaultyTransport:
    """Wraps a transport; `fault` sees each chunk after it has arrived and before it is verified."""

    def __init__(self, inner: Transport, fault: Callable[[Chunk], None]) -> None:
        self.inner = inner
        self.name = inner.name
        self.num_streams = inner.num_streams
        self.fault = fault

    def read(self, transfer: Transfer, chunks: Sequence[Chunk], stop: StopSignal) -> Iterator[Chunk]:
        for chunk in self.inner.read(transfer, chunks, stop):
            self.fault(chunk)
            yield chunk

    def read_probe(self, stop: StopSignal) -> bytes:
        return self.inner.read_probe(stop)

    def close(self) -> None:
        self.inner.close()


@dataclass(kw_only=True)
class Pair:
    source: KvMemory
    target: KvMemory
    holder: KvHolder
    reader: KvReader
    server: grpc.aio.Server
    pins: Pins
    clock: Clock
    faults: list[Callable[[Chunk], None]]
    content: dict[int, bytes] = field(default_factory=dict)
    chance: random.Random = field(default_factory=lambda: random.Random(7))

    def offer(self, blocks: Sequence[int], num_tokens: int | None = None) -> HandOff:
        """Fill blocks with fresh random bytes, pin and offer them."""
        for block in blocks:
            self.content[block] = self.chance.randbytes(LAYOUT.block_bytes)
            self.source.write_run(BlockRun(block, 1), memoryview(self.content[block]))
        self.pins.pin(blocks)
        params = self.holder.offer(blocks, num_tokens or len(blocks) * LAYOUT.block_tokens)
        return HandOff.parse(json.dumps(params))

    def is_copied(self, sources: Sequence[int], targets: Sequence[int]) -> bool:
        return all(
            bytes(self.target.read_run(BlockRun(target, 1))) == self.content[source]
            for source, target in zip(sources, targets, strict=True)
        )

    async def let_go(self, seconds: float) -> None:
        """Wait until no lease is left and all blocks are unpinned, which the holder's threads do just after."""
        async with asyncio.timeout(seconds):
            while self.holder.num_leases or self.pins.blocks:
                await asyncio.sleep(0.001)

    def expire(self, seconds: float) -> None:
        self.clock.now += seconds
        self.holder.sweep()

    async def close(self) -> None:
        await self.reader.close()
        self.expire(2 * self.holder.lease_seconds)
        self.expire(2 * self.holder.lease_seconds)
        await self.server.stop(0)
        self.holder.close()
        self.source.close()
        self.target.close()
        assert not self.pins.blocks, f"blocks are still pinned: {self.pins.blocks}"
        assert not self.holder.num_leases


MakePair = Callable[..., Awaitable[Pair]]


def opening(fault: Callable[[Chunk], None]) -> OpenTransport:
    """`open_transport` with `fault` in between."""

    def open_faulty(hello: pb.HelloReply, choice: TransportChoice, reader: Reader) -> Transport:
        return FaultyTransport(open_transport(hello, choice, reader), fault)

    return open_faulty


@pytest.fixture
def faulty_opener() -> Callable[[Callable[[Chunk], None]], OpenTransport]:
    return opening


@pytest.fixture
async def make_pair() -> AsyncIterator[MakePair]:
    """Factory by transport, kinds of memory and reader settings; at the end everything is closed and accounted for."""
    pairs: list[Pair] = []

    async def make(
        transport: TransportChoice = "shm",
        source_kind: type[KvMemory] = HostKvMemory,
        target_kind: type[KvMemory] = HostKvMemory,
        source_layout: KvLayout = LAYOUT,
        target_layout: KvLayout = LAYOUT,
        lease_seconds: float = 10.0,
        clock: Callable[[], float] | None = None,
        **reader_settings: object,
    ) -> Pair:
        faults: list[Callable[[Chunk], None]] = []

        def fault(chunk: Chunk) -> None:
            for one in faults:
                one(chunk)

        source, target = source_kind(source_layout, NUM_BLOCKS), target_kind(target_layout, NUM_BLOCKS)
        pins, fake_clock = Pins(), Clock()
        server = grpc.aio.server(interceptors=[ErrorInterceptor()])
        port = server.add_insecure_port("127.0.0.1:0")
        holder = KvHolder(
            source,
            engine_id="p",
            epoch=1,
            control_address=f"127.0.0.1:{port}",
            lease_seconds=lease_seconds,
            unpin=pins.unpin,
            clock=clock or fake_clock,
        )
        holder.serve_tcp("127.0.0.1")
        pb_grpc.add_KvControlServicer_to_server(KvControl(holder), server)
        await server.start()
        reader = KvReader(
            target, engine_id="d", epoch=1, transport=transport, open_transport=opening(fault), **reader_settings
        )
        pair = Pair(
            source=source,
            target=target,
            holder=holder,
            reader=reader,
            server=server,
            pins=pins,
            clock=fake_clock,
            faults=faults,
        )
        pairs.append(pair)
        return pair

    yield make
    for pair in pairs:
        await pair.close()


@pytest.fixture
def copying_memory() -> type[CopyingMemory]:
    return CopyingMemory


@pytest.fixture
def corrupt() -> Callable[[Chunk], None]:
    """Fault that flips a bit of every chunk."""

    def flip(chunk: Chunk) -> None:
        chunk.view()[0] ^= 1

    return flip


@pytest.fixture
def cut() -> Callable[[Chunk], None]:
    """Fault as of a connection that breaks after the first chunk."""

    def fail(chunk: Chunk) -> None:
        raise TransferFailed("peer closed the data connection")

    return fail
