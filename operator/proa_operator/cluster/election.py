"""Leader election by a Lease, with fencing: a replica that may have lost it sends no write any more."""

from __future__ import annotations

import asyncio
import logging
import time
from collections.abc import Callable, Mapping, Sequence
from datetime import UTC, datetime
from typing import Any, Protocol

from proa_operator import metrics
from proa_operator.cluster import lease as rules
from proa_operator.cluster.api import Ref
from proa_operator.cluster.errors import ClusterError, Conflict, Gone, LostLease
from proa_operator.cluster.kinds import LEASE

log = logging.getLogger(__name__)


class LeaseStore(Protocol):
    """The three requests that an election needs."""

    async def get(self, ref: Ref) -> dict[str, Any]: ...
    async def create(self, ref: Ref, body: dict[str, Any]) -> dict[str, Any]: ...
    async def replace(self, ref: Ref, body: dict[str, Any]) -> dict[str, Any]: ...


def uptime() -> float:
    """Seconds that go on while the machine sleeps, as the lease does."""
    return time.clock_gettime(time.CLOCK_BOOTTIME) if hasattr(time, "CLOCK_BOOTTIME") else time.monotonic()


class Election:
    """`on_change` is called with True once this replica leads, and with False once it does not; it must not wait.

    `owners` are the owner references of a Lease that it makes.
    """

    def __init__(
        self,
        store: LeaseStore,
        ref: Ref,
        me: str,
        *,
        terms: rules.Terms | None = None,
        clock: Callable[[], float] = uptime,
        on_change: Callable[[bool], None],
        owners: Sequence[Mapping[str, Any]] = (),
    ) -> None:
        assert ref.kind is LEASE
        self._store, self._ref, self._me, self._clock = store, ref, me, clock
        self._terms = terms or rules.Terms()
        self._on_change, self._owners = on_change, owners
        self._sighting = rules.Sighting()
        self._lease: dict[str, Any] | None = None
        self._valid_until = 0.0
        self._announced = False

    @property
    def is_leader(self) -> bool:
        """Holds the lease and renewed it lately."""
        return self._lease is not None and self._clock() < self._valid_until

    @property
    def transitions(self) -> int:
        """Number of this reign: grows each time that the lease is taken; 0 while another leads."""
        return int(self._lease["spec"]["leaseTransitions"]) if self._lease is not None else 0

    def check(self, reign: int | None = None) -> None:
        """LostLease unless this replica leads, in the given reign if one is given."""
        if not self.is_leader or reign not in (None, self.transitions):
            raise LostLease("another replica may lead by now")

    def seconds_to_write(self) -> float:
        """How long a write may take from now on to end before another can lead. LostLease when none may start."""
        self.check()
        return self._valid_until + self._terms.lease - self._terms.renew_deadline - self._clock()

    async def run(self) -> None:
        """Until it is cancelled; then the lease is given back."""
        try:
            while True:
                await self.step()
                await asyncio.sleep(self._terms.retry if self._lease is not None else self._terms.look)
        finally:
            await asyncio.shield(self._give_back())

    async def step(self) -> None:
        """One attempt to take or renew the lease."""
        asked_at = self._clock()
        try:
            async with asyncio.timeout(self._terms.renew_deadline / 2):
                await self._attempt(asked_at)
        except (Conflict, Gone):
            self._lease = None
        except (ClusterError, TimeoutError) as error:
            log.warning("no answer about the lease", extra={"error": str(error) or type(error).__name__})
        self._announce()

    async def _attempt(self, asked_at: float) -> None:
        """Renew with the version that we wrote last: a Conflict means that another has taken it."""
        if self._lease is not None:
            wanted = rules.taken(self._lease, self._me, self._terms, datetime.now(UTC), is_renewal=True)
            await self._hold(wanted, asked_at)
            return
        found = await self._found()
        self._sighting = rules.seen(found, self._sighting, self._terms, self._clock())
        if rules.may_take(found, self._me, self._sighting, self._terms, self._clock()):
            await self._hold(rules.taken(found, self._me, self._terms, datetime.now(UTC), is_renewal=False), asked_at)

    async def _hold(self, wanted: dict[str, Any], asked_at: float) -> None:
        """A reign that lapsed until this answer has ended: what was not planned meanwhile has to be made up for."""
        held = await self._store.replace(self._ref, wanted)
        self._announce()
        self._lease = held
        self._valid_until = asked_at + self._terms.renew_deadline

    async def _found(self) -> dict[str, Any]:
        try:
            return await self._store.get(self._ref)
        except Gone:
            self._lease = None
            lease = rules.new_lease(self._ref.name, self._ref.namespace, self._owners)
            return await self._store.create(self._ref, lease)

    def _announce(self) -> None:
        is_leader = self.is_leader
        metrics.IS_LEADER.set(is_leader)
        if is_leader != self._announced:
            self._announced = is_leader
            metrics.LEASE_TRANSITIONS.set(self.transitions)
            log.info("leads" if is_leader else "does not lead", extra={"transitions": self.transitions})
            self._on_change(is_leader)

    async def _give_back(self) -> None:
        if self._lease is None or not self.is_leader:
            return
        lease, self._lease = self._lease, None
        try:
            async with asyncio.timeout(self._terms.retry):
                await self._store.replace(self._ref, rules.given_back(lease, datetime.now(UTC)))
        except (ClusterError, TimeoutError) as error:
            log.warning("lease not given back", extra={"error": str(error) or type(error).__name__})
