"""Reigns that follow each other faster than what they read."""

from __future__ import annotations

import asyncio
from dataclasses import dataclass, field

from proa_operator.cluster.cache import Cache, ServiceKey
from proa_operator.cluster.kinds import Kind
from proa_operator.cluster.runtime import Runtime


@dataclass
class Reigns:
    transitions: int = 5
    is_leader: bool = True


@dataclass
class SlowLists:
    """The first list is answered when the test says so, later ones at once."""

    answer: asyncio.Event = field(default_factory=asyncio.Event)
    asked: int = 0

    async def read_all(self, _: Kind) -> None:
        self.asked += 1
        if self.asked == 1:
            await self.answer.wait()


@dataclass
class Planned:
    keys: list[ServiceKey] = field(default_factory=list)

    def add(self, *keys: ServiceKey) -> None:
        self.keys += keys

    def doubt(self, _: list[ServiceKey]) -> None:
        """Read again before the first write."""


def runtime(election: Reigns, lists: SlowLists, queue: Planned) -> Runtime:
    """Only what a take-over touches; a whole one would need a cluster."""
    made = Runtime.__new__(Runtime)
    made.election, made._sync, made._reconciler, made.queue = election, lists, queue, queue
    made.cache, made._lately, made._reign = Cache(lambda _: None), {("default", "tiny"): None}, 0
    return made


async def test_a_take_over_of_a_former_reign_changes_nothing() -> None:
    election, lists, queue = Reigns(), SlowLists(), Planned()
    made = runtime(election, lists, queue)
    former = asyncio.create_task(made._take_over())
    await asyncio.sleep(0)
    election.transitions = 6
    await made._take_over()
    lists.answer.set()
    await former
    assert made._is_reigning()
    assert queue.keys == [("default", "tiny")], "what came up in between is planned once, by the reign that lasts"
