"""A gateway whose pods do not start says why, and how to mend it, in the conditions of the service."""

from __future__ import annotations

from dataclasses import replace
from typing import Any

import pytest
from proa_operator import names
from proa_operator.plan.plan import plan
from proa_operator.plan.state import GatewayState, Observed

from tests.unit.cluster_objects import meta, owned
from tests.unit.test_cluster_observe import observed
from tests.unit.test_plan_children import installed

NO_IMAGE = {"waiting": {"reason": "ErrImagePull", "message": "proa-operator:9: not found"}}
STARTS = {"waiting": {"reason": "ContainerCreating"}}


def gateway_pod(name: str, state: dict[str, Any], **about: Any) -> dict[str, Any]:
    return {
        "kind": "Pod",
        "metadata": meta(name, labels={names.COMPONENT_LABEL: names.Component.GATEWAY.value}, **about),
        "spec": {"containers": []},
        "status": {"containerStatuses": [{"name": "gateway", "state": state}]},
    }


def seen_with(*pods: dict[str, Any]) -> Observed:
    deployment = {
        "kind": "Deployment",
        "metadata": meta("tiny-gateway", ownerReferences=owned()),
        "spec": {"replicas": 1, "template": {"spec": {"containers": [{}]}}},
    }
    return observed(deployment, *pods)


@pytest.mark.parametrize(
    ("pods", "waits"),
    [
        ([], ("", "", "")),
        ([gateway_pod("b", STARTS)], ("", "", "")),
        ([gateway_pod("b", {"running": {}})], ("", "", "")),
        ([gateway_pod("b", NO_IMAGE, deletionTimestamp="2026-01-31T00:01:00Z")], ("", "", "")),
        ([gateway_pod("b", NO_IMAGE)], ("b", "ErrImagePull", "proa-operator:9: not found")),
        (
            [gateway_pod("c", NO_IMAGE), gateway_pod("b", NO_IMAGE), gateway_pod("a", STARTS)],
            ("b", *NO_IMAGE["waiting"].values()),
        ),
    ],
)
def test_the_first_pod_that_waits_is_seen(pods: list[dict[str, Any]], waits: tuple[str, str, str]) -> None:
    found = seen_with(*pods).gateway
    assert found is not None
    assert (found.waiting_pod, found.waiting_reason, found.waiting_message) == waits


@pytest.mark.parametrize("num_ready", [0, 1])
@pytest.mark.parametrize(
    ("reason", "message", "shown", "text"),
    [
        (
            "ImagePullBackOff",
            "proa-operator:9: not found",
            "ImagePullError",
            "pod g cannot pull its image: check the chart's values image and image.pullSecrets "
            "(proa-operator:9: not found)",
        ),
        ("CreateContainerConfigError", 'secret "key" not found', None, 'pod g: secret "key" not found'),
        ("CrashLoopBackOff", "", None, "pod g: see its logs"),
    ],
)
def test_the_conditions_tell_it(num_ready: int, reason: str, message: str, shown: str | None, text: str) -> None:
    """Also while an older pod of the gateway serves."""
    world = installed()
    seen = world.observe()
    assert seen.gateway is not None
    gateway = replace(
        seen.gateway, num_ready=num_ready, waiting_pod="g", waiting_reason=reason, waiting_message=message
    )
    told = conditions(world, replace(seen, gateway=gateway))
    assert (told["Degraded"]["reason"], told["Degraded"]["message"]) == (shown or reason, text)
    available = told["Available"]
    assert available["status"] == ("True" if num_ready else "False")
    if not num_ready:
        assert (available["reason"], available["message"]) == ("NoGateway", f"no pod of the gateway is ready: {text}")


def test_a_gateway_that_only_starts_is_no_problem() -> None:
    world = installed()
    told = conditions(world, replace(world.observe(), gateway=GatewayState(topology=world.service.spec.topology)))
    assert told["Degraded"]["status"] == "False"
    assert told["Available"]["message"] == "no pod of the gateway is ready: see its events and logs"


def conditions(world: Any, seen: Observed) -> dict[str, Any]:
    found = plan(seen, world.settings, world.renderer).status["conditions"]
    return {one["type"]: one for one in found}
