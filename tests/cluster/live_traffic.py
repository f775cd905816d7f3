"""Requests to a fleet of doubles as a gateway would send them, and what became of each."""

from __future__ import annotations

import asyncio
import math
import time
from dataclasses import dataclass, field
from datetime import datetime
from random import Random

from proa_operator import names
from proa_operator.names import Role

from tests.cluster.live_api import Seen
from tests.cluster.live_fleet import Fleet, PlayedWorker
from tests.cluster.live_mirror import pod_of

NOTICE_SECONDS = 6.3  # smg takes so long to leave out a pod that is not ready any more (docs/rollout.md)
PAUSE_SECONDS = 0.03
PREFILL_SECONDS, DECODE_SECONDS, LEASE_SECONDS = (0.05, 0.3), (0.5, 6.0), (0.1, 4.0)


@dataclass
class Ledger:
    """Truth of the data plane."""

    served: int = 0
    lost: list[str] = field(default_factory=list)
    """Why, one line for each request."""
    cut: list[str] = field(default_factory=list)
    """Pods deleted while work or leases were left, before the drain's timeout."""
    timed_out: list[str] = field(default_factory=list)
    """Pods deleted with leases left, at the drain's timeout."""


class Traffic:
    """`see` each event of a pod; requests flow from `start` on."""

    def __init__(self, fleet: Fleet, *, timeout_seconds: float, seed: int = 0) -> None:
        """`timeout_seconds` is the service's drain.timeoutSeconds."""
        self.ledger = Ledger()
        self._fleet, self._timeout, self._random = fleet, timeout_seconds, Random(seed)
        self._known: dict[str, PlayedWorker] = {}
        """What the gateway sends to, by uid."""
        self._gone: set[PlayedWorker] = set()
        self._ended: set[str] = set()
        self._is_over = False
        self.drains_since = math.inf
        """No drain began before this moment."""
        self.stuck: set[str] = set()
        """Pods whose leases nobody ends."""

    def start(self) -> None:
        """Until `stop`."""
        self._requests = self._fleet.spawn(self._flow())

    def stop(self) -> None:
        """Returns when the last request has ended."""
        self._is_over = True
        self._requests.result(DECODE_SECONDS[1] + 20)

    def see(self, seen: Seen) -> None:
        """Under the lock of the watches."""
        meta = seen.body["metadata"]
        uid, before = meta["uid"], self._fleet.workers.get(meta["uid"])
        worker = self._fleet.see_pod(seen.type, seen.body)
        if seen.type == "DELETED" or "deletionTimestamp" in meta:
            if before is not None and uid not in self._ended:
                self._ended.add(uid)
                self._end(uid, before, seen.at)
        elif worker is not None and worker.pod.endswith("-0"):
            self._look(uid, worker, seen)

    def _look(self, uid: str, worker: PlayedWorker, seen: Seen) -> None:
        """A pod that is not ready any more is sent requests for some time."""
        is_routable = pod_of(seen.body).is_routable
        if is_routable and not worker.is_routed:
            self._known[uid] = worker
        elif worker.is_routed and not is_routable:
            self._fleet.after(_left_out_at(seen) - time.time(), lambda: self._leave_out(uid, worker))
        worker.is_routed = is_routable

    def _leave_out(self, uid: str, worker: PlayedWorker) -> None:
        if not worker.is_routed:
            self._known.pop(uid, None)

    def _end(self, uid: str, worker: PlayedWorker, at: float) -> None:
        self._known.pop(uid, None)
        self._gone.add(worker)
        drained = at - self.drains_since
        text = f"{worker.pod} after {drained:.1f} s with {worker.running} requests and {worker.leases} leases"
        if worker.running or (worker.leases and drained < self._timeout):
            self.ledger.cut.append(text)
        elif worker.leases:
            self.ledger.timed_out.append(text)

    async def _flow(self) -> None:
        requests: set[asyncio.Task[None]] = set()
        while not self._is_over:
            by_role = {role: [one for one in self._known.values() if one.role == role] for role in Role}
            if all(by_role.values()):
                pair = [self._random.choice(by_role[role]) for role in (Role.PREFILL, Role.DECODE)]
                requests.add(task := asyncio.create_task(self._request(*pair)))
                task.add_done_callback(requests.discard)
            await asyncio.sleep(PAUSE_SECONDS)
        await asyncio.gather(*requests)

    async def _request(self, prefill: PlayedWorker, decode: PlayedWorker) -> None:
        """The prompt, the hand-off, the answer; the lease of the blocks ends some time after the hand-off."""
        if not await self._work(prefill, PREFILL_SECONDS):
            return
        prefill.leases += 1
        if prefill.pod not in self.stuck:
            self._fleet.after(self._random.uniform(*LEASE_SECONDS), lambda: self._release(prefill))
        if await self._work(decode, DECODE_SECONDS):
            self.ledger.served += 1

    async def _work(self, worker: PlayedWorker, seconds: tuple[float, float]) -> bool:
        if worker in self._gone or worker.is_draining:
            self.ledger.lost.append(f"{worker.pod} takes nothing new")
            return False
        worker.running += 1
        await asyncio.sleep(self._random.uniform(*seconds))
        worker.running -= 1
        worker.finished += 1
        if worker in self._gone:
            self.ledger.lost.append(f"{worker.pod} was deleted on the way")
            return False
        return True

    @staticmethod
    def _release(worker: PlayedWorker) -> None:
        worker.leases -= 1


def _left_out_at(seen: Seen) -> float:
    """From when the pod stopped to be ready, whenever this process hears of it; its times are whole seconds."""
    conditions = seen.body["status"]["conditions"]
    (since,) = (one["lastTransitionTime"] for one in conditions if one["type"] == names.ROUTABLE_CONDITION)
    return datetime.fromisoformat(since).timestamp() + 1.0 + NOTICE_SECONDS
