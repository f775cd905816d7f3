"""Prefix-index events: resuming, gaps, and a subscriber that knew an earlier life of the worker."""

from __future__ import annotations

import asyncio

import pytest
from proa_workers.core.block_pool import CacheEvent
from proa_workers.serving import kv_events
from proa_workers.serving.kv_events import KvEventLog

STORED = CacheEvent(kind="stored", block_hash=b"h" * 16, token_ids=(1, 2))


async def read(log: KvEventLog, start: int, count: int) -> list[tuple[int, str]]:
    found = []
    async with asyncio.timeout(60):
        async for batch in log.follow(start):
            found.append((batch.sequence_number, batch.events[0].WhichOneof("data")))
            if len(found) == count:
                return found
    raise AssertionError("the stream ended")


@pytest.mark.parametrize(
    ("start", "expected"),
    [
        (1, [(1, "stored"), (2, "stored"), (3, "stored")]),
        (3, [(3, "stored")]),
        (9, [(3, "cleared")]),
    ],
)
async def test_resume(start: int, expected: list[tuple[int, str]]) -> None:
    log = KvEventLog(2)
    for _ in range(3):
        log.append([STORED])
    assert await read(log, start, len(expected)) == expected


async def test_zero_starts_with_what_comes_next() -> None:
    log = KvEventLog(2)
    log.append([STORED])
    reader = asyncio.create_task(read(log, 0, 1))
    await asyncio.sleep(0)
    log.append([CacheEvent(kind="removed", block_hash=b"h" * 16)])
    assert await reader == [(2, "removed")]


async def test_gap_is_told(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(kv_events, "KEPT_EVENTS", 5)
    log = KvEventLog(2)
    for _ in range(5):
        log.append([STORED, STORED])
    assert await read(log, 1, 3) == [(3, "cleared"), (4, "stored"), (5, "stored")]


async def test_the_newest_batch_is_kept_however_large(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(kv_events, "KEPT_EVENTS", 5)
    log = KvEventLog(2)
    log.append([STORED])
    log.append([STORED] * 9)
    assert await read(log, 1, 2) == [(1, "cleared"), (2, "stored")]
    assert len(log._batches) == 1


async def test_batches_that_come_while_a_subscriber_reads_are_not_lost() -> None:
    log = KvEventLog(2)
    log.append([STORED])
    log.append([STORED])
    found = []
    async with asyncio.timeout(60):
        async for batch in log.follow(1):
            found.append(batch.sequence_number)
            if len(found) == 1:
                log.append([STORED])
            if len(found) == 3:
                break
    assert found == [1, 2, 3]
