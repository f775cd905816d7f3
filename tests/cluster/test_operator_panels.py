"""Panels about the operator and rollouts have data: the operator rolls a service out while Prometheus scrapes it."""

from __future__ import annotations

import json
from collections.abc import Iterator
from pathlib import Path

import pytest
import yaml
from proa_operator.monitoring import RULES

from testbed.cluster import Document
from testbed.control_plane import ControlPlane
from tests.cluster.operator_checks import await_settled
from tests.cluster.operator_process import Doubles, Operator, sim_service
from tests.monitoring import queries
from tests.monitoring.live_prometheus import Prometheus, running
from tools.monitoring.boards import OPERATOR, ROLLOUT

DATA_SECONDS = 90.0
SLOW_START = {"testbed.proa.dev/pull-seconds": "4", "testbed.proa.dev/ready-seconds": "6"}
"""So that a group is seen in each phase by several scrapes, also on a busy machine."""


@pytest.fixture
def prometheus(
    prometheus_program: str, api: ControlPlane, namespace: str, doubles: Doubles, tmp_path: Path
) -> Iterator[Prometheus]:
    with Operator(api, namespace) as operator:
        path = tmp_path / "prometheus.yml"
        path.write_text(yaml.safe_dump(_config(operator)), encoding="utf-8")
        with running(prometheus_program, path, tmp_path / "data") as found:
            api.apply(slow_service(doubles), f"--namespace={namespace}")
            await_settled(api, namespace)
            yield found


def slow_service(doubles: Doubles) -> Document:
    found = sim_service(doubles)
    for pool in found["spec"]["pools"].values():
        pool["podTemplate"]["metadata"]["annotations"] |= SLOW_START
    return found


def _config(operator: Operator) -> dict[str, object]:
    target = {"targets": [f"127.0.0.1:{operator.metrics}"], "labels": {"pod": operator.pod}}
    return {
        "global": {"scrape_interval": "1s", "evaluation_interval": "1s"},
        "rule_files": [str(RULES / "*.yaml")],
        "scrape_configs": [{"job_name": "proa", "honor_labels": True, "static_configs": [target]}],
    }


def test_every_panel_had_data_during_a_rollout(prometheus: Prometheus, api: ControlPlane, namespace: str) -> None:
    patch = json.dumps({"spec": {"engine": {"maxModelLen": 2048}}})
    api.kubectl("patch", "dsvc", "tiny", f"--namespace={namespace}", "--type=merge", f"--patch={patch}")
    await_settled(api, namespace)
    wanted = {where: _ever(queries.filled(expr)) for where, expr in queries.of((OPERATOR, ROLLOUT)).items()}
    missing = prometheus.wait_for(list(wanted.values()), DATA_SECONDS)
    assert [where for where, expr in wanted.items() if expr in missing] == []
    assert {name: health for name, health in prometheus.rules(DATA_SECONDS).items() if health != "ok"} == {}


def _ever(expr: str) -> str:
    """Whether there was data at any second of the test: groups start and a rollout stalls for moments only."""
    return f"last_over_time(({expr})[5m:1s])"
