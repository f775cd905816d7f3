"""Watches go on from where they were, and a list is read again only when the place is lost."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator
from typing import Any

import pytest
from proa_operator.cluster import kinds, watch
from proa_operator.cluster.cache import Cache
from proa_operator.cluster.errors import ClusterError, Refused, Unreachable
from proa_operator.cluster.sync import Sync
from proa_operator.cluster.watch import Watch

from tests.unit.cluster_objects import node_body

Json = dict[str, Any]
SECONDS = 60.0


class Server:
    """Answers with scripted lists and streams; the watch is over when the script is."""

    def __init__(self, lists: list[list[Json]], streams: list[list[Json | ClusterError]]) -> None:
        self.lists, self.streams = iter(lists), iter(streams)
        self.since: list[int] = []
        self.num_lists = 0
        self.is_over = asyncio.Event()

    async def pages(self, kind: kinds.Kind, namespace: str, query: Any) -> AsyncIterator[tuple[list[Json], int]]:
        self.num_lists += 1
        yield next(self.lists), 100 * self.num_lists

    async def watch(
        self, kind: kinds.Kind, namespace: str, query: Any, *, version: int, seconds: float
    ) -> AsyncIterator[Json]:
        script = next(self.streams, None)
        if script is None:
            self.is_over.set()
            await asyncio.Event().wait()
            return
        self.since.append(version)
        for step in script:
            if isinstance(step, ClusterError):
                raise step
            yield step


def change(version: int, kind: str = "MODIFIED", name: str = "n0") -> Json:
    return {"type": kind, "object": node_body(name, version=version)}


def bookmark(version: int) -> Json:
    return {"type": "BOOKMARK", "object": {"kind": "Node", "metadata": {"resourceVersion": str(version)}}}


EXPIRED: Json = {"type": "ERROR", "object": {"kind": "Status", "code": 410, "reason": "Expired", "message": "too old"}}


async def followed(server: Server) -> tuple[list[tuple[str, str]], Cache]:
    """Types and names of what was told, and the cache after all of it."""
    cache, told = Cache(lambda _: None), []
    api: Any = server
    sync = Sync(api, cache, (kinds.NODE,), ())
    await sync.run()

    def on_event(kind: kinds.Kind, event: str, body: Json) -> None:
        told.append((event, body["metadata"]["name"]))

    task = asyncio.create_task(Watch(api, sync, kinds.NODE, "", on_event).run())
    await asyncio.wait_for(server.is_over.wait(), SECONDS)
    task.cancel()
    return told, cache


@pytest.fixture(autouse=True)
def no_pause(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(watch, "_FIRST_PAUSE_SECONDS", 0.0)


@pytest.mark.parametrize(
    ("streams", "since", "num_lists"),
    [
        pytest.param([[change(101)], []], [100, 101], 1, id="goes on after an end"),
        pytest.param([[bookmark(150)], []], [100, 150], 1, id="a bookmark moves on"),
        pytest.param([[change(101), Unreachable("gone")], []], [100, 101], 1, id="a lost connection"),
        pytest.param([[change(101), EXPIRED], []], [100, 200], 2, id="expired: from a new list"),
        pytest.param([[Refused(403, "Forbidden", "no")], []], [100, 100], 1, id="refused: tried again"),
    ],
)
async def test_a_watch_goes_on(streams: list[list[Json | ClusterError]], since: list[int], num_lists: int) -> None:
    server = Server([[node_body()], [node_body(version=150)]], streams)
    await followed(server)
    assert (server.since, server.num_lists) == (since, num_lists)


async def test_events_are_told_in_order_and_bookmarks_are_not() -> None:
    events = [change(101, "ADDED", "n1"), bookmark(102), change(103, "DELETED", "n1")]
    told, _ = await followed(Server([[node_body()]], [events]))
    assert told == [("ADDED", "n1"), ("DELETED", "n1")]


async def test_what_went_while_the_place_was_lost_is_gone() -> None:
    server = Server([[node_body("n0"), node_body("n1")], [node_body("n1", version=150)]], [[EXPIRED], []])
    _, cache = await followed(server)
    assert [node.name for node in cache.all(kinds.NODE)] == ["n1"]


class Pages:
    """One list in three pages."""

    async def pages(self, kind: kinds.Kind, namespace: str, query: Any) -> AsyncIterator[tuple[list[Json], int]]:
        for name in ("n0", "n1", "n2"):
            yield [node_body(name, version=1)], 10


async def test_a_resync_rests_after_each_page(monkeypatch: pytest.MonkeyPatch) -> None:
    api: Any = Pages()
    cache, rests = Cache(lambda _: None), []

    async def rest(seconds: float) -> None:
        rests.append((seconds, cache.count(kinds.NODE)))

    monkeypatch.setattr(asyncio, "sleep", rest)
    await Sync(api, cache, (kinds.NODE,), ()).run(0.25)
    assert rests == [(0.25, 1), (0.25, 2), (0.25, 3)], "events between the pages are not behind all of them"
