"""Groups of one pool: they start, serve, drain and die; GPU time runs as long as they exist."""

from __future__ import annotations

from collections.abc import Callable
from typing import Generic, Protocol, TypeVar


class Group(Protocol):
    """What a pool must know of its groups."""

    def load(self) -> float: ...


G = TypeVar("G", bound=Group)


class Pool(Generic[G]):
    """`ready` take work, `starting` will at a time, `draining` finish what they have."""

    def __init__(self, make: Callable[[], G], *, startup_seconds: float, count: int) -> None:
        self._make = make
        self._startup_seconds = startup_seconds
        self.ready: list[G] = [make() for _ in range(count)]
        self.starting: list[float] = []
        """Times at which they are ready, in order."""
        self.draining: list[G] = []
        self.target = count
        self.group_seconds = 0.0
        self.ready_seconds = 0.0
        self._at = 0.0

    @property
    def count(self) -> int:
        """Groups that hold GPUs."""
        return len(self.ready) + len(self.starting) + len(self.draining)

    def account(self, now: float) -> None:
        self.group_seconds += self.count * (now - self._at)
        self.ready_seconds += len(self.ready) * (now - self._at)
        self._at = now

    def aim(self, now: float, target: int) -> bool:
        """Starts or gives up groups; those that start go first, then the ones with the least to do. True: starts."""
        self.account(now)
        self.target = target
        missing = target - len(self.ready) - len(self.starting)
        for _ in range(missing):
            self.starting.append(now + self._startup_seconds)
        for _ in range(-missing):
            if self.starting:
                self.starting.pop()
            else:
                self._drain(min(self.ready, key=lambda group: group.load()))
        return missing > 0

    def admit(self, now: float) -> bool:
        """Makes those ready whose time has come."""
        self.account(now)
        due = sum(ready_at <= now for ready_at in self.starting)
        del self.starting[:due]
        self.ready.extend(self._make() for _ in range(due))
        return due > 0

    def lose(self, now: float) -> G | None:
        """The busiest group dies; another one starts in its place. None when nothing was ready."""
        if not self.ready:
            return None
        self.account(now)
        group = max(self.ready, key=lambda group: group.load())
        self.ready.remove(group)
        self.starting.append(now + self._startup_seconds)
        return group

    def sweep(self, now: float) -> None:
        """Lets go of the drained ones."""
        if self.draining:
            self.account(now)
            self.draining = [group for group in self.draining if group.load() > 0]

    def _drain(self, group: G) -> None:
        self.ready.remove(group)
        if group.load() > 0:
            self.draining.append(group)
