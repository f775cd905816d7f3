"""No dashboard and no rule asks for a metric that nobody exports."""

from __future__ import annotations

import dataclasses
import importlib.util
import re
from pathlib import Path
from typing import Any

import yaml
from proa_operator import metrics as operator_metrics
from proa_operator.autoscale import gauges
from proa_operator.cluster import kinds
from proa_operator.cluster.cache import Cache
from proa_operator.cluster.service_metrics import ServiceMetrics
from proa_operator.monitoring import RULES
from proa_workers.core.load import Load
from proa_workers.metrics import LoadSource, Metrics
from prometheus_client import REGISTRY, CollectorRegistry

from tests.monitoring import queries
from tests.unit.cluster_objects import service_body
from tests.unit.test_cluster_service_metrics import STATUS
from tools.monitoring.boards import BOARDS

EXPORTER = Path(__file__).parents[1] / "testdata" / "monitoring" / "amd_exporter.prom"
_SUFFIX = re.compile(r"(_(bucket|sum|count|total))+$")


def _base(name: str) -> str:
    return _SUFFIX.sub("", name)


def _rules() -> list[dict[str, Any]]:
    files = [yaml.safe_load(path.read_text("utf-8")) for path in sorted(RULES.glob("*.yaml"))]
    return [rule for file in files for group in file["groups"] for rule in group["rules"]]


def _of_registry(registry: CollectorRegistry) -> set[str]:
    return {_base(family.name) for family in registry.collect()}


def _of_workers() -> set[str]:
    class Idle(LoadSource):
        load = Load(**{field.name: 1 for field in dataclasses.fields(Load)})

        def lease_counts(self) -> tuple[dict[str, int], dict[str, int]]:
            return {}, {}

    worker = Metrics("m")
    worker.watch(Idle())
    return _of_registry(worker.registry)


def _of_operator() -> set[str]:
    assert operator_metrics.BUILD is not gauges.DECISIONS, "both modules are imported for what they register"
    cache = Cache(lambda _: None)
    cache.put(kinds.SERVICE, service_body(status=STATUS))
    services = CollectorRegistry()
    services.register(ServiceMetrics(cache, lambda: True, lambda: 0.0))
    return _of_registry(REGISTRY) | _of_registry(services)


def _of_gateway() -> bytes:
    """The gateway's library: names of its metrics stand in it as text."""
    spec = importlib.util.find_spec("smg.smg_rs")
    assert spec is not None
    assert spec.origin is not None
    return Path(spec.origin).read_bytes()


def unknown(names: set[str]) -> list[str]:
    """Those that no component exports and no rule records."""
    recorded = {rule["record"] for rule in _rules() if "record" in rule}
    known = _of_workers() | _of_operator() | {_base(word) for word in re.findall(r"^\w+", EXPORTER.read_text(), re.M)}
    gateway = _of_gateway()
    return sorted(
        name
        for name in names - recorded
        if _base(name) not in known and not (name.startswith("smg_") and _base(name).encode() in gateway)
    )


def test_dashboards_and_rules_ask_for_known_metrics() -> None:
    exprs = [*queries.of(BOARDS).values(), *(rule["expr"] for rule in _rules())]
    assert unknown({name for expr in exprs for name in queries.metric_names(expr)}) == []


def test_an_unknown_name_is_found() -> None:
    names = queries.metric_names("rate(vllm:no_such_total[5m]) + smg_no_such + proa:requests:rate5m + up")
    assert unknown(names) == ["smg_no_such", "vllm:no_such_total"]
