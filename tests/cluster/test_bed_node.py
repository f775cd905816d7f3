"""The test bed itself, tier (b): a real node, images made from the checkout, traffic from this machine, helm."""

from __future__ import annotations

import json
import urllib.request
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import grpc
import pytest
from grpc_health.v1 import health_pb2, health_pb2_grpc

from testbed.node.node import NodeCluster

RESTRICTED = "pod-security.kubernetes.io/enforce=restricted"
CHART = """apiVersion: v2
name: trivial
version: 0.1.0
kubeVersion: ">=1.34.0-0"
"""
CHART_OBJECT = """apiVersion: v1
kind: ConfigMap
metadata: {name: trivial}
data: {word: {{ .Values.word | quote }}}
"""


def worker(name: str, namespace: str, engine: str) -> dict[str, Any]:
    """A worker as the operator runs it, of the restricted level."""
    security = {"allowPrivilegeEscalation": False, "readOnlyRootFilesystem": True, "capabilities": {"drop": ["ALL"]}}
    flags = {"role": "both", "engine": engine, "model": "/opt/proa/models/tiny-moe", "host": "0.0.0.0"}
    flags["advertise-host"] = "$(POD_IP)"
    if engine == "native":
        flags["kv-cache-memory"] = "256MiB"
    container = {
        "name": "worker",
        "image": f"localhost/proa-{engine}:test",
        "imagePullPolicy": "IfNotPresent",
        "command": ["proa-worker"],
        "args": [f"--{key}={value}" for key, value in flags.items()],
        "env": [{"name": "POD_IP", "valueFrom": {"fieldRef": {"fieldPath": "status.podIP"}}}],
        "readinessProbe": {"grpc": {"port": 50051}, "periodSeconds": 1},
        "securityContext": security,
        "volumeMounts": [{"name": "tmp", "mountPath": "/tmp"}, {"name": "shm", "mountPath": "/dev/shm"}],
    }
    spec = {
        "containers": [container],
        "securityContext": {"runAsNonRoot": True, "runAsUser": 65532, "seccompProfile": {"type": "RuntimeDefault"}},
        "volumes": [{"name": "tmp", "emptyDir": {}}, {"name": "shm", "emptyDir": {"medium": "Memory"}}],
        "terminationGracePeriodSeconds": 5,
    }
    metadata = {"name": name, "namespace": namespace, "labels": {"app": name}}
    return {"apiVersion": "v1", "kind": "Pod", "metadata": metadata, "spec": spec}


@pytest.fixture
def restricted(node_cluster: NodeCluster, namespace: str) -> Iterator[str]:
    """A namespace that admits only pods of the restricted level; its pods are deleted at the end."""
    node_cluster.kubectl("label", "namespace", namespace, RESTRICTED)
    yield namespace
    node_cluster.kubectl("delete", "pods", "--all", f"--namespace={namespace}", "--wait=false")


def fetch(url: str) -> str:
    with urllib.request.urlopen(url, timeout=30) as answer:
        return str(answer.read().decode())


def test_the_node_is_ready_and_real(node_cluster: NodeCluster) -> None:
    node = node_cluster.get("node", "node1")["status"]["nodeInfo"]
    assert node["kubeletVersion"] == "v1.36.3"
    assert node["containerRuntimeVersion"].startswith("containerd://")


@pytest.mark.parametrize("engine", ["sim", "native"])
def test_a_worker_becomes_ready_and_answers_this_machine(
    node_cluster: NodeCluster, restricted: str, engine: str
) -> None:
    node_cluster.apply(worker("w", restricted, engine))
    ready = ("pod/w", f"--namespace={restricted}", "--for=condition=Ready", "--timeout=90s")
    node_cluster.kubectl("wait", *ready, seconds=100)
    address = node_cluster.get("pod", "w", restricted)["status"]["podIP"]
    with grpc.insecure_channel(f"{address}:50051") as channel:
        answer = health_pb2_grpc.HealthStub(channel).Check(health_pb2.HealthCheckRequest(), timeout=30)
    assert answer.status == health_pb2.HealthCheckResponse.SERVING


def test_a_service_reaches_its_pod_from_this_machine_and_from_a_pod(node_cluster: NodeCluster, restricted: str) -> None:
    node_cluster.apply(worker("w", restricted, "sim"))
    where = f"--namespace={restricted}"
    node_cluster.kubectl("expose", "pod", "w", "--port=9100", where)
    node_cluster.kubectl("wait", "pod/w", where, "--for=condition=Ready", "--timeout=90s", seconds=100)
    address = node_cluster.get("service", "w", restricted)["spec"]["clusterIP"]
    url = f"http://{address}:9100/metrics"
    node_cluster.until(lambda: "vllm:" in fetch(url), what="the Service to answer", seconds=90)
    code = f"import urllib.request; print(urllib.request.urlopen('{url}', timeout=30).status)"
    assert node_cluster.kubectl("exec", "w", where, "--", "python", "-c", code).strip() == "200"


def test_a_pod_with_root_is_refused_at_the_restricted_level(node_cluster: NodeCluster, restricted: str) -> None:
    wrong = worker("w", restricted, "sim")
    del wrong["spec"]["securityContext"]
    assert "violates PodSecurity" in node_cluster.tried_apply(wrong).stderr


def test_the_operator_image_has_its_programs(node_cluster: NodeCluster, restricted: str) -> None:
    pod = worker("o", restricted, "operator")
    pod["spec"]["containers"][0] |= {"command": ["sh", "-c"], "args": ["smg --version && proa --help && sleep 600"]}
    del pod["spec"]["containers"][0]["readinessProbe"]
    node_cluster.apply(pod)

    def helped() -> bool:
        return "Usage" in node_cluster.kubectl("logs", "o", f"--namespace={restricted}")

    node_cluster.until(helped, what="the help text in the log", seconds=60)


def test_helm_installs_upgrades_and_removes_a_chart(node_cluster: NodeCluster, namespace: str, tmp_path: Path) -> None:
    (tmp_path / "templates").mkdir()
    (tmp_path / "Chart.yaml").write_text(CHART)
    (tmp_path / "values.yaml").write_text("word: one\n")
    (tmp_path / "templates" / "object.yaml").write_text(CHART_OBJECT)
    where = f"--namespace={namespace}"
    for flags, word in (((), "one"), (("--set=word=two",), "two")):
        node_cluster.helm("upgrade", "--install", "t", str(tmp_path), where, "--wait", *flags)
        assert node_cluster.get("configmap", "trivial", namespace)["data"]["word"] == word
    assert json.loads(node_cluster.helm("list", where, "--output=json"))[0]["revision"] == "2"
    node_cluster.helm("uninstall", "t", where, "--wait")
    assert node_cluster.tried("kubectl", "get", "configmap", "trivial", where).returncode != 0
