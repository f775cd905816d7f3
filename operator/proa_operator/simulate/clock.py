"""Virtual time: events in order; ties go in the order of their making."""

from __future__ import annotations

from enum import IntEnum
from heapq import heappop, heappush
from typing import Any


class Kind(IntEnum):
    """Of an event; also the index of its handler."""

    STEP = 0
    TRANSFER = 1
    DECODE = 2
    READY = 3
    DECIDE = 4
    FAULT = 5


Event = tuple[float, int, Kind, Any, int]


class Clock:
    """A heap of (time, order, kind, subject, generation); whoever handles an event knows if its generation is old."""

    __slots__ = ("_order", "events")

    def __init__(self) -> None:
        self.events: list[Event] = []
        self._order = 0

    def at(self, time: float, kind: Kind, subject: Any = None, generation: int = 0) -> None:
        self._order += 1
        heappush(self.events, (time, self._order, kind, subject, generation))

    def pop(self) -> Event:
        return heappop(self.events)
