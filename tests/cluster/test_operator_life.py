"""The operator on a real API server, pods played by kwok and WorkerAdmin by a double."""

from __future__ import annotations

from collections.abc import Iterator

import pytest

from testbed.cluster import Document
from testbed.control_plane import ControlPlane
from testbed.errors import BedError
from tests.cluster.kinds import apply_kinds
from tests.cluster.operator_process import Doubles, Operator, condition, sim_service

SETTLE_SECONDS = 60.0
GONE = "statefulsets,pods,services,deployments,poddisruptionbudgets,controllerrevisions,networkpolicies,workerpools"


@pytest.fixture(scope="module", autouse=True)
def prepared(api: ControlPlane) -> None:
    apply_kinds(api)
    if not api.get("nodes").get("items"):
        api.nodes.add("life-0", "life-1")


@pytest.fixture(scope="module")
def doubles() -> Iterator[Doubles]:
    with Doubles() as found:
        yield found


def service(api: ControlPlane, namespace: str, name: str = "tiny") -> Document:
    return api.get("disaggregatedservices", name, namespace)


def await_available(api: ControlPlane, namespace: str, name: str = "tiny") -> Document:
    def settled() -> bool:
        found = service(api, namespace, name)
        has_followed = found.get("status", {}).get("observedGeneration") == found["metadata"]["generation"]
        return has_followed and condition(found, "Available") == "True" and condition(found, "Progressing") == "False"

    try:
        api.until(settled, what=f"{name} to be Available and settled", seconds=SETTLE_SECONDS)
    except BedError as error:
        kinds = "disaggregatedservices,pods,statefulsets,events"
        raise BedError(f"{error}\n{api.kubectl('get', kinds, f'--namespace={namespace}')}") from None
    return service(api, namespace, name)


def test_a_service_becomes_available_and_leaves_nothing_behind(
    api: ControlPlane, namespace: str, doubles: Doubles
) -> None:
    with Operator(api, namespace) as operator:
        api.apply(sim_service(doubles), f"--namespace={namespace}")
        found = await_available(api, namespace)
        assert found["status"]["columns"] == {"prefill": "1/1", "decode": "1/1", "state": "Serving"}
        for pod in api.get("pods", namespace=namespace, selector="proa.dev/group")["items"]:
            held = {entry["type"]: entry for entry in pod["status"]["conditions"]}
            assert "schedulingGates" not in pod["spec"]
            assert held["proa.dev/routable"]["status"] == held["Ready"]["status"] == "True"
        pool = api.get("workerpools", "tiny-decode", namespace)
        assert (pool["spec"]["replicas"], pool["status"]["replicas"], pool["status"]["readyReplicas"]) == (1, 1, 1)
        api.kubectl("delete", "disaggregatedservice", "tiny", f"--namespace={namespace}", "--timeout=30s")
        left = lambda: api.get(GONE, namespace=namespace, selector="proa.dev/service")["items"]  # noqa: E731
        api.until(lambda: not left(), what="all children to be gone", seconds=SETTLE_SECONDS)
        assert operator.stop() == 0
