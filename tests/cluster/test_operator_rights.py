"""The operator with no more rights than its chart gives: all of its work is done, nothing is refused."""

from __future__ import annotations

from functools import partial

import pytest

from testbed.cluster import Document
from testbed.control_plane import ControlPlane
from tests.cluster.operator_checks import SETTLE_SECONDS, await_settled, children, service
from tests.cluster.operator_process import Doubles, Operator, condition, sim_service

CHART = "charts/proa"


@pytest.mark.parametrize(("mode", "view"), [("Cluster", ""), ("Namespaced", "True")])
def test_the_charts_rights_suffice(api: ControlPlane, namespace: str, doubles: Doubles, mode: str, view: str) -> None:
    release = f"proa-{mode.lower()}"
    place = f"--namespace={namespace}"
    api.helm("install", release, CHART, place, f"--set=rbac.mode={mode}")
    account = api.service_account_kubeconfig(namespace, release)
    watched = "" if mode == "Cluster" else namespace
    with Operator(
        api, namespace, kubeconfig=account, PROA_LEASE_NAME=release, PROA_WATCH_NAMESPACES=watched
    ) as operator:
        _live_a_life(api, namespace, doubles, view)
        assert operator.stop() == 0
    user = f"system:serviceaccount:{namespace}:{release}"
    # Namespaces of earlier tests refuse everything while they end.
    mine = [event for event in api.audit() if event.user == user and event.namespace in ("", namespace)]
    assert mine
    assert [event for event in mine if event.code == 403] == []
    assert not [event for event in mine if event.resource.startswith("secrets")]
    api.helm("uninstall", release, place)


def _live_a_life(api: ControlPlane, namespace: str, doubles: Doubles, view: str) -> None:
    place = f"--namespace={namespace}"
    api.apply(sim_service(doubles), place)
    await_settled(api, namespace)
    assert condition(service(api, namespace), "NodeViewUnavailable") == view
    api.kubectl("scale", "workerpool", "tiny-decode", place, "--replicas=2")
    api.until(partial(_has_sets, api, namespace, 3), what="a third group", seconds=SETTLE_SECONDS)
    changed: Document = sim_service(doubles, kvTransfer={"leaseSeconds": 6})
    before = service(api, namespace)["status"]["revision"]
    api.apply(changed, place)
    api.until(lambda: service(api, namespace)["status"]["revision"] != before, what="another revision")
    await_settled(api, namespace)
    assert not [name for _, name in children(api, namespace) if f"-{before}-" in name]


def _has_sets(api: ControlPlane, namespace: str, count: int) -> bool:
    return sum(kind == "StatefulSet" for kind, _ in children(api, namespace)) == count
