"""Leases of KV blocks that wait for another worker: a pure state machine, driven by (event, now).

    RESERVED --FILL--> FILLING --SEAL--> READY --COMMIT--> CONSUMED --FENCE--> FREE
        any of the first three --RELEASE, ABORT, EXPIRE, PEER_RESTART, REVOKE--> QUARANTINE --FENCE--> FREE

A block may be used again only when its lease is FREE. The fence is: nothing in this process reads the blocks for the
lease (`num_holds == 0`), and the reader has said that it stopped, or is dead, or had a whole lease time to notice.
A reader that is late all the same gets its Commit refused and must throw the bytes away.

`TRANSITIONS` lists what may happen; anything else is refused with StaleTransfer. Times: seconds of a monotonic clock.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from enum import StrEnum
from typing import NamedTuple

from proa_workers.errors import StaleTransfer


class State(StrEnum):
    RESERVED = "reserved"
    FILLING = "filling"  # checksums are being computed
    READY = "ready"
    CONSUMED = "consumed"
    QUARANTINE = "quarantine"
    FREE = "free"


class Event(StrEnum):
    FILL = "fill"
    SEAL = "seal"
    CLAIM = "claim"
    RENEW = "renew"
    COMMIT = "commit"
    RELEASE = "release"
    ABORT = "abort"
    EXPIRE = "expire"
    PEER_RESTART = "peer_restart"
    REVOKE = "revoke"
    FENCE = "fence"


class Outcome(StrEnum):
    CONSUMED = "consumed"
    RELEASED = "released"
    ABORTED = "aborted"
    EXPIRED = "expired"
    UNCLAIMED = "unclaimed"
    PEER_RESTARTED = "peer_restarted"
    REVOKED = "revoked"


LIVE = (State.RESERVED, State.FILLING, State.READY)
ENDINGS = (Event.RELEASE, Event.ABORT, Event.EXPIRE, Event.PEER_RESTART, Event.REVOKE)
ACKS = (Event.COMMIT, Event.RELEASE, Event.ABORT, Event.PEER_RESTART)  # after these the reader reads no more

TRANSITIONS: Mapping[tuple[State, Event], State] = {
    (State.RESERVED, Event.FILL): State.FILLING,
    (State.FILLING, Event.SEAL): State.READY,
    (State.READY, Event.COMMIT): State.CONSUMED,
    **{(state, event): state for state in LIVE for event in (Event.CLAIM, Event.RENEW)},
    **{(state, event): State.QUARANTINE for state in (*LIVE, State.QUARANTINE) for event in ENDINGS},
    (State.QUARANTINE, Event.SEAL): State.QUARANTINE,
    **{(state, Event.FENCE): State.FREE for state in (State.CONSUMED, State.QUARANTINE)},
    **{(state, event): state for state in (State.CONSUMED, State.FREE) for event in ACKS},  # repeated or late
}

OUTCOMES = {
    Event.COMMIT: Outcome.CONSUMED,
    Event.RELEASE: Outcome.RELEASED,
    Event.ABORT: Outcome.ABORTED,
    Event.EXPIRE: Outcome.EXPIRED,
    Event.PEER_RESTART: Outcome.PEER_RESTARTED,
    Event.REVOKE: Outcome.REVOKED,
}


class Reader(NamedTuple):
    """Worker that fetches; `epoch` grows at each restart."""

    engine_id: str
    epoch: int


class Transfer(NamedTuple):
    """Identity of a lease; `engine_id` and `epoch` are the holder's."""

    engine_id: str
    epoch: int
    transfer_id: str
    generation: int


@dataclass(slots=True, kw_only=True, eq=False)
class Lease:
    """One lease; `deadline` is when a live one expires, or when the grace of a quarantined one ends."""

    transfer: Transfer
    block_ids: tuple[int, ...]
    num_tokens: int
    lease_seconds: float
    deadline: float
    state: State = State.RESERVED
    reader: Reader | None = None
    num_holds: int = 0  # local sends and checksums that read the blocks now
    is_acked: bool = False
    outcome: Outcome | None = None

    def apply(self, event: Event, now: float, reader: Reader | None = None) -> None:
        """Let `event` happen; `reader` is who sent it, None for this process itself.

        Raises StaleTransfer when another reader claimed the lease or its state does not allow the event.
        """
        self.tick(now)
        if reader is not None:
            self._check_reader(reader, event)
        # Also when refused below: a late Commit still says "I stopped reading". An early one is not to be trusted.
        is_early = event is Event.COMMIT and self.state in (State.RESERVED, State.FILLING)
        self.is_acked |= event in ACKS and not is_early
        self._move(event, now)
        if event is Event.CLAIM:
            self.reader = reader
        if event in (Event.CLAIM, Event.RENEW):
            self.deadline = now + self.lease_seconds

    def hold(self) -> None:
        """Keep the blocks until `unhold`: something in this process reads them."""
        self.num_holds += 1

    def unhold(self, now: float) -> bool:
        """End a hold; True when the lease was valid all the while, so that what was read is what was leased."""
        assert self.num_holds > 0, f"{self} is held by nobody"
        self.num_holds -= 1
        self.tick(now)
        return self.state in LIVE

    def tick(self, now: float) -> None:
        """Expire if due, free if past the fence."""
        if self.state in LIVE and now >= self.deadline:
            self._move(Event.EXPIRE, now)
        self._settle(now)

    def __str__(self) -> str:
        ended = f", {self.outcome}" if self.outcome else ""
        return f"transfer {self.transfer.transfer_id} generation {self.transfer.generation} ({self.state}{ended})"

    def _check_reader(self, reader: Reader, event: Event) -> None:
        is_first = self.reader is None and event in (Event.CLAIM, Event.RELEASE, Event.ABORT)
        if not is_first and self.reader != reader:
            raise StaleTransfer(f"{self} is not claimed by {reader.engine_id} epoch {reader.epoch}")

    def _move(self, event: Event, now: float) -> None:
        target = TRANSITIONS.get((self.state, event))
        is_late_commit = event is Event.COMMIT and self.outcome not in (None, Outcome.CONSUMED)
        if target is None or is_late_commit:
            self._settle(now)
            raise StaleTransfer(f"{self} does not allow {event}: throw the bytes away and recompute")
        if self.state in LIVE and target not in LIVE:
            self._end(event, now)
        self.state = target
        self._settle(now)

    def _end(self, event: Event, now: float) -> None:
        is_unclaimed = self.reader is None
        self.outcome = Outcome.UNCLAIMED if event is Event.EXPIRE and is_unclaimed else OUTCOMES[event]
        self.is_acked |= is_unclaimed  # nobody ever learned where the blocks are
        self.deadline = now + self.lease_seconds

    def _settle(self, now: float) -> None:
        is_fenced = self.num_holds == 0 and (self.is_acked or now >= self.deadline)
        if self.state in (State.CONSUMED, State.QUARANTINE) and is_fenced:
            self.state = TRANSITIONS[self.state, Event.FENCE]
