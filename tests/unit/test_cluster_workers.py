"""What the workers told: loads, probes that count once, drains that start once."""

from __future__ import annotations

import asyncio
from collections.abc import Callable
from typing import Any

import pytest
from proa_operator.cluster.cache import ServiceKey
from proa_operator.cluster.worker_admin import NoAnswer, Reading
from proa_operator.cluster.workers import Worker, Workers
from proa_operator.plan.state import ProbeResult, StartPhase

TINY = ("default", "tiny")
IDLE: dict[str, Any] = {
    "phase": StartPhase.SERVING,
    "fraction": 1.0,
    "running": 0,
    "waiting": 0,
    "leases": 0,
    "steps_total": 1,
    "finished_total": 0,
    "failed_total": 0,
    "ttft_seconds_total": 0.0,
    "ttft_count": 0,
}


class FakeAdmin:
    """Answers as told; a probe waits until it may end."""

    def __init__(self) -> None:
        self.reading: Reading | None = Reading(**IDLE)
        self.probe_fails = self.drain_fails = False
        self.may_end = asyncio.Event()
        self.calls: list[str] = []

    async def load(self, ip: str) -> Reading:
        if self.reading is None:
            raise NoAnswer("nobody there")
        return self.reading

    async def probe(self, ip: str, peer: str) -> None:
        self.calls.append(f"probe {ip} {peer}")
        await self.may_end.wait()
        if self.probe_fails:
            raise NoAnswer("no route")

    async def drain(self, ip: str, timeout_seconds: float, is_over: Callable[[], None]) -> None:
        self.calls.append(f"drain {ip}")
        await self.may_end.wait()
        if self.drain_fails:
            raise NoAnswer("gone")


class Pool:
    """Workers with a fake admin and a clock."""

    def __init__(self) -> None:
        self.now = 10.0
        self.news: list[ServiceKey] = []
        self.admin = FakeAdmin()
        admin: Any = self.admin
        self.workers = Workers(admin, lambda: self.now, self.news.append)

    async def settle(self) -> None:
        self.admin.may_end.set()
        await asyncio.gather(*self.workers._tasks)
        self.admin.may_end.clear()


@pytest.fixture
async def pool() -> Pool:
    return Pool()


def worker(name: str, loaded_since: str = "1") -> Worker:
    return Worker(uid=name, name=name, ip=f"ip-{name}", service=TINY, loaded_since=loaded_since)


async def test_only_what_changes_a_plan_is_news(pool: Pool) -> None:
    changes: list[dict[str, Any]] = [{}, {}, {"running": 3}, {"running": 4}, {"running": 0, "leases": 2}, {"leases": 0}]
    for change in changes:
        pool.admin.reading = Reading(**{**IDLE, **change})
        await pool.workers.read_load(worker("p"))
    assert len(pool.news) == 4


async def test_every_answer_of_a_worker_on_its_way_out_is_news(pool: Pool) -> None:
    leaving = Worker(uid="p", name="p", ip="ip-p", service=TINY, loaded_since="1", is_cordoned=True)
    for _ in range(3):
        await pool.workers.read_load(leaving)
    assert pool.news == [TINY] * 3


async def test_a_worker_that_falls_silent_has_no_load(pool: Pool) -> None:
    await pool.workers.read_load(worker("p"))
    pool.admin.reading = None
    for _ in range(2):
        await pool.workers.read_load(worker("p"))
    assert (pool.workers.loads, len(pool.news)) == ({}, 2)


async def test_steps_are_dated_by_their_growth(pool: Pool) -> None:
    stepped = []
    for steps in (5, 5, 6, 0):
        pool.now += 1.0
        pool.admin.reading = Reading(**{**IDLE, "waiting": 1, "steps_total": steps})
        await pool.workers.read_load(worker("p"))
        stepped.append(pool.workers.loads["p"].stepped_at)
    assert stepped == [11.0, 11.0, 13.0, 14.0]


async def test_failures_are_news_and_finished_requests_ever_more_rarely(pool: Pool) -> None:
    for finished in range(100):
        pool.admin.reading = Reading(**{**IDLE, "finished_total": finished})
        await pool.workers.read_load(worker("p"))
    assert len(pool.news) == 1 + 7
    pool.admin.reading = Reading(**{**IDLE, "finished_total": 100, "failed_total": 1})
    await pool.workers.read_load(worker("p"))
    assert (len(pool.news), pool.workers.loads["p"].failed_total) == (9, 1)


async def test_ttft_is_the_mean_of_the_last_minutes(pool: Pool) -> None:
    told = []
    for now, seconds, count in ((0, 50.0, 100), (10, 51.0, 110), (200, 53.0, 120), (400, 53.0, 120), (600, 55.0, 121)):
        pool.now = now
        pool.admin.reading = Reading(**{**IDLE, "ttft_seconds_total": seconds, "ttft_count": count})
        await pool.workers.read_load(worker("p"))
        told.append((pool.workers.loads["p"].ttft_seconds, pool.workers.loads["p"].ttft_count))
    assert told == [(0.0, 0), (0.1, 10), (0.15, 20), (0.2, 10), (2.0, 1)]
    pool.admin.reading = Reading(**{**IDLE, "ttft_seconds_total": 3.0, "ttft_count": 2})  # it has started again
    await pool.workers.read_load(worker("p"))
    assert pool.workers.loads["p"].ttft_count == 0


async def test_the_first_request_after_a_rest_is_no_stall(pool: Pool) -> None:
    for waiting in (0, 0, 1):
        pool.now += 100.0
        pool.admin.reading = Reading(**{**IDLE, "waiting": waiting, "steps_total": 5})
        await pool.workers.read_load(worker("p"))
    assert pool.now - pool.workers.loads["p"].stepped_at == 100.0  # since the last look at rest, not since the start


async def test_a_probe_counts_for_both_and_runs_once(pool: Pool) -> None:
    for _ in range(2):
        pool.workers.start_probe(worker("p"), worker("d"))
    assert {uid: found.result for uid, found in pool.workers.probes.items()} == {
        "p": ProbeResult.RUNNING,
        "d": ProbeResult.RUNNING,
    }
    await pool.settle()
    assert pool.admin.calls == ["probe ip-p ip-d"]
    assert [found.result for found in pool.workers.probes.values()] == [ProbeResult.PASSED] * 2
    assert pool.news == [TINY, TINY]


async def test_a_failure_says_nothing_against_who_has_passed(pool: Pool) -> None:
    pool.workers.start_probe(worker("p"), worker("d"))
    await pool.settle()
    pool.admin.probe_fails = True
    pool.workers.start_probe(worker("p"), worker("new"))
    await pool.settle()
    assert (pool.workers.probes["p"].result, pool.workers.probes["new"].result) == (
        ProbeResult.PASSED,
        ProbeResult.FAILED,
    )


async def test_another_life_of_the_containers_is_probed_anew(pool: Pool) -> None:
    pool.workers.start_probe(worker("p"), worker("d"))
    await pool.settle()
    pool.admin.probe_fails = True
    pool.workers.start_probe(worker("p", loaded_since="2"), worker("d"))
    await pool.settle()
    assert pool.workers.probes["p"].result is ProbeResult.FAILED
    assert pool.workers.probes["d"].result is ProbeResult.PASSED


async def test_a_drain_starts_once_and_again_after_it_broke_off(pool: Pool) -> None:
    for drain_fails, num_calls in ((True, 1), (False, 2), (False, 2)):
        pool.admin.drain_fails = drain_fails
        for _ in range(2):
            pool.workers.start_drain(worker("p"), 60.0)
        await asyncio.sleep(0)
        assert pool.admin.calls == ["drain ip-p"] * num_calls
        await pool.settle()


async def test_pods_that_are_gone_are_forgotten(pool: Pool) -> None:
    await pool.workers.read_load(worker("p"))
    pool.workers.start_probe(worker("p"), worker("d"))
    await pool.settle()
    pool.workers.forget_all_but({"d"})
    assert (list(pool.workers.loads), list(pool.workers.probes)) == ([], ["d"])
