"""When metrics that somebody counts on reach nobody."""

from __future__ import annotations

import json
from typing import Any

import pytest
from proa_operator.api.service import ServiceSpec
from proa_operator.render import PodSelector, RenderSettings, Service, unscraped

PROMETHEUS = PodSelector(pod_labels={"app": "prometheus"})
ACTIVE = {"mode": "Active", "prefill": {"min": 1, "max": 2}, "decode": {"min": 1, "max": 2}}


@pytest.mark.parametrize(
    ("prometheus", "has_pod_monitors", "autoscaling", "words"),
    [
        (PodSelector(), False, {}, ""),
        (PROMETHEUS, True, ACTIVE, ""),
        (PROMETHEUS, False, {}, "the cluster has no kind PodMonitor: install the CRDs of the Prometheus operator"),
        (PodSelector(), True, ACTIVE, "set the chart's metrics.prometheus to the labels of your Prometheus"),
    ],
)
def test_why_nobody_scrapes(
    prometheus: PodSelector, has_pod_monitors: bool, autoscaling: dict[str, Any], words: str
) -> None:
    settings = RenderSettings(
        operator_image="operator:1",
        engine_images={},
        operator_namespace="proa-system",
        operator_labels={},
        prometheus=prometheus,
        has_pod_monitors=has_pod_monitors,
    )
    document = {
        "model": {"uri": "bundled://tiny-moe", "name": "m"},
        "engine": {"type": "sim"},
        "pools": {"prefill": {}, "decode": {}},
        "autoscaling": autoscaling,
    }
    spec = ServiceSpec.model_validate_json(json.dumps(document))
    said = unscraped(Service(name="s", namespace="n", uid="u", spec=spec), settings)
    assert words in said
    assert bool(said) is bool(words)
