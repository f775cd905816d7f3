"""What Prometheus is told about each service."""

from __future__ import annotations

from typing import Any

import pytest
from proa_operator.cluster import kinds
from proa_operator.cluster.cache import Cache
from proa_operator.cluster.service_metrics import ServiceMetrics
from prometheus_client import CollectorRegistry

from tests.unit.cluster_objects import service_body

NOW = 1000.0
TINY = {"namespace": "default", "service": "tiny"}
STATUS: dict[str, Any] = {
    "observedGeneration": 0,
    "pools": {"prefill": {"desired": 3, "replicas": 2, "ready": 2, "routable": 1, "draining": 1}},
    "revisions": [
        {"name": "0a1b2c3d", "isTarget": True, "prefill": {"replicas": 2, "ready": 2, "routable": 1, "draining": 0}}
    ],
    "starting": [{"group": "a", "phase": "Load"}, {"group": "b", "phase": "Load"}, {"group": "c", "phase": "Gated"}],
    "rollout": {"key": "k", "best": {}, "progressedAt": 940.0},
    "conditions": [
        {"type": "Available", "status": "True"},
        {"type": "Degraded", "status": "False"},
        {"type": "Progressing", "status": "Unknown"},
    ],
}


def registry(status: dict[str, Any] | None, *, is_leader: bool = True) -> CollectorRegistry:
    cache = Cache(lambda _: None)
    cache.put(kinds.SERVICE, service_body(status=status))
    found = CollectorRegistry()
    found.register(ServiceMetrics(cache, lambda: is_leader, lambda: NOW))
    return found


@pytest.mark.parametrize(
    ("name", "labels", "value"),
    [
        ("groups", {"role": "prefill", "state": "desired"}, 3),
        ("groups", {"role": "prefill", "state": "routable"}, 1),
        ("groups", {"role": "decode", "state": "desired"}, None),
        ("revision_groups", {"role": "prefill", "revision": "0a1b2c3d", "is_target": "true", "state": "ready"}, 2),
        ("starting_groups", {"phase": "Load"}, 2),
        ("condition", {"type": "Available"}, 1),
        ("condition", {"type": "Degraded"}, 0),
        ("condition", {"type": "Progressing"}, None),
        ("rollout_stalled_seconds", {}, 60),
        ("generation_lag", {}, 1),
    ],
)
def test_a_status_becomes_gauges(name: str, labels: dict[str, str], value: float | None) -> None:
    assert registry(STATUS).get_sample_value(f"proa_service_{name}", TINY | labels) == value


def test_a_service_without_status_tells_only_how_far_the_status_is_behind() -> None:
    samples = [sample for family in registry(None).collect() for sample in family.samples]
    assert [(sample.name, sample.value) for sample in samples] == [("proa_service_generation_lag", 1)]


def test_a_replica_that_does_not_lead_tells_nothing() -> None:
    assert list(registry(STATUS, is_leader=False).collect()) == []
