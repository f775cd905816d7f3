"""State of every service as metrics, read from the statuses in the cache whenever Prometheus scrapes.

Only the leader tells them: with two replicas each series exists once.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator
from typing import Any

from prometheus_client.core import GaugeMetricFamily, Metric
from prometheus_client.registry import Collector

from proa_operator.cluster.cache import Cache, Stored
from proa_operator.cluster.facts import ServiceFacts
from proa_operator.cluster.kinds import SERVICE

Json = dict[str, Any]

_STATES = ("desired", "replicas", "ready", "routable", "draining")
_TRUTH = {"True": 1.0, "False": 0.0}


class ServiceMetrics(Collector):
    """For `REGISTRY.register`. `is_leader` says whether to tell anything."""

    def __init__(self, cache: Cache, is_leader: Callable[[], bool], clock: Callable[[], float]) -> None:
        self._cache, self._is_leader, self._clock = cache, is_leader, clock

    def describe(self) -> Iterable[Metric]:
        """Nothing is known before the first scrape."""
        return ()

    def collect(self) -> Iterator[Metric]:
        """The gauges of all services."""
        if not self._is_leader():
            return
        gauges = _gauges()
        for service in self._cache.all(SERVICE):
            _add(gauges, service, self._clock())
        yield from gauges.values()


def _gauges() -> dict[str, GaugeMetricFamily]:
    of_service = ["namespace", "service"]
    families: tuple[tuple[str, str, list[str]], ...] = (
        ("groups", "Groups of a pool by state.", ["role", "state"]),
        ("revision_groups", "Groups of a revision in a pool by state.", ["role", "revision", "is_target", "state"]),
        ("starting_groups", "Groups that do not serve yet, by the phase of their start.", ["phase"]),
        ("condition", "1 while the condition is True, 0 while it is False; absent while unknown.", ["type"]),
        ("rollout_stalled_seconds", "Time since a group of the running rollout came any further.", []),
        ("generation_lag", "Generations of the manifest that the status does not speak of yet.", []),
    )
    return {
        name: GaugeMetricFamily(f"proa_service_{name}", text, None, of_service + labels)
        for name, text, labels in families
    }


def _add(gauges: dict[str, GaugeMetricFamily], service: Stored, now: float) -> None:
    assert isinstance(service.facts, ServiceFacts)
    body, key = service.facts.body, [service.namespace, service.name]
    status: Json = body.get("status") or {}
    for role, counts in (status.get("pools") or {}).items():
        for state in _STATES:
            gauges["groups"].add_metric([*key, role, state], counts.get(state, 0))
    for labels, count in _of_revisions(status):
        gauges["revision_groups"].add_metric([*key, *labels], count)
    for phase, count in _phases(status).items():
        gauges["starting_groups"].add_metric([*key, phase], count)
    for condition in status.get("conditions") or ():
        if condition["status"] in _TRUTH:
            gauges["condition"].add_metric([*key, condition["type"]], _TRUTH[condition["status"]])
    if rollout := status.get("rollout"):
        gauges["rollout_stalled_seconds"].add_metric(key, max(0.0, now - rollout["progressedAt"]))
    lag = body["metadata"]["generation"] - status.get("observedGeneration", 0)
    gauges["generation_lag"].add_metric(key, max(0, lag))


def _of_revisions(status: Json) -> Iterator[tuple[list[str], int]]:
    for revision in status.get("revisions") or ():
        for role in ("prefill", "decode"):
            for state, count in (revision.get(role) or {}).items():
                yield [role, revision["name"], str(revision["isTarget"]).lower(), state], count


def _phases(status: Json) -> dict[str, int]:
    phases: dict[str, int] = {}
    for group in status.get("starting") or ():
        phases[group["phase"]] = phases.get(group["phase"], 0) + 1
    return phases
