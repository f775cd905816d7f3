"""A scrape loop of our own, where no Prometheus is installed: the same queries, answered from a minute of samples."""

from __future__ import annotations

import asyncio
import time
from collections import deque
from collections.abc import Callable, Iterable, Mapping
from dataclasses import dataclass
from itertools import pairwise

import httpx
from prometheus_client.parser import text_string_to_metric_families

from proa_operator.autoscale.queries import ALL, ARRIVALS, CLIENT_PATHS, FIRST_ARRIVALS, Form, Query, Windows
from proa_operator.autoscale.readings import Sample
from proa_operator.autoscale.source import Answers

_GROUPS = ("namespace", "service", "role")
Labels = tuple[tuple[str, str], ...]
Point = tuple[float, float]
"""Seconds and value."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Target:
    """One /metrics page."""

    url: str
    labels: Mapping[str, str]
    """namespace, service, role, pod."""


class Scraper:
    """`targets` are asked for at each round: processes come and go."""

    def __init__(self, targets: Callable[[], Iterable[Target]], windows: Windows, scrape_seconds: float) -> None:
        self._targets, self._windows, self._pause = targets, windows, scrape_seconds
        self._series: dict[tuple[str, Labels], deque[Point]] = {}
        self._wanted = _wanted_names()

    async def run(self) -> None:
        """Until it is cancelled."""
        async with httpx.AsyncClient(timeout=self._pause, trust_env=False) as client:
            while True:
                await asyncio.gather(
                    asyncio.sleep(self._pause), *(self._scrape(client, target) for target in self._targets())
                )
                self._forget(time.time() - 2.0 * self._windows.slow)

    async def read(self) -> Answers:
        """Answers from what was scraped; they are empty where nothing was."""
        now = time.time()
        return {query: self._answer(query, now) for query in ALL}

    def put(self, target: Target, text: str, at: float) -> None:
        """A page that was read at `at`."""
        for family in text_string_to_metric_families(_only(text, self._wanted)):
            for sample in family.samples:
                labels = tuple(sorted({**sample.labels, **target.labels}.items()))
                points = self._series.setdefault((sample.name, labels), deque())
                points.append((at, sample.value))

    async def _scrape(self, client: httpx.AsyncClient, target: Target) -> None:
        try:
            answer = await client.get(target.url)
        except httpx.HTTPError:
            return
        if answer.status_code == 200:
            self.put(target, answer.text, time.time())

    def _forget(self, before: float) -> None:
        for key, points in list(self._series.items()):
            while points and points[0][0] < before:
                points.popleft()
            if not points:
                del self._series[key]

    def _answer(self, query: Query, now: float) -> list[Sample]:
        groups: dict[Labels, list[float]] = {}
        pods: dict[Labels, set[str]] = {}
        matching = list(self._matching(query))
        if query.form is Form.NEWBORN:
            matching = [(labels, points) for labels, points in matching if self._is_newborn(query, labels, points, now)]
        for labels, points in matching:
            value = _value(query, points, now, self._windows)
            if value is None:
                continue
            kept = ("namespace", "service", "role", "le") if query.form is Form.BUCKETS else _GROUPS
            group = tuple((name, labels[name]) for name in kept if name in labels)
            groups.setdefault(group, []).append(value)
            pods.setdefault(group, set()).add(labels.get("pod", ""))
        return [(dict(group), _combined(query, values, pods[group])) for group, values in groups.items()]

    def _is_newborn(self, query: Query, labels: Mapping[str, str], points: deque[Point], now: float) -> bool:
        """Not there one window ago, although its pod was."""
        ago = now - self._windows.slow
        siblings = (
            old[0][0]
            for (name, known), old in self._series.items()
            if name in query.witnesses and ("pod", labels.get("pod", "")) in known
        )
        return points[0][0] > ago >= min(siblings)

    def _matching(self, query: Query) -> Iterable[tuple[dict[str, str], deque[Point]]]:
        """Series of each pod by the newest spelling that it has."""
        suffix = "_bucket" if query.form is Form.BUCKETS else ""
        is_client = query in (ARRIVALS, FIRST_ARRIVALS)
        found: dict[Labels, deque[Point]] = {}
        for name in reversed(query.metrics):
            found |= {labels: points for (known, labels), points in self._series.items() if known == name + suffix}
        series = ((dict(labels), points) for labels, points in found.items())
        return [(labels, points) for labels, points in series if not is_client or _is_from_client(labels)]


def _wanted_names() -> tuple[str, ...]:
    return tuple(sorted({name for query in ALL for name in query.metrics}))


def _only(text: str, names: tuple[str, ...]) -> str:
    """A gateway's page has a thousand lines that nobody needs here."""
    return "\n".join(line for line in text.splitlines() if line.startswith(names)) + "\n"


def _is_from_client(labels: Mapping[str, str]) -> bool:
    return labels.get("method") == "POST" and labels.get("path") in CLIENT_PATHS


def _value(query: Query, points: deque[Point], now: float, windows: Windows) -> float | None:
    """One series as Prometheus would see it; None where it has nothing to say."""
    at, last = points[-1]
    if now - at > windows.stale:
        return None
    window = windows.quick if query.is_quick else windows.slow
    recent = [(when, value) for when, value in points if when > now - window]
    match query.form:
        case Form.SUM | Form.NEWBORN:
            return last
        case Form.PODS:
            return 1.0
        case Form.MEAN | Form.TOTAL:
            return sum(value for _, value in recent) / len(recent)
        case Form.RATE | Form.BUCKETS:
            return growth(recent)


def growth(points: list[Point]) -> float | None:
    """Growth per second of a counter between the first and the last sample; a fall is a start from zero."""
    if len(points) < 2:
        return None
    grown = sum(after - before if after >= before else after for (_, before), (_, after) in pairwise(points))
    return grown / (points[-1][0] - points[0][0])


def _combined(query: Query, values: list[float], pods: set[str]) -> float:
    if query.form is Form.PODS:
        return float(len(pods))
    total = sum(values)
    return total / len(values) if query.form is Form.MEAN else total
