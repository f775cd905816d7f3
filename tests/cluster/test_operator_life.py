"""The operator on a real API server, pods played by kwok and WorkerAdmin by a double."""

from __future__ import annotations

import json
import time
from collections.abc import Iterator
from datetime import UTC, datetime, timedelta
from functools import partial

import pytest

from testbed.cluster import Document
from testbed.control_plane import ControlPlane
from tests.cluster.operator_checks import SETTLE_SECONDS, await_settled, children, objects, service, writes
from tests.cluster.operator_process import Doubles, Operator, sim_service

REST_SECONDS = 12.0


@pytest.fixture
def operator(api: ControlPlane, namespace: str, doubles: Doubles) -> Iterator[Operator]:
    with Operator(api, namespace) as found:
        api.apply(sim_service(doubles), f"--namespace={namespace}")
        await_settled(api, namespace)
        yield found


@pytest.mark.usefixtures("operator")
def test_pods_are_ungated_probed_and_routed(api: ControlPlane, namespace: str) -> None:
    found = service(api, namespace)
    assert found["status"]["columns"] == {"prefill": "1/1", "decode": "1/1", "state": "Serving"}
    assert "finalizers" not in found["metadata"]
    for pod in api.get("pods", namespace=namespace, selector="proa.dev/group")["items"]:
        held = {entry["type"]: entry["status"] for entry in pod["status"]["conditions"]}
        assert "schedulingGates" not in pod["spec"]
        assert held["proa.dev/routable"] == held["Ready"] == "True"
    pool = api.get("workerpools", "tiny-decode", namespace)
    assert (pool["spec"]["replicas"], pool["status"]["replicas"], pool["status"]["readyReplicas"]) == (1, 1, 1)


@pytest.mark.usefixtures("operator")
def test_at_rest_nothing_is_written_but_the_lease(api: ControlPlane, namespace: str) -> None:
    def has_come_to_rest() -> bool:
        return not writes(api, namespace, since=(datetime.now(UTC) - timedelta(seconds=3.0)).isoformat())

    api.until(has_come_to_rest, what="the last events of the start", seconds=SETTLE_SECONDS)
    since = datetime.now(UTC).isoformat()
    time.sleep(REST_SECONDS)  # the subject of the test: what happens when nothing does
    assert writes(api, namespace, since=since) == []
    assert [event for event in api.audit() if event.resource == "leases" and event.received >= since]


@pytest.mark.usefixtures("operator")
def test_a_wiped_status_is_rebuilt(api: ControlPlane, namespace: str) -> None:
    before = service(api, namespace)["status"]
    patch = json.dumps([{"op": "replace", "path": "/status", "value": {}}])
    target = ("disaggregatedservice", "tiny", f"--namespace={namespace}", "--subresource=status")
    api.kubectl("patch", *target, "--type=json", f"--patch={patch}")
    after = await_settled(api, namespace)["status"]
    assert (after["revision"], after["pools"], after["columns"]) == (
        before["revision"],
        before["pools"],
        before["columns"],
    )


@pytest.mark.usefixtures("operator")
@pytest.mark.parametrize("kind", ["service", "networkpolicy", "poddisruptionbudget", "workerpool", "deployment"])
def test_a_child_deleted_by_hand_comes_back(api: ControlPlane, namespace: str, kind: str) -> None:
    listed = api.get(kind, namespace=namespace, selector="proa.dev/service")["items"]
    old = listed[0]["metadata"]
    api.kubectl("delete", kind, old["name"], f"--namespace={namespace}")

    def is_back() -> bool:
        new = api.get(kind, old["name"], namespace)["metadata"]
        return bool(new["uid"] != old["uid"])

    api.until(is_back, what=f"another {kind} {old['name']}", seconds=SETTLE_SECONDS)
    await_settled(api, namespace)


@pytest.mark.usefixtures("operator")
def test_a_child_edited_by_hand_is_put_right_and_keeps_what_is_not_ours(api: ControlPlane, namespace: str) -> None:
    target = ("poddisruptionbudget", "tiny-gateway", f"--namespace={namespace}")
    ours = api.get(*target[:2], namespace)["spec"]
    patch = json.dumps({"metadata": {"labels": {"team": "x"}}, "spec": {"maxUnavailable": 3, "minAvailable": None}})
    api.kubectl("patch", *target, "--type=merge", f"--patch={patch}")
    is_right = lambda: api.get(*target[:2], namespace)["spec"] == ours  # noqa: E731
    api.until(is_right, what="the budget as it was", seconds=SETTLE_SECONDS)
    assert api.get(*target[:2], namespace)["metadata"]["labels"]["team"] == "x"


@pytest.mark.usefixtures("operator")
def test_pools_follow_kubectl_scale(api: ControlPlane, namespace: str) -> None:
    def has(groups: int) -> bool:
        found = children(api, namespace)
        sets = [name for kind, name in found if kind == "StatefulSet" and "-decode-" in name]
        status = api.get("workerpools", "tiny-decode", namespace)["status"]
        return bool(len(sets) == groups == status["readyReplicas"])

    for groups in (2, 1):
        api.kubectl("scale", "workerpool", "tiny-decode", f"--namespace={namespace}", f"--replicas={groups}")
        api.until(partial(has, groups), what=f"{groups} decode groups", seconds=SETTLE_SECONDS)


@pytest.mark.usefixtures("operator")
def test_pools_follow_an_autoscaler_and_the_unchanged_manifest_does_not_undo_it(
    api: ControlPlane, namespace: str, doubles: Doubles
) -> None:
    def has(groups: int) -> bool:
        status = api.get("workerpools", "tiny-decode", namespace)["status"]
        return bool(status["readyReplicas"] == groups)

    for minimum in (2, 3):
        api.apply(autoscaler("tiny-decode", minimum), f"--namespace={namespace}")
        api.until(partial(has, minimum), what=f"{minimum} decode groups", seconds=SETTLE_SECONDS)
    api.apply(sim_service(doubles), f"--namespace={namespace}")
    await_settled(api, namespace)
    assert api.get("workerpools", "tiny-decode", namespace)["spec"]["replicas"] == 3


def autoscaler(pool: str, minimum: int) -> Document:
    """A HorizontalPodAutoscaler of a WorkerPool. Nothing measures here, so it only keeps to its bounds."""
    target = {"type": "Utilization", "averageUtilization": 50}
    spec = {
        "scaleTargetRef": {"apiVersion": "proa.dev/v1alpha1", "kind": "WorkerPool", "name": pool},
        "minReplicas": minimum,
        "maxReplicas": 8,
        "metrics": [{"type": "Resource", "resource": {"name": "cpu", "target": target}}],
    }
    kind = {"apiVersion": "autoscaling/v2", "kind": "HorizontalPodAutoscaler"}
    return {**kind, "metadata": {"name": pool}, "spec": spec}


def test_deleting_services_leaves_nothing_behind(api: ControlPlane, namespace: str, doubles: Doubles) -> None:
    before = objects(api, namespace)
    with Operator(api, namespace):
        hub = sim_service(doubles, name="hub", model={"uri": "hf://org/model", "name": "hub"})
        api.apply([sim_service(doubles), hub], f"--namespace={namespace}")
        await_settled(api, namespace)
        await_settled(api, namespace, "hub")
        made = objects(api, namespace) - before
        assert {name.partition("/")[2].partition("/")[0] for name in made} >= {"job.batch", "persistentvolumeclaim"}
        api.kubectl("delete", "disaggregatedservice", "--all", f"--namespace={namespace}", "--timeout=50s")

        def left() -> frozenset[str]:
            return objects(api, namespace) - before - {f"{namespace}/lease.coordination.k8s.io/proa"}

        api.until(lambda: not left(), what=f"the end of {sorted(left())}", seconds=SETTLE_SECONDS)
