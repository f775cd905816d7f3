"""Faults in the middle of a fetch: afterwards the data is equal, or there is a typed error and nothing stays pinned."""

from __future__ import annotations

import asyncio
import random
import threading
from collections.abc import Awaitable, Callable
from typing import Any

import pytest
from proa_workers.core.lease import Event, Lease, Outcome, State
from proa_workers.errors import StaleTransfer, TransferFailed, WorkerError
from proa_workers.kv.transport import Chunk

MakePair = Callable[..., Awaitable[Any]]
Fault = Callable[[Chunk], None]
both_transports = pytest.mark.parametrize("transport", ["shm", "tcp"])
SOURCES, TARGETS = [9, 4, 5, 20], [0, 1, 2, 3]
WAIT_SECONDS = 60.0


def once(fault: Fault) -> Fault:
    """`fault` at the first chunk only."""
    pending = [fault]
    return lambda chunk: pending.pop()(chunk) if pending else None


class Gate:
    """Fault that stops the move at its first chunk until `open`."""

    def __init__(self) -> None:
        self.is_reached, self._is_open = threading.Event(), threading.Event()

    def __call__(self, chunk: Chunk) -> None:
        self.is_reached.set()
        assert self._is_open.wait(WAIT_SECONDS)

    async def reached(self) -> None:
        assert await asyncio.to_thread(self.is_reached.wait, WAIT_SECONDS)

    def open(self) -> None:
        self._is_open.set()


@both_transports
@pytest.mark.parametrize("fault", ["corrupt", "cut"])
async def test_one_fault_is_retried(
    make_pair: MakePair, transport: str, fault: str, request: pytest.FixtureRequest
) -> None:
    pair = await make_pair(transport)
    pair.faults.append(once(request.getfixturevalue(fault)))
    await pair.reader.fetch(pair.offer(SOURCES), TARGETS, 0)
    assert pair.is_copied(SOURCES, TARGETS)
    assert pair.reader.num_retries == 1


@both_transports
@pytest.mark.parametrize(
    ("fault", "reason"), [("corrupt", "arrived with a wrong checksum"), ("cut", "closed the data connection")]
)
async def test_lasting_fault_is_an_error(
    make_pair: MakePair, transport: str, fault: str, reason: str, request: pytest.FixtureRequest
) -> None:
    pair = await make_pair(transport)
    pair.faults.append(request.getfixturevalue(fault))
    with pytest.raises(TransferFailed, match=reason):
        await pair.reader.fetch(pair.offer(SOURCES), TARGETS, 0)
    await pair.let_go(WAIT_SECONDS)
    assert (pair.pins.blocks, pair.holder.count_outcomes()[Outcome.ABORTED]) == (set(), 1)


async def test_without_checksums_corruption_goes_unnoticed(
    make_pair: MakePair, corrupt: Fault, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Planted fault: it is the checksum that finds it."""
    monkeypatch.setattr("proa_workers.kv.transport.Chunk.settle", lambda self: None)
    pair = await make_pair()
    pair.faults.append(corrupt)
    await pair.reader.fetch(pair.offer(SOURCES), TARGETS, 0)
    assert not pair.is_copied(SOURCES, TARGETS)


@both_transports
async def test_cancelled_fetch_ends_after_the_last_write(make_pair: MakePair, transport: str) -> None:
    pair = await make_pair(transport)
    gate = Gate()
    pair.faults.append(gate)
    fetch = asyncio.create_task(pair.reader.fetch(pair.offer(SOURCES), TARGETS, 0))
    await gate.reached()
    for _ in range(3):
        fetch.cancel()
        await asyncio.sleep(0)
    assert not fetch.done()
    gate.open()
    with pytest.raises(asyncio.CancelledError):
        await fetch
    await pair.let_go(WAIT_SECONDS)
    assert (pair.pins.blocks, pair.holder.count_outcomes()[Outcome.ABORTED]) == (set(), 1)


@both_transports
async def test_lease_that_expires_in_mid_read(make_pair: MakePair, transport: str) -> None:
    pair = await make_pair(transport)
    pinned_then: list[set[int]] = []

    def expire(chunk: Chunk) -> None:
        pair.expire(pair.holder.lease_seconds)
        pinned_then.append(set(pair.pins.blocks))

    pair.faults.append(once(expire))
    with pytest.raises(StaleTransfer):
        await pair.reader.fetch(pair.offer(SOURCES), TARGETS, 0)
    assert pinned_then == [set(SOURCES)]
    await pair.let_go(WAIT_SECONDS)
    assert (pair.pins.blocks, pair.holder.count_outcomes()[Outcome.EXPIRED]) == (set(), 1)


@pytest.mark.parametrize("is_fenced", [True, False])
async def test_reuse_under_a_reader(make_pair: MakePair, is_fenced: bool, monkeypatch: pytest.MonkeyPatch) -> None:
    """Planted fault: without quarantine, blocks change under a reader; then checksums or Commit must find it."""
    if not is_fenced:
        monkeypatch.setattr(Lease, "_settle", free_without_fence)
    pair = await make_pair("shm", num_attempts=1)
    params = pair.offer(SOURCES)

    def reuse(chunk: Chunk) -> None:
        pair.holder.apply(params.transfer, Event.REVOKE, None)
        if not pair.pins.blocks:
            chunk.view()[:] = random.Random(3).randbytes(chunk.num_bytes)  # as the next owner of the blocks would

    pair.faults.append(once(reuse))
    with pytest.raises(TransferFailed if not is_fenced else StaleTransfer):
        await pair.reader.fetch(params, TARGETS, 0)
    assert pair.is_copied(SOURCES[:1], TARGETS[:1]) is is_fenced


def free_without_fence(lease: Lease, now: float) -> None:
    if lease.state in (State.CONSUMED, State.QUARANTINE):
        lease.state = State.FREE


@both_transports
async def test_renewals_keep_a_slow_move_alive(make_pair: MakePair, transport: str) -> None:
    pair = await make_pair(transport, lease_seconds=0.3)
    gate = Gate()
    pair.faults.append(gate)
    fetch = asyncio.create_task(pair.reader.fetch(pair.offer(SOURCES), TARGETS, 0))
    await gate.reached()
    for _ in range(4):
        await renewed(pair)
        pair.expire(0.25)  # four times this is past any lease that is not renewed
    gate.open()
    await fetch
    assert pair.is_copied(SOURCES, TARGETS)


async def renewed(pair: Any) -> None:
    """Wait for the next Renew."""
    loop, seen = asyncio.get_running_loop(), asyncio.Event()
    apply = type(pair.holder).apply

    def watch(transfer: Any, event: Event, reader: Any) -> None:
        try:
            apply(pair.holder, transfer, event, reader)
        finally:
            if event is Event.RENEW:
                loop.call_soon_threadsafe(seen.set)

    pair.holder.apply = watch
    await asyncio.wait_for(seen.wait(), WAIT_SECONDS)
    del pair.holder.apply


@both_transports
async def test_lost_lease_stops_a_slow_move(make_pair: MakePair, transport: str) -> None:
    pair = await make_pair(transport, lease_seconds=0.3)
    gate = Gate()
    pair.faults.append(gate)
    params = pair.offer(SOURCES)
    fetch = asyncio.create_task(pair.reader.fetch(params, TARGETS, 0))
    await gate.reached()
    pair.holder.apply(params.transfer, Event.REVOKE, None)
    await renewed(pair)
    gate.open()
    with pytest.raises(StaleTransfer):
        await fetch
    await pair.let_go(WAIT_SECONDS)
    assert not pair.pins.blocks


@pytest.mark.parametrize("is_done", [True, False], ids=["answer lost", "request lost"])
async def test_lost_commit_is_repeated(make_pair: MakePair, is_done: bool) -> None:
    pair = await make_pair()
    apply, losses = pair.holder.apply, [True]

    def lossy(transfer: Any, event: Event, reader: Any) -> None:
        is_lost = event is Event.COMMIT and losses.pop() if losses else False
        if not is_lost or is_done:
            apply(transfer, event, reader)
        if is_lost:
            raise TransferFailed("lost")

    pair.holder.apply = lossy
    await pair.reader.fetch(pair.offer(SOURCES), TARGETS, 0)
    assert (pair.is_copied(SOURCES, TARGETS), pair.reader.num_retries) == (True, 0)


@both_transports
async def test_deadline_of_a_fetch(make_pair: MakePair, transport: str) -> None:
    pair = await make_pair(transport, fetch_seconds=0.2)
    pair.faults.append(lambda chunk: threading.Event().wait(0.15))
    with pytest.raises(TransferFailed, match="past its deadline"):
        await pair.reader.fetch(pair.offer(SOURCES), TARGETS, 0)
    await pair.let_go(WAIT_SECONDS)
    assert not pair.pins.blocks


@both_transports
async def test_abort_storm(make_pair: MakePair, transport: str, corrupt: Fault) -> None:
    """200 hand-offs, a third cancelled at a random moment, one chunk in fifty corrupted."""
    pair = await make_pair(transport)
    await pair.reader.fetch(pair.offer([0]), [0], 0)
    chance = random.Random(7)
    pair.faults.append(lambda chunk: corrupt(chunk) if chance.random() < 0.02 else None)
    async with asyncio.timeout(60):
        rounds = await asyncio.gather(*(run_many(pair, slot, 25, random.Random(slot)) for slot in range(8)))
    outcomes = [outcome for one in rounds for outcome in one]
    assert set(outcomes) <= {"equal", "cancelled", "error"}
    assert outcomes.count("equal") > 100
    await pair.let_go(WAIT_SECONDS)
    assert not pair.pins.blocks


async def run_many(pair: Any, slot: int, count: int, chance: random.Random) -> list[str]:
    return [await run_one(pair, slot, chance) for _ in range(count)]


async def run_one(pair: Any, slot: int, chance: random.Random) -> str:
    blocks = list(range(8 * slot, 8 * slot + 8))
    while pair.pins.blocks.intersection(blocks):  # an abort on its way
        await asyncio.sleep(0)
    fetch = asyncio.create_task(pair.reader.fetch(pair.offer(blocks), blocks, 0))
    if chance.random() < 0.3:
        for _ in range(chance.randrange(1, 40)):
            await asyncio.sleep(0)
        fetch.cancel()
    try:
        await fetch
    except asyncio.CancelledError:
        return "cancelled"
    except WorkerError:
        return "error"
    return "equal" if pair.is_copied(blocks, blocks) else "CORRUPT"


async def test_link_to_a_dead_holder_is_closed(make_pair: MakePair) -> None:
    """Its pool must not stay mapped: a successor on this host needs the memory."""
    pair = await make_pair()
    await pair.reader.fetch(pair.offer([1]), [1], 0)
    await pair.server.stop(0)
    async with asyncio.timeout(WAIT_SECONDS):
        while len(pair.reader.peers):
            await asyncio.sleep(0.01)
