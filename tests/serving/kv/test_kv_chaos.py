"""Processes that are killed or stopped in the middle of a hand-off."""

from __future__ import annotations

import asyncio
import importlib.util
import json
import signal
import sys
import time
from collections.abc import AsyncIterator, Awaitable, Callable
from contextlib import asynccontextmanager
from pathlib import Path
from typing import Any

import pytest
from proa_workers.core.lease import Outcome
from proa_workers.errors import TransferFailed
from proa_workers.kv.handoff import HandOff
from proa_workers.kv.memory import remove_stale_segments
from proa_workers.kv.transport import Chunk

CHILD = Path(__file__).with_name("child.py")
spec = importlib.util.spec_from_file_location("kv_child", CHILD)
assert spec
assert spec.loader
child = importlib.util.module_from_spec(spec)
spec.loader.exec_module(child)

MakePair = Callable[..., Awaitable[Any]]
both_transports = pytest.mark.parametrize("transport", ["shm", "tcp"])
WAIT_SECONDS = 60.0
LEASE_SECONDS = 0.6


class Child:
    def __init__(self, process: asyncio.subprocess.Process) -> None:
        self._process = process

    async def says(self) -> str:
        assert self._process.stdout
        return (await asyncio.wait_for(self._process.stdout.readline(), WAIT_SECONDS)).decode().strip()

    def tell(self, line: str) -> None:
        assert self._process.stdin
        self._process.stdin.write(f"{line}\n".encode())

    def signal(self, number: signal.Signals) -> None:
        self._process.send_signal(number)


@asynccontextmanager
async def started(*args: str) -> AsyncIterator[Child]:
    process = await asyncio.create_subprocess_exec(
        sys.executable, str(CHILD), *args, stdin=asyncio.subprocess.PIPE, stdout=asyncio.subprocess.PIPE
    )
    try:
        yield Child(process)
    finally:
        if process.returncode is None:
            process.kill()
        await asyncio.wait_for(process.wait(), WAIT_SECONDS)
        remove_stale_segments()


async def until_swept(pair: Any) -> None:
    """Sweep as the worker's ticker does until nothing is leased."""
    async with asyncio.timeout(WAIT_SECONDS):
        while pair.holder.num_leases:
            pair.holder.sweep()
            await asyncio.sleep(0.02)


async def holder_here(make_pair: MakePair) -> Any:
    pair = await make_pair(clock=time.monotonic, lease_seconds=LEASE_SECONDS, source_layout=child.LAYOUT)
    child.fill(pair.source)
    return pair


def offer_all(pair: Any) -> str:
    blocks = range(pair.source.num_blocks)
    pair.pins.pin(blocks)
    return json.dumps(pair.holder.offer(blocks, len(blocks) * child.LAYOUT.block_tokens))


@both_transports
async def test_reader_is_killed_in_mid_move(make_pair: MakePair, transport: str) -> None:
    pair = await holder_here(make_pair)
    async with started("reader", transport) as reader:
        reader.tell(offer_all(pair))
        assert await reader.says() == "moving"
        assert pair.pins.blocks
        reader.signal(signal.SIGKILL)
        await until_swept(pair)
    assert (pair.pins.blocks, pair.holder.count_outcomes()[Outcome.EXPIRED]) == (set(), 1)


@both_transports
async def test_stopped_reader_wakes_up_too_late(make_pair: MakePair, transport: str) -> None:
    pair = await holder_here(make_pair)
    async with started("reader", transport) as reader:
        reader.tell(offer_all(pair))
        assert await reader.says() == "moving"
        reader.signal(signal.SIGSTOP)
        await until_swept(pair)
        for block in range(pair.source.num_blocks):  # the next owner of the blocks
            pair.source.write_run(child.BlockRun(block, 1), memoryview(bytes(child.LAYOUT.block_bytes)))
        reader.signal(signal.SIGCONT)
        reader.tell("go")
        verdict = await reader.says()
        assert verdict.split()[0] in ("StaleTransfer", "TransferFailed", "UnknownTransfer"), verdict


def striking(pair: Any, holder: Child, number: signal.Signals) -> Callable[[Chunk], None]:
    """Fault that signals the holder at the first chunk."""

    def strike(chunk: Chunk) -> None:
        pair.faults.clear()
        holder.signal(number)

    return strike


@both_transports
@pytest.mark.parametrize("number", [signal.SIGKILL, signal.SIGSTOP])
async def test_holder_is_gone_in_mid_move(make_pair: MakePair, transport: str, number: signal.Signals) -> None:
    pair = await make_pair(transport, target_layout=child.LAYOUT, fetch_seconds=2.0, num_attempts=1)
    async with started("holder", "64") as holder:
        params = HandOff.parse(await holder.says())
        pair.faults.append(striking(pair, holder, number))
        with pytest.raises(TransferFailed):
            await asyncio.wait_for(pair.reader.fetch(params, range(64), 0), WAIT_SECONDS)


@both_transports
async def test_holder_restarts_in_mid_move(make_pair: MakePair, transport: str) -> None:
    """The next fetch finds the new life; the pool of the old one is let go."""
    pair = await make_pair(transport, target_layout=child.LAYOUT, num_attempts=1)
    async with started("holder", "64") as holder:
        params = HandOff.parse(await holder.says())
        pair.faults.append(striking(pair, holder, signal.SIGKILL))
        with pytest.raises(TransferFailed):
            await pair.reader.fetch(params, range(64), 0)
    async with started("holder", "64") as holder:
        await pair.reader.fetch(HandOff.parse(await holder.says()), range(64), 0)
        assert child.is_equal(pair.target, 64)
