"""The prefill side of a hand-off: leases of pinned blocks, their checksums, and the data port that sends them."""

from __future__ import annotations

import asyncio
import threading
import time
import uuid
from collections.abc import Callable, Iterator, Sequence
from concurrent.futures import Future, ThreadPoolExecutor
from contextlib import contextmanager, suppress

from proa_workers.core.lease import Event, Lease, Outcome, Reader, State, Transfer
from proa_workers.errors import StaleTransfer, TransferFailed, UnknownTransfer
from proa_workers.kv.checksum import block_crcs
from proa_workers.kv.handoff import HandOff
from proa_workers.kv.layout import BlockRun, from_runs, to_runs
from proa_workers.kv.lease_table import LeaseTable
from proa_workers.kv.memory import KvMemory
from proa_workers.kv.tcp_server import TcpServer

CHECKSUM_BYTES = 4 << 20  # read from the pool at a time


class KvHolder:
    """Methods may be called from any thread, and `unpin` is called from any: it gets each offered block list once.

    `epoch` must grow at each restart of the engine (use the start time in milliseconds); `clock` in seconds.
    """

    def __init__(
        self,
        memory: KvMemory,
        *,
        engine_id: str,
        epoch: int,
        control_address: str,
        lease_seconds: float,
        unclaimed_seconds: float = 10.0,
        unpin: Callable[[Sequence[int]], None],
        clock: Callable[[], float] = time.monotonic,
    ) -> None:
        self.memory = memory
        self.control_address = control_address
        self.lease_seconds = lease_seconds
        self.bytes_sent = 0
        self.bytes_checked = 0
        self._table = LeaseTable(
            engine_id=engine_id, epoch=epoch, lease_seconds=lease_seconds, unclaimed_seconds=unclaimed_seconds
        )
        self._unpin = unpin
        self._clock = clock
        self._lock = threading.Lock()
        self._listeners: set[Callable[[Lease], object]] = set()
        self._checksums: dict[str, Future[list[int]]] = {}
        self._checker = ThreadPoolExecutor(1, thread_name_prefix="kv-checksum")
        self._server: TcpServer | None = None

    @property
    def identity(self) -> Reader:
        """This engine as a peer: (engine_id, epoch)."""
        return Reader(self._table.engine_id, self._table.epoch)

    @property
    def tcp_address(self) -> str:
        """host:port of the data port, empty before `serve_tcp`."""
        host = self.control_address.rpartition(":")[0]
        return f"{host}:{self._server.port}" if self._server else ""

    @property
    def num_leases(self) -> int:
        return len(self._table)

    def count_states(self) -> dict[State, int]:
        """Leases by state, those without a lease as 0."""
        with self._lock:
            counts = self._table.count_states()
        return {state: counts[state] for state in State if state is not State.FREE}

    def count_outcomes(self) -> dict[Outcome, int]:
        """Ended leases by outcome since the start."""
        return {outcome: self._table.outcomes[outcome] for outcome in Outcome}

    def serve_tcp(self, host: str, port: int = 0) -> int:
        """Open the data port on `host`, 0 for a free one; returns the port. Raises OSError when it is taken."""
        self._server = TcpServer(self.memory, self, host, port)
        return self._server.port

    def offer(self, block_ids: Sequence[int], num_tokens: int) -> dict[str, object]:
        """Lease pinned blocks that hold `num_tokens` KV rows; returns the value of kv_transfer_params_json.

        Checksums are computed in another thread meanwhile. The blocks must not change before `unpin` gets them.
        """
        num_blocks = -(-num_tokens // self.memory.layout.block_tokens)
        if not block_ids or len(block_ids) != num_blocks:
            raise ValueError(f"{num_tokens} tokens need {num_blocks} blocks (at least one), not {len(block_ids)}")
        with self._lock:
            lease = self._table.open(uuid.uuid4().hex, block_ids, num_tokens, self._clock())
            self._table.apply(lease.transfer, Event.FILL, self._clock())
            lease.hold()
            self._checksums[lease.transfer.transfer_id] = self._checker.submit(self._seal, lease)
        layout = self.memory.layout.compat_hash()
        transfer = lease.transfer._asdict()
        return HandOff(**transfer, num_tokens=num_tokens, control=self.control_address, layout=layout).to_params()

    async def reserve(self, transfer: Transfer, reader: Reader, timeout_seconds: float) -> tuple[Lease, list[int]]:
        """Claim a lease for `reader`; returns it and the CRC32C of each block, in order.

        Raises UnknownTransfer, StaleTransfer, TransferFailed when the checksums are not ready in time (ask again).
        """
        with self._changes() as now:
            self._table.see_peer(reader, now)
            lease = self._table.apply(transfer, Event.CLAIM, now, reader)
        checksums = self._checksums.get(transfer.transfer_id)
        if checksums is None:
            raise UnknownTransfer(f"{lease}: recompute the prompt")
        try:
            async with asyncio.timeout(timeout_seconds):
                return lease, await asyncio.shield(asyncio.wrap_future(checksums))
        except TimeoutError:
            raise TransferFailed(f"{lease}: checksums are not ready after {timeout_seconds:.1f} s") from None

    def apply(self, transfer: Transfer, event: Event, reader: Reader | None) -> None:
        """RENEW, COMMIT, RELEASE or ABORT from `reader`, or REVOKE from this process; raises as LeaseTable.apply."""
        with self._changes() as now:
            self._table.apply(transfer, event, now, reader)

    def see_peer(self, reader: Reader) -> None:
        """End leases of earlier lives of `reader`; raises StaleTransfer when it is itself an earlier life."""
        with self._changes() as now:
            self._table.see_peer(reader, now)

    def sweep(self, now: float | None = None) -> None:
        """Expire and free what is due at `now`, cut sends of leases that are over; call it several times a lease."""
        with self._changes() as current:
            self._table.sweep(current if now is None else now)
            held_back = self._table.held_back()
        if self._server:
            self._server.cut(held_back)

    def begin_send(self, transfer: Transfer, reader: Reader, runs: Sequence[BlockRun]) -> Lease:
        with self._changes() as now:
            return self._table.begin_send(transfer, reader, from_runs(runs), now)

    def end_send(self, lease: Lease, num_bytes: int) -> bool:
        with self._changes() as now:
            self.bytes_sent += num_bytes
            return self._table.unhold(lease, now)

    @contextmanager
    def listening(self, listener: Callable[[Lease], object]) -> Iterator[None]:
        """Call `listener`, from any thread, with each lease that has become free."""
        self._listeners.add(listener)
        try:
            yield
        finally:
            self._listeners.discard(listener)

    async def drained(self, timeout_seconds: float) -> bool:
        """Wait until there is no lease; False when there still is one after `timeout_seconds`."""
        loop = asyncio.get_running_loop()
        changed = asyncio.Event()
        with self.listening(lambda _: loop.call_soon_threadsafe(changed.set)), suppress(TimeoutError):
            async with asyncio.timeout(timeout_seconds):
                while self.num_leases:
                    await changed.wait()
                    changed.clear()
        return not self.num_leases

    def close(self) -> None:
        """Cut sends in flight and end the threads."""
        if self._server:
            self._server.close()
        self._checker.shutdown(wait=True)

    @contextmanager
    def _changes(self) -> Iterator[float]:
        """Lock the table; afterwards, also when it raised, unpin what became free."""
        try:
            with self._lock:
                yield self._clock()
        finally:
            with self._lock:
                freed = self._table.take_freed()
            for lease in freed:
                self._checksums.pop(lease.transfer.transfer_id, None)
                block_ids, lease.block_ids = lease.block_ids, ()  # ended leases are remembered, thousands of them
                self._unpin(block_ids)
                for listener in tuple(self._listeners):
                    listener(lease)

    def _seal(self, lease: Lease) -> list[int]:
        crcs: list[int] = []
        try:
            for run in to_runs(lease.block_ids):
                crcs += run_crcs(self.memory, run)
        finally:
            with self._changes() as now:
                event = Event.SEAL if len(crcs) == len(lease.block_ids) else Event.REVOKE
                self.bytes_checked += len(crcs) * self.memory.layout.block_bytes
                with suppress(StaleTransfer):
                    self._table.apply(lease.transfer, event, now)
                self._table.unhold(lease, now)
        return crcs


def run_crcs(memory: KvMemory, run: BlockRun) -> list[int]:
    """CRC32C of each block of `run`, read in parts, since a device pool copies what it reads."""
    step = max(1, CHECKSUM_BYTES // memory.layout.block_bytes)
    ends = range(run.start, run.start + run.num_blocks, step)
    parts = (BlockRun(start, min(step, run.start + run.num_blocks - start)) for start in ends)
    return [crc for part in parts for crc in block_crcs(memory.read_run(part), memory.layout.block_bytes)]
