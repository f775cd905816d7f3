"""Processor sharing in virtual time: all customers get the same rate, so only joins and leaves are events."""

from __future__ import annotations

from heapq import heappop, heappush


class Shared:
    """Work that every customer does at one common rate; `done` counts what each would have done since the start.

    A customer that joins with `amount` leaves when `done` has grown by it. The owner sets `rate` after each change.
    """

    __slots__ = ("at", "done", "ends", "generation", "rate")

    def __init__(self) -> None:
        self.done = 0.0
        self.at = 0.0
        self.rate = 0.0
        self.generation = 0  # marks events that were computed with an older rate
        self.ends: list[tuple[float, int]] = []

    def advance(self, now: float) -> float:
        """Moves to `now`; returns what each customer did meanwhile."""
        step = (now - self.at) * self.rate
        self.done += step
        self.at = now
        return step

    def join(self, amount: float, request_idx: int) -> None:
        heappush(self.ends, (self.done + amount, request_idx))

    def leave(self) -> int:
        """The customer that is done first."""
        return heappop(self.ends)[1]

    def next_end(self) -> float:
        """Time at which that is, at today's rate; never before `at`. At least one customer is there."""
        return self.at + max(0.0, self.ends[0][0] - self.done) / self.rate
