"""What each value does, and which values are refused with which fix."""

from __future__ import annotations

import json
from collections.abc import Callable
from pathlib import Path
from subprocess import CompletedProcess
from typing import Any

import pytest

CHART = Path(__file__).parents[2] / "charts" / "proa"
Rendered = list[dict[str, Any]]
Render = Callable[..., Rendered]
Helm = Callable[..., "CompletedProcess[str]"]


def _one(objects: Rendered, kind: str, name: str = "") -> dict[str, Any]:
    (found,) = [one for one in objects if one["kind"] == kind and name in ("", one["metadata"]["name"])]
    return found


def _pod(objects: Rendered) -> dict[str, Any]:
    pod: dict[str, Any] = _one(objects, "Deployment")["spec"]["template"]["spec"]
    return pod


def _env(objects: Rendered) -> dict[str, str]:
    return {one["name"]: one.get("value", "") for one in _pod(objects)["containers"][0]["env"]}


def _names(objects: Rendered, *kinds: str) -> list[tuple[str, str]]:
    return sorted(
        (one["metadata"].get("namespace", ""), one["metadata"]["name"]) for one in objects if one["kind"] in kinds
    )


def test_defaults_watch_everything(render: Render) -> None:
    objects = render()
    assert _names(objects, "ClusterRole", "ClusterRoleBinding") == [
        ("", "proa-gateway"),
        ("", "proa-proa-system"),
        ("", "proa-proa-system"),
        ("", "proa-proa-system-edit"),
        ("", "proa-proa-system-view"),
    ]
    assert _names(objects, "Role", "RoleBinding") == [("proa-system", "proa-leader")] * 2
    assert _env(objects)["PROA_WATCH_NAMESPACES"] == ""


def test_namespaced_has_no_cluster_right(render: Render) -> None:
    objects = render("--set=rbac.mode=Namespaced")
    assert _names(objects, "ClusterRole", "ClusterRoleBinding") == []
    roles = ["proa-gateway", "proa-leader", "proa-proa-system"]
    assert _names(objects, "Role") == [("proa-system", name) for name in roles]
    assert _env(objects)["PROA_WATCH_NAMESPACES"] == "proa-system"


@pytest.mark.parametrize(("mode", "num_cluster_roles"), [("Cluster", 1), ("Namespaced", 0)])
def test_given_namespaces_get_a_role_each(render: Render, mode: str, num_cluster_roles: int) -> None:
    objects = render(
        f"--set=rbac.mode={mode},rbac.aggregateToUserRoles=false", "--set-json", 'watchNamespaces=["b","a","b"]'
    )
    expected = [(space, name) for space in ("a", "b") for name in ("proa-gateway", "proa-proa-system")]
    assert _names(objects, "Role") == [*expected, ("proa-system", "proa-leader")]
    assert _env(objects)["PROA_WATCH_NAMESPACES"] == "a,b"
    cluster_roles = [one for one in objects if one["kind"] == "ClusterRole"]
    assert [rule["resources"] for role in cluster_roles for rule in role["rules"]] == [["nodes"]] * num_cluster_roles


def test_two_releases_share_no_cluster_object(render: Render) -> None:
    first, second = (render(f"--namespace={space}", "--set=watchNamespaces[0]=x") for space in ("one", "two"))
    kinds = ("ClusterRole", "ClusterRoleBinding")
    assert not set(_names(first, *kinds)) & set(_names(second, *kinds))


def test_images(render: Render) -> None:
    digest = "sha256:" + "a" * 64
    env = _env(render(f"--set=image.repository=r/op,image.digest={digest},engineImages.vllm=r/vllm:1"))
    assert env["PROA_OPERATOR_IMAGE"] == f"r/op@{digest}"
    assert env["PROA_ENGINE_IMAGE_VLLM"] == "r/vllm:1"
    env = _env(render("--set=image.tag=edge,engineImages.sim=r/sim:2"))
    assert env["PROA_OPERATOR_IMAGE"] == "proa-operator:edge"
    assert env["PROA_ENGINE_IMAGE_SIM"] == "r/sim:2"
    assert "PROA_ENGINE_IMAGE_VLLM" not in env


def test_prometheus_may_scrape(render: Render) -> None:
    objects = render(f"--values={CHART / 'ci' / '04-prometheus.yaml'}")
    selector = json.loads(_env(objects)["PROA_PROMETHEUS_SELECTOR"])
    assert selector["podLabels"] == {"app.kubernetes.io/name": "prometheus"}
    (rule,) = _one(objects, "NetworkPolicy")["spec"]["ingress"]
    assert rule["from"][0]["podSelector"]["matchLabels"] == selector["podLabels"]
    assert _one(objects, "PodMonitor")["metadata"]["labels"]["release"] == "prometheus"


@pytest.mark.parametrize(
    ("url", "port"), [("http://prometheus.monitoring:9090", 9090), ("https://p.example/x", 443), ("http://p", 80)]
)
def test_the_autoscaler_may_ask_prometheus(render: Render, url: str, port: int) -> None:
    objects = render(f"--set=metrics.prometheus.url={url}")
    assert _env(objects)["PROA_PROMETHEUS_URL"] == url
    assert {"ports": [{"protocol": "TCP", "port": port}]} in _one(objects, "NetworkPolicy")["spec"]["egress"]
    assert "PROA_PROMETHEUS_URL" not in _env(render())


def test_nobody_scrapes_by_default(render: Render) -> None:
    objects = render()
    assert "ingress" not in _one(objects, "NetworkPolicy")["spec"]
    assert "PROA_PROMETHEUS_SELECTOR" not in _env(objects)


def test_one_replica_needs_no_disruption_budget(render: Render) -> None:
    assert _names(render(), "PodDisruptionBudget") == [("proa-system", "proa")]
    assert _names(render("--set=replicas=1"), "PodDisruptionBudget") == []


def test_node_choice_reaches_both_pods(render: Render) -> None:
    objects = render(f"--values={CHART / 'ci' / '06-gpu-cluster.yaml'}")
    for pod in (_pod(objects), _one(objects, "Pod")["spec"]):
        assert pod["nodeSelector"] == {"node-role.kubernetes.io/control-plane": ""}
        assert pod["tolerations"][0]["effect"] == "NoSchedule"
    assert _pod(objects)["priorityClassName"] == "system-cluster-critical"
    assert _env(objects)["PROA_DEVICE_GROUPS"] == "44,992"


REFUSALS = [
    ("typo=1", "additional properties 'typo' not allowed"),
    ("image.digest=sha256:1", "at '/image/digest'"),
    ("image.pullPolicy=Sometimes", "at '/image/pullPolicy'"),
    ("replicas=0", "at '/replicas'"),
    ("rbac.mode=cluster", "at '/rbac/mode'"),
    ("watchNamespaces=a", "at '/watchNamespaces'"),
    ("metrics.prometheus.labels.a=b", "additional properties 'labels' not allowed"),
    ("devices.rdmaResource=nic", "at '/devices/rdmaResource'"),
    ("log.format=xml", "at '/log/format'"),
]


@pytest.mark.parametrize(("value", "said"), REFUSALS)
def test_the_schema_refuses(helm: Helm, value: str, said: str) -> None:
    done = helm("template", "proa", str(CHART), f"--set={value}")
    assert done.returncode != 0
    assert said in done.stderr


def test_a_pod_monitor_needs_its_kind(helm: Helm) -> None:
    done = helm("template", "proa", str(CHART), f"--values={CHART / 'ci' / '04-prometheus.yaml'}")
    assert "install the CRDs of the Prometheus operator first, or set it to false" in done.stderr


def test_a_pod_monitor_needs_a_prometheus(helm: Helm) -> None:
    kind = "--api-versions=monitoring.coreos.com/v1/PodMonitor"
    done = helm("template", "proa", str(CHART), "--set=metrics.podMonitor.enabled=true", kind)
    assert "set namespaceLabels or podLabels there to those of Prometheus" in done.stderr
