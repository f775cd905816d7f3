"""Changes of the prefix index as a numbered stream, for routers that follow what a worker has cached."""

from __future__ import annotations

import asyncio
import time
from collections import deque
from collections.abc import AsyncIterator
from collections.abc import Sequence as Seq
from itertools import islice

from smg_grpc_proto.generated import common_pb2

from proa_workers.core.block_pool import CacheEvent

KEPT_EVENTS = 65_536  # about 20 MB; a prompt of 16,000 tokens makes 1000


def _signed(block_hash: bytes) -> int:
    """First 64 bits of an index hash as the wire's signed integer."""
    return int.from_bytes(block_hash[:8], "little", signed=True)


class KvEventLog:
    """Keeps the last events, so that a subscriber can resume; one that missed some is told to forget all first."""

    def __init__(self, block_tokens: int) -> None:
        self._block_tokens = block_tokens
        self._batches: deque[common_pb2.KvEventBatch] = deque()
        self._num_kept = 0
        self._next = 1
        self._num_events = 0
        self._news = asyncio.Event()

    def append(self, events: Seq[CacheEvent]) -> None:
        """Add one batch; empty ones are dropped. Called on the event loop."""
        if not events:
            return
        batch = common_pb2.KvEventBatch(sequence_number=self._next, timestamp=time.time(), dp_rank=0)
        for event in events:
            self._num_events += 1
            batch.events.append(self._wire(event))
        self._batches.append(batch)
        self._num_kept += len(events)
        while self._num_kept > KEPT_EVENTS and len(self._batches) > 1:
            self._num_kept -= len(self._batches.popleft().events)
        self._next += 1
        self._news.set()
        self._news = asyncio.Event()

    async def follow(self, start: int) -> AsyncIterator[common_pb2.KvEventBatch]:
        """Batches from number `start` on (0: from now on), as they come.

        A subscriber that is ahead knew an earlier life of this worker: it is told to forget all.
        """
        wanted = start or self._next
        if start > self._next:
            wanted = self._next
            yield self._cleared(wanted - 1)
        while True:
            if self._next <= wanted:
                await self._news.wait()
            first = self._next - len(self._batches)
            batches = list(islice(self._batches, max(wanted - first, 0), None))
            if first > wanted:
                yield self._cleared(first - 1)
            for batch in batches:
                yield batch
            wanted = batches[-1].sequence_number + 1  # not _next: more may have come while these were sent

    def _cleared(self, number: int) -> common_pb2.KvEventBatch:
        batch = common_pb2.KvEventBatch(sequence_number=number, timestamp=time.time(), dp_rank=0)
        batch.events.append(self._wire(CacheEvent(kind="cleared")))
        return batch

    def _wire(self, event: CacheEvent) -> common_pb2.KvCacheEvent:
        wire = common_pb2.KvCacheEvent(event_id=self._num_events)
        if event.kind == "cleared":
            wire.cleared.SetInParent()
        elif event.kind == "removed":
            wire.removed.block_hashes.append(_signed(event.block_hash))
        else:
            if event.parent_hash:
                wire.stored.parent_block_hash = _signed(event.parent_hash)
            wire.stored.blocks.add(
                block_hash=_signed(event.block_hash), token_ids=event.token_ids, block_size=self._block_tokens
            )
        return wire
