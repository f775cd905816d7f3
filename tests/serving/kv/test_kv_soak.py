"""Two holders, two readers, and a network that loses, repeats and corrupts: no block lost, no wrong byte accepted."""

from __future__ import annotations

import asyncio
import os
import random
import time
from collections import Counter
from collections.abc import Awaitable, Callable
from typing import Any

import grpc.aio
import pytest
from proa_proto.v1 import kv_control_pb2_grpc as pb_grpc
from proa_workers.core.lease import Event
from proa_workers.errors import TransferFailed, WorkerError
from proa_workers.kv.connect import OpenTransport
from proa_workers.kv.handoff import HandOff
from proa_workers.kv.holder import KvHolder
from proa_workers.kv.layout import BlockRun, KvLayout
from proa_workers.kv.memory import HostKvMemory
from proa_workers.kv.reader import KvReader
from proa_workers.kv.transport import Chunk
from proa_workers.serving.interceptor import ErrorInterceptor
from proa_workers.serving.kv_control import KvControl

LAYOUT = KvLayout(model="soak", kind="mla", dtype="uint8", block_tokens=1, block_shape=(2048,))
NUM_BLOCKS = 48
LEASE_SECONDS = 0.5
NUM_FETCHES = int(os.environ.get("PROA_SOAK_FETCHES", "1000"))  # 20000 took a minute per transport


class LossyControl(KvControl):
    """Of twelve calls one is lost on the way in, one on the way out, and one arrives twice."""

    def __init__(self, holder: KvHolder, chance: random.Random) -> None:
        super().__init__(holder)
        for name in ("Reserve", "Commit", "Renew", "Release", "Abort"):
            setattr(self, name, self.lossy(getattr(self, name), chance))

    @staticmethod
    def lossy(method: Callable[..., Awaitable[Any]], chance: random.Random) -> Callable[..., Awaitable[Any]]:
        async def call(request: Any, context: Any) -> Any:
            fate = chance.randrange(12)
            if fate == 0:
                raise TransferFailed("lost on the way in")
            reply = await method(request, context)
            if fate == 1:
                raise TransferFailed("lost on the way out")
            return await method(request, context) if fate == 2 else reply

        return call


class Holder:
    """A worker's prefill side: blocks go back to the free list, and are used anew, as soon as they are unpinned."""

    def __init__(self, name: str, chance: random.Random) -> None:
        self.pool = HostKvMemory(LAYOUT, NUM_BLOCKS)
        self.free = list(range(NUM_BLOCKS))
        self.server = grpc.aio.server(interceptors=[ErrorInterceptor()])
        self.holder = KvHolder(
            self.pool,
            engine_id=name,
            epoch=1,
            control_address=f"127.0.0.1:{self.server.add_insecure_port('127.0.0.1:0')}",
            lease_seconds=LEASE_SECONDS,
            unclaimed_seconds=LEASE_SECONDS,
            unpin=self.free.extend,
        )
        self.holder.serve_tcp("127.0.0.1")
        pb_grpc.add_KvControlServicer_to_server(LossyControl(self.holder, chance), self.server)

    def offer(self, num_blocks: int, chance: random.Random) -> tuple[HandOff, list[bytes]]:
        blocks = [self.free.pop(chance.randrange(len(self.free))) for _ in range(num_blocks)]
        content = [chance.randbytes(LAYOUT.block_bytes) for _ in blocks]
        for block, part in zip(blocks, content, strict=True):
            self.pool.write_run(BlockRun(block, 1), memoryview(part))
        params = self.holder.offer(blocks, num_blocks)
        return HandOff(**{k: v for k, v in params.items() if k not in ("do_remote_prefill", "connector")}), content

    async def sweep(self) -> None:
        while True:
            self.holder.sweep()
            await asyncio.sleep(0.05)

    async def close(self) -> None:
        await self.server.stop(0)
        await asyncio.to_thread(self.holder.close)
        self.pool.close()


class Slot:
    """One request after the other on blocks of its own in a reader's pool."""

    def __init__(self, reader: KvReader, pool: HostKvMemory, first: int, holders: list[Holder], seed: int) -> None:
        self.reader, self.pool, self.first, self.holders = reader, pool, first, holders
        self.chance = random.Random(seed)
        self.verdicts: Counter[str] = Counter()

    async def run(self, count: int) -> None:
        for _ in range(count):
            holder = self.chance.choice(self.holders)
            num_blocks = self.chance.randint(1, 6)
            while len(holder.free) < num_blocks:
                await asyncio.sleep(0.01)
            self.verdicts[await self.one(holder, num_blocks)] += 1

    async def one(self, holder: Holder, num_blocks: int) -> str:
        params, content = holder.offer(num_blocks, self.chance)
        targets = self.chance.sample(range(self.first, self.first + 6), num_blocks)
        fate = self.chance.random()
        if fate < 0.05:
            return "ignored"
        if fate < 0.1:
            await self.reader.release(params)
            return "released"
        fetch = asyncio.create_task(self.reader.fetch(params, targets, 0))
        if fate < 0.3:
            await asyncio.sleep(self.chance.random() * 0.01)
            fetch.cancel()
        elif fate < 0.35:
            await asyncio.sleep(self.chance.random() * 0.01)
            self.revoke(holder, params)
        try:
            await fetch
        except asyncio.CancelledError:
            return "cancelled"
        except WorkerError as error:
            return type(error).__name__
        arrived = [bytes(self.pool.read_run(BlockRun(block, 1))) for block in targets]
        return "equal" if arrived == content else "CORRUPT"

    def revoke(self, holder: Holder, params: HandOff) -> None:
        try:
            holder.holder.apply(params.transfer, Event.REVOKE, None)
        except WorkerError:
            self.verdicts["was over"] += 1


def disturb(chunk: Chunk, chance: random.Random) -> None:
    fate = chance.random()
    if fate < 0.01:
        chunk.view()[0] ^= 1
    elif fate < 0.02:
        raise TransferFailed("cut")
    elif fate < 0.05:
        time.sleep(0.002)


async def soak(transport: str, opener: OpenTransport, chance: random.Random) -> tuple[Counter[str], list[list[int]]]:
    """Verdicts of all requests, and the free blocks of each holder once leases and grace have passed."""
    holders = [Holder(f"p{i}", chance) for i in range(2)]
    pools = [HostKvMemory(LAYOUT, NUM_BLOCKS) for _ in range(2)]
    readers: list[Any] = [
        KvReader(pool, engine_id=f"d{i}", epoch=1, transport=transport, open_transport=opener)  # type: ignore[arg-type]
        for i, pool in enumerate(pools)
    ]
    for holder in holders:
        await holder.server.start()
    sweepers = [asyncio.create_task(holder.sweep()) for holder in holders]
    slots = [Slot(readers[i % 2], pools[i % 2], 6 * (i // 2), holders, i) for i in range(16)]
    async with asyncio.timeout(200):
        await asyncio.gather(*(slot.run(NUM_FETCHES // len(slots)) for slot in slots))
    for reader in readers:
        await reader.close()
    for holder in holders:
        assert await holder.holder.drained(60)
    for task in sweepers:
        task.cancel()
    for holder in holders:
        await holder.close()
    for pool in pools:
        pool.close()
    return sum((slot.verdicts for slot in slots), Counter[str]()), [sorted(holder.free) for holder in holders]


@pytest.mark.parametrize("transport", ["shm", "tcp"])
async def test_soak(transport: str, faulty_opener: Callable[[Callable[[Chunk], None]], OpenTransport]) -> None:
    chance = random.Random(11)
    verdicts, free = await soak(transport, faulty_opener(lambda chunk: disturb(chunk, chance)), chance)
    assert "CORRUPT" not in verdicts
    assert verdicts["equal"] > NUM_FETCHES / 2, verdicts
    assert free == [list(range(NUM_BLOCKS))] * 2


async def test_soak_without_checksums_finds_corruption(
    faulty_opener: Callable[[Callable[[Chunk], None]], OpenTransport], monkeypatch: pytest.MonkeyPatch
) -> None:
    """Planted fault: the comparison above sees wrong bytes when nothing else does."""
    monkeypatch.setattr(Chunk, "settle", lambda self: None)
    chance = random.Random(11)
    verdicts, _ = await soak("shm", faulty_opener(lambda chunk: disturb(chunk, chance)), chance)
    assert verdicts["CORRUPT"]
