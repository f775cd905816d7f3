"""A service with `min: 0` on the real node: it sleeps, its gateway stays ready, and a request wakes both pools."""

from __future__ import annotations

import json
import urllib.error
import urllib.request
from collections.abc import Iterator
from dataclasses import dataclass
from functools import partial
from pathlib import Path

import pytest
import yaml
from proa_operator import names

from testbed.cluster import Document
from testbed.node.node import NodeCluster
from tests.cluster.kinds import apply_kinds, remove_kinds
from tests.cluster.live_kubelet import gateway_role
from tests.cluster.operator_checks import await_settled
from tests.cluster.operator_process import Operator
from tests.monitoring.live_prometheus import Prometheus, running
from tests.unit.test_autoscale_operator import PROFILE

START_SECONDS = SLEEP_SECONDS = WAKE_SECONDS = 180.0
BEHAVIOR = {"periodSeconds": 5, "upWindowSeconds": 10, "downWindowSeconds": 20, "pinSeconds": 60}
SERVICE = {
    "apiVersion": "proa.dev/v1alpha1",
    "kind": "DisaggregatedService",
    "metadata": {"name": "tiny"},
    "spec": {
        "model": {"uri": "bundled://tiny-moe", "name": "tiny-moe"},
        "engine": {"type": "sim"},
        "pools": {"prefill": {"replicas": 1}, "decode": {"replicas": 1}},
        "slo": {"ttftMs": 1500, "itlMs": 50, "percentile": 95},
        "kvTransfer": {"leaseSeconds": 5},
        "drain": {"timeoutSeconds": 30},
        "gateway": {"replicas": 1, "port": 8000},
        "autoscaling": {
            "mode": "Active",
            "prefill": {"min": 0, "max": 2},
            "decode": {"min": 0, "max": 2},
            "behavior": BEHAVIOR,
        },
    },
}


@dataclass(frozen=True, slots=True)
class Scraping:
    """A Prometheus whose targets are a file: Debian's cannot ask an API server."""

    prometheus: Prometheus
    targets: Path

    def of(self, bed: NodeCluster, namespace: str) -> None:
        """Scrape the pods that are there now, with the labels that the PodMonitors give."""
        found = [_target(pod, port) for pod in bed.get("pods", namespace=namespace)["items"] for port in _ports(pod)]
        fresh = self.targets.with_suffix(".new")
        fresh.write_text(json.dumps(found), encoding="utf-8")
        fresh.replace(self.targets)


@pytest.fixture
def scraping(prometheus_program: str, tmp_path: Path) -> Iterator[Scraping]:
    path, targets = tmp_path / "prometheus.yml", tmp_path / "targets.json"
    job = {"job_name": "pods", "file_sd_configs": [{"files": [str(targets)], "refresh_interval": "1s"}]}
    path.write_text(yaml.safe_dump({"global": {"scrape_interval": "1s"}, "scrape_configs": [job]}), encoding="utf-8")
    with running(prometheus_program, path, tmp_path / "data") as found:
        yield Scraping(found, targets)


@pytest.fixture
def bed(node_cluster: NodeCluster) -> Iterator[NodeCluster]:
    apply_kinds(node_cluster)
    yield node_cluster
    remove_kinds(node_cluster)


def _ports(pod: Document) -> list[int]:
    """Of its metrics."""
    named = (port for container in pod["spec"]["containers"] for port in container.get("ports", ()))
    return [port["containerPort"] for port in named if port["name"] == "metrics" and pod["status"].get("podIP")]


def _target(pod: Document, port: int) -> Document:
    meta = pod["metadata"]
    held = {"service": names.SERVICE_LABEL, "role": names.ROLE_LABEL}
    labels = {label: meta["labels"][name] for label, name in held.items() if name in meta["labels"]}
    place = {"namespace": meta["namespace"], "pod": meta["name"]}
    return {"targets": [f"{pod['status']['podIP']}:{port}"], "labels": {**place, **labels}}


def test_a_sleeping_service_wakes_by_a_request(bed: NodeCluster, namespace: str, scraping: Scraping) -> None:
    place = f"--namespace={namespace}"
    bed.apply(gateway_role(namespace))
    with Operator(bed, namespace, PROA_PROMETHEUS_URL=scraping.prometheus.url):
        bed.apply([{**PROFILE, "metadata": {"name": "p"}}, SERVICE], place)
        await_settled(bed, namespace, seconds=START_SECONDS)
        scraping.of(bed, namespace)
        spec = bed.get("service", "tiny-gateway", namespace)["spec"]
        url = f"http://{spec['clusterIP']}:{spec['ports'][0]['port']}"
        bed.until(partial(_is_asleep, bed, namespace), what="both pools to sleep", seconds=SLEEP_SECONDS)
        before = _gateway(bed, namespace)
        first = ask(url)
        assert first in (404, 503), "a client has to try again, and is told so at once"
        assert _ready_since(before) == _ready_since(_gateway(bed, namespace)) != "", "the gateway stayed ready"
        bed.until(lambda: _sizes(bed, namespace) != (0, 0), what="a wake-up", seconds=WAKE_SECONDS)
        assert min(_sizes(bed, namespace)) >= 1, "both pools wake together"
        statuses = [first]
        bed.until(lambda: _answers(url, statuses), what="an answer", seconds=WAKE_SECONDS)
        print(f"{len(statuses)} requests until an answer")
        assert set(statuses) <= {200, 404, 503}
        reasons = {event["reason"] for event in bed.get("events", namespace=namespace)["items"]}
        assert {"PutToSleep", "WokenUp"} <= reasons
        bed.kubectl("delete", "dsvc", "tiny", place, "--timeout=60s", seconds=70)
        bed.until(lambda: not bed.get("pods", namespace=namespace)["items"], what="no pods", seconds=WAKE_SECONDS)


def ask(url: str) -> int:
    """HTTP status of a short request; 0 when nobody listens."""
    body = json.dumps({"model": "tiny-moe", "prompt": "a b c", "max_tokens": 4}).encode()
    request = urllib.request.Request(f"{url}/v1/completions", body, {"Content-Type": "application/json"})
    try:
        with urllib.request.urlopen(request, timeout=30) as answer:
            return int(answer.status)
    except urllib.error.HTTPError as error:
        return error.code
    except OSError:
        return 0


def _answers(url: str, statuses: list[int]) -> bool:
    """Ask once more, and keep the status."""
    statuses.append(ask(url))
    return statuses[-1] == 200


def _sizes(bed: NodeCluster, namespace: str) -> tuple[int, int]:
    found = [bed.get("workerpools", f"tiny-{role}", namespace)["spec"]["replicas"] for role in ("prefill", "decode")]
    return found[0], found[1]


def _is_asleep(bed: NodeCluster, namespace: str) -> bool:
    """Not even a pod that drains is left."""
    pods = bed.get("pods", namespace=namespace, selector=names.ROLE_LABEL)["items"]
    return _sizes(bed, namespace) == (0, 0) and not pods


def _gateway(bed: NodeCluster, namespace: str) -> Document:
    found: list[Document] = bed.get("pods", namespace=namespace, selector=f"{names.COMPONENT_LABEL}=gateway")["items"]
    (pod,) = found
    return pod


def _ready_since(pod: Document) -> str:
    """Empty while it is not."""
    held = [one for one in pod["status"]["conditions"] if (one["type"], one["status"]) == ("Ready", "True")]
    return str(held[0]["lastTransitionTime"]) if held else ""
