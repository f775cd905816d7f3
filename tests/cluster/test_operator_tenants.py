"""Two installs in two namespaces, each with the rights of its own chart: neither ever touches what is the other's."""

from __future__ import annotations

from collections.abc import Iterator

import pytest

from testbed.audit import AuditEvent
from testbed.control_plane import ControlPlane
from tests.cluster.operator_checks import await_settled, children
from tests.cluster.operator_process import Doubles, Operator, sim_service

CHART = "charts/proa"
TENANTS = ("tenant-a", "tenant-b")


@pytest.fixture
def installed(api: ControlPlane) -> Iterator[None]:
    """The chart in two namespaces."""
    for name in TENANTS:
        api.helm("install", "proa", CHART, f"--namespace={name}", "--create-namespace", "--set=rbac.mode=Namespaced")
    yield
    for name in TENANTS:
        api.helm("uninstall", "proa", f"--namespace={name}", "--ignore-not-found")
        api.kubectl("delete", "namespace", name, "--wait=false")


def _operator(api: ControlPlane, tenant: str) -> Operator:
    account = api.service_account_kubeconfig(tenant, "proa")
    return Operator(api, tenant, pod=f"{tenant}-0", kubeconfig=account, PROA_LEASE_NAME="proa")


def _versions(api: ControlPlane, tenant: str) -> dict[tuple[str, str], tuple[str, str]]:
    found = children(api, tenant)
    return {key: (item["metadata"]["uid"], item["metadata"]["resourceVersion"]) for key, item in found.items()}


def strays(events: list[AuditEvent], tenant: str) -> list[str]:
    """Requests of a tenant's operator outside its namespace, and refused ones."""
    return [
        f"{event.verb} {event.namespace}/{event.resource}/{event.name} {event.code}"
        for event in events
        if event.user == f"system:serviceaccount:{tenant}:proa"
        and (event.code == 403 or event.namespace != tenant)
        and event.resource not in ("", "selfsubjectaccessreviews")
    ]


@pytest.mark.usefixtures("installed")
def test_two_installs_never_touch_each_other(api: ControlPlane, doubles: Doubles) -> None:
    mine, other = TENANTS
    with _operator(api, mine) as first, _operator(api, other) as second:
        for tenant in TENANTS:
            api.apply(sim_service(doubles), f"--namespace={tenant}")
        for tenant in TENANTS:
            await_settled(api, tenant)
        before = _versions(api, other)
        api.apply(sim_service(doubles, kvTransfer={"leaseSeconds": 6}), f"--namespace={mine}")
        await_settled(api, mine)
        api.kubectl("delete", "disaggregatedservice", "tiny", f"--namespace={mine}", "--timeout=50s")
        api.until(lambda: not children(api, mine), what=f"all children in {mine} to be gone")
        first.stop()  # its pods would end with the release, and an operator without its role is refused its Lease
        api.helm("uninstall", "proa", f"--namespace={mine}")
        assert _versions(api, other) == before
        api.kubectl("scale", "workerpool", "tiny-decode", f"--namespace={other}", "--replicas=2")
        await_settled(api, other)
        assert second.leads()
    for tenant in TENANTS:
        assert strays(api.audit(), tenant) == []


def test_a_stray_request_is_found() -> None:
    def event(namespace: str, code: int) -> AuditEvent:
        what = {"group": "", "resource": "pods", "name": "y", "received": "", "user_agent": ""}
        return AuditEvent(
            user="system:serviceaccount:tenant-a:proa", verb="list", namespace=namespace, code=code, **what
        )

    found = strays([event("tenant-a", 200), event("tenant-a", 403), event("tenant-b", 200)], "tenant-a")
    assert found == ["list tenant-a/pods/y 403", "list tenant-b/pods/y 200"]
