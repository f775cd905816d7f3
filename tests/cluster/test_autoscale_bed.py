"""The operator's autoscaler on a real API server, with a scripted Prometheus: numbers, status, events, rights."""

from __future__ import annotations

import json
import threading
from collections.abc import Iterator
from functools import partial
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from typing import Any
from urllib.parse import parse_qs

import pytest
from proa_operator.autoscale.queries import ALL, Windows, promql

from testbed.control_plane import ControlPlane
from tests.cluster.operator_checks import SETTLE_SECONDS, await_settled, service
from tests.cluster.operator_process import Doubles, Operator, condition, sim_service
from tests.unit.test_autoscale_operator import CALM, LOADED, PROFILE
from tests.unit.test_autoscale_readings import answers

SHRINK_SECONDS = 300.0
AUTOSCALING: dict[str, Any] = {
    "mode": "Active",
    "prefill": {"min": 1, "max": 3},
    "decode": {"min": 1, "max": 3},
    "behavior": {"periodSeconds": 5, "upWindowSeconds": 10, "downWindowSeconds": 30, "pinSeconds": 600},
}


class ScriptedPrometheus:
    """Answers the autoscaler's queries by what the test says; silent when `is_down`."""

    def __init__(self, namespace: str) -> None:
        self.place = {"namespace": namespace, "service": "tiny"}
        self.script: dict[str, Any] = dict(CALM)
        self.is_down = False
        texts = {promql(query, Windows()): query for query in ALL}
        outer = self

        class Handler(BaseHTTPRequestHandler):
            def do_POST(self) -> None:
                body = self.rfile.read(int(self.headers["Content-Length"])).decode()
                query = texts[parse_qs(body)["query"][0]]
                rows = answers(**outer.script).get(query, [])
                found = [{"metric": {**labels, **outer.place}, "value": [0, str(value)]} for labels, value in rows]
                text = json.dumps({"status": "success", "data": {"result": found}}).encode()
                self.send_response(503 if outer.is_down else 200)
                self.end_headers()
                self.wfile.write(b"" if outer.is_down else text)

            def log_message(self, *_: Any) -> None:
                """Quiet."""

        self.server = ThreadingHTTPServer(("127.0.0.1", 0), Handler)
        self.url = f"http://127.0.0.1:{self.server.server_port}"
        threading.Thread(target=self.server.serve_forever, daemon=True).start()


@pytest.fixture
def prometheus(namespace: str) -> Iterator[ScriptedPrometheus]:
    script = ScriptedPrometheus(namespace)
    yield script
    script.server.shutdown()
    script.server.server_close()


def replicas(api: ControlPlane, namespace: str, role: str) -> int:
    return int(api.get("workerpools", f"tiny-{role}", namespace)["spec"]["replicas"])


def test_the_operator_scales(
    api: ControlPlane, namespace: str, doubles: Doubles, prometheus: ScriptedPrometheus
) -> None:
    place = f"--namespace={namespace}"
    profile = {**PROFILE, "metadata": {"name": "p"}}
    slo = {"ttftMs": 1500, "itlMs": 50, "percentile": 95}
    with Operator(api, namespace, PROA_PROMETHEUS_URL=prometheus.url) as operator:
        api.apply(profile, place)
        api.apply(sim_service(doubles, slo=slo, autoscaling=AUTOSCALING), place)
        await_settled(api, namespace)
        api.until(partial(_is_fresh, api, namespace, "True"), what="fresh metrics", seconds=SETTLE_SECONDS)
        prometheus.script = dict(LOADED)
        api.until(lambda: replicas(api, namespace, "prefill") > 1, what="growth", seconds=SETTLE_SECONDS)
        api.until(partial(_has_grown, api, namespace), what="the new groups to be routable", seconds=SETTLE_SECONDS)
        assert service(api, namespace)["status"]["autoscaler"]["hasProfile"] is True
        events = api.get("events", namespace=namespace)["items"]
        assert "ScaledUp" in {event["reason"] for event in events}
        _outage(api, namespace, prometheus)
        _by_hand(api, namespace, prometheus)
        samples = operator.samples()
        labels = f'namespace="{namespace}",service="tiny"'
        assert samples[f"proa_autoscaler_metrics_fresh{{{labels}}}"] == 1.0
        assert operator.stop() == 0


HPA = {
    "apiVersion": "autoscaling/v2",
    "kind": "HorizontalPodAutoscaler",
    "metadata": {"name": "tiny-decode"},
    "spec": {
        "scaleTargetRef": {"apiVersion": "proa.dev/v1alpha1", "kind": "WorkerPool", "name": "tiny-decode"},
        "minReplicas": 2,
        "maxReplicas": 3,
    },
}


def test_a_horizontal_pod_autoscaler_keeps_its_pool(
    api: ControlPlane, namespace: str, doubles: Doubles, prometheus: ScriptedPrometheus
) -> None:
    """The cluster's own controller sizes decode, the autoscaler prefill, and neither writes over the other."""
    place = f"--namespace={namespace}"
    behavior = {**AUTOSCALING["behavior"], "pinSeconds": 5}
    slo = {"ttftMs": 1500, "itlMs": 50, "percentile": 95}
    with Operator(api, namespace, PROA_PROMETHEUS_URL=prometheus.url):
        api.apply({**PROFILE, "metadata": {"name": "p"}}, place)
        api.apply(sim_service(doubles, slo=slo, autoscaling={**AUTOSCALING, "behavior": behavior}), place)
        await_settled(api, namespace)
        api.until(partial(_owner_is, api, namespace, "Autoscaler"), what="the owner", seconds=SETTLE_SECONDS)
        api.apply(HPA, place)
        api.until(lambda: replicas(api, namespace, "decode") == 2, what="the HPA to act", seconds=SETTLE_SECONDS)
        api.until(partial(_owner_is, api, namespace, "OwnedByController"), what="the owner", seconds=SETTLE_SECONDS)
        generation = _generation(api, namespace)
        prometheus.script = dict(LOADED)
        api.until(lambda: replicas(api, namespace, "prefill") > 1, what="growth", seconds=SETTLE_SECONDS)
        prometheus.script = dict(CALM)
        api.until(lambda: replicas(api, namespace, "prefill") == 1, what="prefill to shrink", seconds=SHRINK_SECONDS)
        assert _generation(api, namespace) == generation, "nobody wrote another number, not even for a moment"
        api.kubectl("delete", "hpa", "tiny-decode", place)
        api.kubectl("scale", "workerpool", "tiny-decode", place, "--replicas=3")
        api.until(lambda: replicas(api, namespace, "decode") == 1, what="decode to shrink", seconds=SHRINK_SECONDS)
        api.until(partial(_owner_is, api, namespace, "Autoscaler"), what="the owner", seconds=SETTLE_SECONDS)


def _owner_is(api: ControlPlane, namespace: str, reason: str) -> bool:
    held = service(api, namespace)["status"].get("conditions", ())
    return any(one["type"] == "PoolsOwned" and one["reason"] == reason for one in held)


def _generation(api: ControlPlane, namespace: str) -> int:
    """It grows with each change of the spec."""
    return int(api.get("workerpools", "tiny-decode", namespace)["metadata"]["generation"])


def _has_grown(api: ControlPlane, namespace: str) -> bool:
    routable: int = service(api, namespace)["status"]["pools"]["prefill"]["routable"]
    return routable == replicas(api, namespace, "prefill") > 1


def _is_fresh(api: ControlPlane, namespace: str, status: str) -> bool:
    return condition(service(api, namespace), "MetricsFresh") == status


def _outage(api: ControlPlane, namespace: str, prometheus: ScriptedPrometheus) -> None:
    """False within a minute, and nothing shrinks."""
    held = replicas(api, namespace, "prefill"), replicas(api, namespace, "decode")
    prometheus.is_down, prometheus.script = True, dict(CALM)
    api.until(partial(_is_fresh, api, namespace, "False"), what="MetricsFresh=False", seconds=60.0)
    prometheus.is_down = False
    api.until(partial(_is_fresh, api, namespace, "True"), what="fresh metrics", seconds=SETTLE_SECONDS)
    assert (replicas(api, namespace, "prefill"), replicas(api, namespace, "decode")) == held


def _by_hand(api: ControlPlane, namespace: str, prometheus: ScriptedPrometheus) -> None:
    """kubectl scale is left alone, and the other pool still shrinks."""
    api.kubectl("scale", "workerpool", "tiny-decode", f"--namespace={namespace}", "--replicas=3")
    api.until(partial(_is_marked, api, namespace), what="the mark of a number set by hand", seconds=SETTLE_SECONDS)
    prometheus.script = dict(CALM)
    api.until(lambda: replicas(api, namespace, "prefill") == 1, what="prefill to shrink", seconds=SHRINK_SECONDS)
    assert replicas(api, namespace, "decode") == 3


def _is_marked(api: ControlPlane, namespace: str) -> bool:
    notes = api.get("workerpools", "tiny-decode", namespace)["metadata"].get("annotations", {})
    return "proa.dev/manual-at" in notes
