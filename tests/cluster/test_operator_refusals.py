"""What a cluster refuses becomes a condition with its reason and the fix."""

from __future__ import annotations

import json

from testbed.cluster import Document
from testbed.control_plane import ControlPlane
from tests.cluster.operator_checks import SETTLE_SECONDS, await_settled, service
from tests.cluster.operator_process import Doubles, Operator, sim_service

QUOTA: Document = {
    "apiVersion": "v1",
    "kind": "ResourceQuota",
    "metadata": {"name": "few"},
    "spec": {"hard": {"pods": "1"}},
}


def degraded(api: ControlPlane, namespace: str) -> Document:
    conditions = service(api, namespace).get("status", {}).get("conditions", [])
    return next((found for found in conditions if found["type"] == "Degraded"), {})


def test_a_namespace_that_forbids_the_security_profile(api: ControlPlane, namespace: str, doubles: Doubles) -> None:
    api.kubectl("label", "namespace", namespace, "pod-security.kubernetes.io/enforce=restricted")
    with Operator(api, namespace):
        api.apply(sim_service(doubles, security={"profile": "Rdma"}), f"--namespace={namespace}")
        is_said = lambda: degraded(api, namespace).get("reason") == "PodSecurity"  # noqa: E731
        api.until(is_said, what="Degraded=PodSecurity", seconds=SETTLE_SECONDS)
        assert "use spec.security.profile Restricted" in degraded(api, namespace)["message"]
        api.apply(sim_service(doubles), f"--namespace={namespace}")
        await_settled(api, namespace)
        assert degraded(api, namespace)["status"] == "False"


def test_a_quota_that_is_too_small_and_then_is_not(api: ControlPlane, namespace: str, doubles: Doubles) -> None:
    api.apply(QUOTA, f"--namespace={namespace}")
    with Operator(api, namespace):
        api.apply(sim_service(doubles), f"--namespace={namespace}")
        is_said = lambda: degraded(api, namespace).get("reason") == "QuotaExceeded"  # noqa: E731
        api.until(is_said, what="Degraded=QuotaExceeded", seconds=SETTLE_SECONDS)
        patch = json.dumps({"spec": {"hard": {"pods": "9"}}})
        api.kubectl("patch", "resourcequota", "few", f"--namespace={namespace}", "--type=merge", f"--patch={patch}")
        await_settled(api, namespace)
