"""Metrics chaos, decision by decision: hours of a metrics history that a real Prometheus answers in virtual time.

promtool writes the history, one service for each kind of chaos, with the usual scrapes of 15 s. The operator's
autoscaler asks its own queries over its own windows at each of its periods. When the metrics begin to lie, the load
falls, so an autoscaler that believes them shrinks; the service without chaos shows that it does.
"""

from __future__ import annotations

import time
from collections.abc import Iterator, Mapping
from dataclasses import dataclass, field
from typing import Any

import httpx
import pytest
from proa_operator.autoscale.queries import ALL, ARRIVALS, SCRAPE_SECONDS, Query, Windows, promql
from proa_operator.autoscale.readings import Sample
from proa_operator.cluster.autoscale_prometheus import Prometheus, samples_of

from tests.conftest import Promtool
from tests.monitoring.live_prometheus import running
from tests.unit.test_autoscale_operator import PERIOD, World

SIZES, LEAST = (4, 4), 2
BUSY, CALM = 12.0, 0.5  # requests a second
RESET_AT, CHAOS_AT, BACK_AT, END_AT = 300.0, 600.0, 1050.0, 1650.0
WINDOW = 300.0
HISTORY_AGE = 6 * 3600.0
PODS = {f"{role}-{number}": role for role in ("prefill", "decode") for number in range(4)}
GATEWAYS = ("gateway-0", "gateway-1")
GONE = {
    "stale": {*PODS, *GATEWAYS},
    "half unscraped": {"prefill-2", "prefill-3", "decode-2", "decode-3"},
    "a gateway unscraped": {"gateway-1"},
}
KINDS = ("calm", "down", "NaN", "stale", "renamed", "half unscraped", "a gateway unscraped", "reset")


def num_requests(at: float) -> float:
    """Of all gateways together, since the beginning."""
    return BUSY * min(at, CHAOS_AT) + CALM * max(0.0, at - CHAOS_AT)


def samples_at(kind: str, pod: str, at: float) -> Iterator[tuple[str, str, float]]:
    """Name, labels and value of each series of a pod; none while it is not scraped."""
    is_chaos = CHAOS_AT <= at < BACK_AT
    if is_chaos and pod in GONE.get(kind, ()):
        return
    count = num_requests(at) - (num_requests(RESET_AT) if kind == "reset" and at >= RESET_AT else 0.0)
    if pod in GATEWAYS:
        yield "smg_tokio_workers", "", 2.0
        yield "smg_http_requests_total", 'method="POST",path="/v1/completions"', count / len(GATEWAYS)
        return
    count /= 4.0
    yield "vllm:num_requests_running", "", 3.0
    yield "vllm:num_requests_waiting", "", float("nan") if is_chaos and kind == "NaN" else 0.0
    yield "vllm:kv_usage" if is_chaos and kind == "renamed" else "vllm:kv_cache_usage_perc", "", 0.25
    yield "vllm:prefix_cache_queries_total", "", 500.0 * count
    yield "vllm:prefix_cache_hits_total", "", 0.0
    of_each = {"request_prompt_tokens": 500.0, "request_generation_tokens": 150.0, "inter_token_latency_seconds": 0.03}
    for name, mean in of_each.items():
        for bound in ("1000", "+Inf"):
            yield f"vllm:{name}_bucket", f'le="{bound}"', count
        yield f"vllm:{name}_count", "", count
        yield f"vllm:{name}_sum", "", mean * count


def history(start: float) -> Iterator[str]:
    """OpenMetrics, in the order of time."""
    for scrape in range(round(END_AT / SCRAPE_SECONDS)):
        at = SCRAPE_SECONDS * scrape + 5.0
        for kind in KINDS:
            for pod in (*PODS, *GATEWAYS):
                place = f'namespace="default",service="{kind}",pod="{pod}"'
                place += f',role="{PODS[pod]}"' if pod in PODS else ""
                for name, labels, value in samples_at(kind, pod, at):
                    yield f"{name}{{{place}{',' if labels else ''}{labels}}} {value} {start + at}"
    yield "# EOF\n"


@dataclass(slots=True)
class Past:
    """Answers of each moment, asked once for all services."""

    url: str
    start: float
    answers: dict[float, dict[Query, list[Sample]]] = field(default_factory=dict)

    def at(self, now: float) -> dict[Query, list[Sample]]:
        """As the operator's own source would have got them then."""
        if now not in self.answers:
            with httpx.Client(base_url=self.url, timeout=30.0) as client:
                self.answers[now] = {query: self._ask(client, query, now) for query in ALL}
        return self.answers[now]

    def _ask(self, client: httpx.Client, query: Query, now: float) -> list[Sample]:
        body = {"query": promql(query, Windows()), "time": f"{now:.3f}"}
        return samples_of(client.post("/api/v1/query", data=body).json())


@pytest.fixture(scope="module")
def past(prometheus_program: str, promtool: Promtool, tmp_path_factory: pytest.TempPathFactory) -> Iterator[Past]:
    folder = tmp_path_factory.mktemp("past")
    start = (time.time() - HISTORY_AGE) // PERIOD * PERIOD
    (folder / "history").write_text("\n".join(history(start)))
    made = promtool("tsdb", "create-blocks-from", "openmetrics", str(folder / "history"), str(folder / "data"))
    assert made.returncode == 0, made.stderr
    (folder / "empty.yml").write_text("{}")
    with running(prometheus_program, folder / "empty.yml", folder / "data") as found:
        yield Past(found.url, start)


@dataclass(slots=True)
class Life:
    """One service through its history."""

    past: Past
    kind: str
    world: World
    seen: dict[float, tuple[tuple[int, int], str]] = field(default_factory=dict)
    """By seconds since the beginning: sizes and MetricsFresh."""

    async def read(self) -> dict[Query, Any]:
        """Prometheus at this moment; nobody at its port while it is down."""
        if self.kind == "down" and CHAOS_AT <= self.at < BACK_AT:
            nobody = Prometheus("http://127.0.0.1:9", Windows())
            try:
                return dict(await nobody.read())
            finally:
                await nobody.close()
        found = self.past.at(self.world.now)
        return {query: [(self._renamed(labels), value) for labels, value in rows] for query, rows in found.items()}

    @property
    def at(self) -> float:
        return self.world.now - self.past.start

    def _renamed(self, labels: Mapping[str, str]) -> dict[str, str]:
        """The world's service has a name of its own; all other services are there too."""
        return {**labels, "service": "tiny" if labels["service"] == self.kind else labels["service"]}

    async def until(self, end: float) -> None:
        while self.at < end:
            await self.world.autoscaler.round(self.world.now)
            self.seen[self.at] = (self.world.sizes, self.world.condition("MetricsFresh"))
            self.world.arrive()
            self.world.now += PERIOD

    def between(self, start: float, end: float) -> list[tuple[tuple[int, int], str]]:
        return [found for at, found in self.seen.items() if start <= at < end]


async def lived(past: Past, kind: str) -> Life:
    bounds = {"min": LEAST, "max": 8}
    world = World(sizes=SIZES, prefill=bounds, decode=bounds)
    life = Life(past, kind, world)
    world.read = life.read  # type: ignore[method-assign]
    world.now = past.start + 4.0 * PERIOD
    await life.until(END_AT - PERIOD)
    return life


async def test_without_chaos_the_pools_shrink(past: Past) -> None:
    """So there is something for the others to do wrong."""
    life = await lived(past, "calm")
    assert {size for size, _ in life.between(0.0, CHAOS_AT)} == {SIZES}
    assert min(sum(size) for size, _ in life.between(CHAOS_AT, BACK_AT)) < sum(SIZES)
    assert {fresh for _, fresh in life.between(0.0, END_AT)} == {"True"}


@pytest.mark.parametrize("kind", [kind for kind in KINDS if kind not in ("calm", "reset")])
async def test_nothing_moves_while_metrics_lie(past: Past, kind: str) -> None:
    life = await lived(past, kind)
    assert {size for size, _ in life.between(0.0, BACK_AT)} == {SIZES}, "no pool shrinks, or grows"
    assert {fresh for _, fresh in life.between(0.0, CHAOS_AT)} == {"True"}
    assert {fresh for _, fresh in life.between(CHAOS_AT + 60.0, BACK_AT)} == {"False"}, "within 60 s"
    assert {fresh for _, fresh in life.between(BACK_AT + 60.0, END_AT)} == {"True"}
    assert {size for size, _ in life.between(BACK_AT, BACK_AT + WINDOW - PERIOD)} == {SIZES}, "no jump"
    after = [size for size, _ in life.between(BACK_AT, END_AT)]
    assert sum(after[-1]) < sum(SIZES), "it decides again"
    assert min(min(size) for size in after) >= LEAST


async def test_counters_that_start_anew_are_no_fall_of_the_load(past: Past) -> None:
    """Prometheus takes a fall of a counter for a start from zero."""
    life = await lived(past, "reset")
    assert set(life.between(0.0, CHAOS_AT)) == {(SIZES, "True")}
    answers = [past.at(past.start + at)[ARRIVALS] for at in life.seen if at < CHAOS_AT]
    rates = [value for rows in answers for labels, value in rows if labels["service"] == "reset"]
    assert all(0.5 * BUSY < rate < 1.2 * BUSY for rate in rates)
    assert min(rates) < 0.9 * BUSY, "some requests are not counted"
