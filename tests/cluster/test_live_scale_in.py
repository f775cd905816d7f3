"""A hundred groups leave under load, and a node is drained: no request is lost and no lease is cut before its time."""

from __future__ import annotations

import time
from collections.abc import Iterator

import pytest

from testbed.cluster import Document
from testbed.control_plane import ControlPlane
from testbed.settings import BedSettings
from testbed.wait import until
from tests.cluster.kinds import apply_kinds
from tests.cluster.live_api import RawApi, Watches
from tests.cluster.live_fleet import Fleet, addressed_nodes
from tests.cluster.live_services import LABEL, await_settled, played_service
from tests.cluster.live_traffic import Traffic
from tests.cluster.operator_process import Operator

NAMESPACE = "scale-in"
MANY, FEW = 60, 10
NUM_NODES = 4
TIMEOUT_SECONDS = 40
NUM_STUCK = 15  # more than stay: those with leases are the last to leave
INSTALL_SECONDS, SCALE_SECONDS, NODE_SECONDS, WAIT_SECONDS = 900.0, 900.0, 600.0, 300.0
pytestmark = [pytest.mark.soak, pytest.mark.timeout(2400)]


@pytest.fixture(scope="module")
def api() -> Iterator[ControlPlane]:
    with ControlPlane(BedSettings(lease_seconds=200, node_grace_seconds=600)) as bed:
        apply_kinds(bed)
        raw = RawApi(bed)
        names = (f"node-{index}" for index in range(NUM_NODES))
        for node in addressed_nodes(*names, labels={LABEL: "tiny"}):
            raw.call("POST", raw.path("Node"), node)
        bed.kubectl("create", "namespace", NAMESPACE)
        yield bed


@pytest.fixture(scope="module")
def raw(api: ControlPlane) -> RawApi:
    return RawApi(api)


@pytest.fixture(scope="module")
def traffic(api: ControlPlane, raw: RawApi) -> Iterator[Traffic]:
    """A service of 120 groups that serves."""
    with Fleet() as fleet:
        found = Traffic(fleet, timeout_seconds=TIMEOUT_SECONDS)
        with Watches(raw, NAMESPACE, ("Pod",), found.see), Operator(api, NAMESPACE):
            raw.apply("DisaggregatedService", NAMESPACE, service(MANY))
            await_settled(raw, NAMESPACE, "tiny", seconds=INSTALL_SECONDS)
            found.start()
            yield found
            found.stop()


def service(replicas: int) -> Document:
    return played_service(
        "tiny",
        prefill=replicas,
        decode=replicas,
        rollout={"maxSurgeGroups": 5},
        kvTransfer={"leaseSeconds": 20},
        drain={"timeoutSeconds": TIMEOUT_SECONDS},
    )


def groups(raw: RawApi) -> set[str]:
    found = raw.call("GET", raw.path("StatefulSet", namespace=NAMESPACE))["items"]
    return {one["metadata"]["name"] for one in found}


def residents(raw: RawApi, node: str) -> set[str]:
    found = raw.call("GET", raw.path("Pod", namespace=NAMESPACE))["items"]
    return {one["metadata"]["name"] for one in found if one["spec"].get("nodeName") == node}


def test_a_hundred_groups_leave_under_load(raw: RawApi, traffic: Traffic) -> None:
    ledger, before = traffic.ledger, traffic.ledger.served
    until(lambda: ledger.served > before + 200, what="requests to flow", seconds=WAIT_SECONDS)
    prefill = sorted(name for name in groups(raw) if "-prefill-" in name)
    traffic.stuck |= {f"{name}-0" for name in prefill[:: MANY // NUM_STUCK]}
    until(lambda: ledger.served > before + 600, what="leases that nobody ends", seconds=WAIT_SECONDS)
    traffic.drains_since = time.time()
    raw.apply("DisaggregatedService", NAMESPACE, service(FEW))
    until(lambda: len(groups(raw)) == 2 * FEW, what="a hundred groups to leave", seconds=SCALE_SECONDS, every=0.5)
    await_settled(raw, NAMESPACE, "tiny", seconds=WAIT_SECONDS)
    print(f"{ledger.served - before} requests served; at the drain's timeout: {ledger.timed_out}")
    assert (ledger.lost, ledger.cut) == ([], [])
    assert ledger.served > before + 1000
    assert 0 < len(ledger.timed_out) <= NUM_STUCK


def test_kubectl_drain_finishes_and_loses_nothing(api: ControlPlane, raw: RawApi, traffic: Traffic) -> None:
    traffic.stuck.clear()
    ledger, before, node = traffic.ledger, traffic.ledger.served, "node-1"
    assert any("-decode-" in name or "-prefill-" in name for name in residents(raw, node))
    traffic.drains_since = time.time()
    words = ("drain", node, "--ignore-daemonsets", "--delete-emptydir-data", f"--timeout={NODE_SECONDS:g}s")
    api.kubectl(*words, seconds=NODE_SECONDS + 10)
    assert residents(raw, node) == set()
    await_settled(raw, NAMESPACE, "tiny", seconds=WAIT_SECONDS)
    assert len(groups(raw)) == 2 * FEW
    assert ledger.served > before + 100
    assert (ledger.lost, ledger.cut) == ([], [])
