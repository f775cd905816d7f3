"""All leases of one holder by identity, with what has just ended and which readers have restarted."""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterable, Sequence
from typing import Any

from proa_workers.core.lease import ACKS, Event, Lease, Outcome, Reader, State, Transfer
from proa_workers.errors import StaleTransfer, UnknownTransfer

MAX_REMEMBERED = 4096  # ended leases (so that a repeated last message gets the first one's answer) and readers


class LeaseTable:
    """Not thread-safe; the owner locks, and unpins the blocks of what `take_freed` returns."""

    def __init__(self, *, engine_id: str, epoch: int, lease_seconds: float, unclaimed_seconds: float) -> None:
        self.engine_id = engine_id
        self.epoch = epoch
        self.lease_seconds = lease_seconds
        self.unclaimed_seconds = unclaimed_seconds
        self.outcomes: Counter[Outcome] = Counter()
        self._leases: dict[str, Lease] = {}
        self._ended: dict[str, Lease] = {}
        self._peer_epochs: dict[str, int] = {}
        self._freed: list[Lease] = []
        self._generation = 0

    def __len__(self) -> int:
        return len(self._leases)

    def count_states(self) -> Counter[State]:
        return Counter(lease.state for lease in self._leases.values())

    def open(self, transfer_id: str, block_ids: Sequence[int], num_tokens: int, now: float) -> Lease:
        """Lease `block_ids`, which the caller has pinned, until a reader claims them or the unclaimed time passes."""
        assert transfer_id not in self._leases, f"transfer {transfer_id} is leased already"
        self._generation += 1
        lease = Lease(
            transfer=Transfer(self.engine_id, self.epoch, transfer_id, self._generation),
            block_ids=tuple(block_ids),
            num_tokens=num_tokens,
            lease_seconds=self.lease_seconds,
            deadline=now + self.unclaimed_seconds,
        )
        self._leases[transfer_id] = lease
        return lease

    def apply(self, transfer: Transfer, event: Event, now: float, reader: Reader | None = None) -> Lease:
        """Let `event` happen to a lease.

        Raises UnknownTransfer (never made or ended), StaleTransfer (identity moved on, or as `Lease.apply`).
        """
        lease = self._find(transfer, now)
        if lease.state is State.FREE and event not in ACKS:
            raise UnknownTransfer(f"{lease}: recompute the prompt")
        try:
            lease.apply(event, now, reader)
        finally:
            self._collect(lease)
        return lease

    def begin_send(self, transfer: Transfer, reader: Reader, blocks: Iterable[int], now: float) -> Lease:
        """Hold a lease while this process sends `blocks` of it; raises as `apply`, StaleTransfer for foreign blocks."""
        lease = self._find(transfer, now)
        if lease.state is not State.READY or lease.reader != reader:
            raise StaleTransfer(f"{lease} cannot be read by {reader.engine_id}: it must be ready and reserved by it")
        if not set(blocks) <= set(lease.block_ids):
            raise StaleTransfer(f"{lease} does not cover all blocks asked for")
        lease.hold()
        return lease

    def unhold(self, lease: Lease, now: float) -> bool:
        """As `Lease.unhold`."""
        is_valid = lease.unhold(now)
        self._collect(lease)
        return is_valid

    def see_peer(self, reader: Reader, now: float) -> None:
        """Note a reader's epoch: leases of its earlier lives end. Raises StaleTransfer for an epoch that has passed."""
        newest = self._peer_epochs.pop(reader.engine_id, reader.epoch)
        self._peer_epochs[reader.engine_id] = max(newest, reader.epoch)
        drop_oldest(self._peer_epochs)
        if reader.epoch < newest:
            raise StaleTransfer(f"reader {reader.engine_id} epoch {reader.epoch} has been replaced by epoch {newest}")
        for lease in list(self._leases.values()):
            if lease.reader and lease.reader.engine_id == reader.engine_id and lease.reader.epoch < reader.epoch:
                lease.apply(Event.PEER_RESTART, now)
                self._collect(lease)

    def sweep(self, now: float) -> None:
        """Expire what is due and free what has passed its fence."""
        for lease in list(self._leases.values()):
            lease.tick(now)
            self._collect(lease)

    def held_back(self) -> list[Lease]:
        """Leases that are over and wait only for what this process still reads: end that."""
        return [lease for lease in self._leases.values() if lease.state is State.QUARANTINE and lease.num_holds]

    def take_freed(self) -> list[Lease]:
        """Leases that became FREE since the last call, each exactly once."""
        freed, self._freed = self._freed, []
        return freed

    def _find(self, transfer: Transfer, now: float) -> Lease:
        if (transfer.engine_id, transfer.epoch) != (self.engine_id, self.epoch):
            raise StaleTransfer(
                f"transfer {transfer.transfer_id} is of engine {transfer.engine_id} epoch {transfer.epoch}, "
                f"this is {self.engine_id} epoch {self.epoch}: recompute the prompt"
            )
        lease = self._leases.get(transfer.transfer_id) or self._ended.get(transfer.transfer_id)
        if lease is None:
            raise UnknownTransfer(f"no lease for transfer {transfer.transfer_id}: recompute the prompt")
        if lease.transfer.generation != transfer.generation:
            raise StaleTransfer(f"{lease} is not generation {transfer.generation}: recompute the prompt")
        lease.tick(now)
        self._collect(lease)
        return lease

    def _collect(self, lease: Lease) -> None:
        if lease.state is State.FREE and lease.transfer.transfer_id in self._leases:
            del self._leases[lease.transfer.transfer_id]
            assert lease.outcome is not None, f"{lease} is free without an outcome"
            self.outcomes[lease.outcome] += 1
            self._ended[lease.transfer.transfer_id] = lease
            drop_oldest(self._ended)
            self._freed.append(lease)


def drop_oldest(entries: dict[str, Any]) -> None:
    """Forget the oldest entry once there are too many."""
    if len(entries) > MAX_REMEMBERED:
        del entries[next(iter(entries))]
