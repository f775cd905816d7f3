"""Every scenario in ci/ renders, and what must hold in all of them."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest

CHART = Path(__file__).parents[2] / "charts" / "proa"
SCENARIOS = sorted((CHART / "ci").glob("*.yaml"))
FORBIDDEN = {"secrets", "roles", "clusterroles", "clusterrolebindings", "*"}
Rendered = list[dict[str, Any]]
Render = Callable[..., Rendered]


@pytest.fixture(params=SCENARIOS, ids=lambda path: path.stem)
def scenario(request: pytest.FixtureRequest, render: Render) -> Rendered:
    return render(f"--values={request.param}")


def _of(objects: Rendered, kind: str) -> Rendered:
    return [found for found in objects if found["kind"] == kind]


def _rules(objects: Rendered) -> Iterator[dict[str, Any]]:
    for kind in ("Role", "ClusterRole"):
        for role in _of(objects, kind):
            yield from role["rules"]


def _excess(objects: Rendered) -> list[str]:
    """Rights that the operator must never have."""
    named = [word for rule in _rules(objects) for word in (*rule["resources"], *rule["verbs"], *rule["apiGroups"])]
    return sorted(set(named) & (FORBIDDEN | {"bind", "escalate", "impersonate"}))


def _laxities(pod: dict[str, Any]) -> list[str]:
    """What keeps a pod from the restricted level of Pod Security, or from a read-only root."""
    security = pod["securityContext"]
    found = [] if security["runAsNonRoot"] and security["seccompProfile"]["type"] == "RuntimeDefault" else ["pod"]
    for container in pod["containers"]:
        own = container["securityContext"]
        is_tight = own["capabilities"] == {"drop": ["ALL"]} and own["allowPrivilegeEscalation"] is False
        found += [] if is_tight and own["readOnlyRootFilesystem"] else [container["name"]]
    return found


def test_no_two_objects_share_a_name(scenario: Rendered) -> None:
    keys = [(one["kind"], one["metadata"].get("namespace"), one["metadata"]["name"]) for one in scenario]
    assert sorted(set(keys)) == sorted(keys)


def test_rights_are_few(scenario: Rendered) -> None:
    assert _excess(scenario) == []


def test_a_right_too_many_is_found() -> None:
    role = {"kind": "Role", "rules": [{"apiGroups": [""], "resources": ["secrets"], "verbs": ["get", "bind"]}]}
    assert _excess([role]) == ["bind", "secrets"]


def test_pods_are_restricted(scenario: Rendered) -> None:
    pods = [one["spec"]["template"]["spec"] for one in _of(scenario, "Deployment")]
    pods += [one["spec"] for one in _of(scenario, "Pod")]
    assert [_laxities(pod) for pod in pods] == [[], []]


def test_a_lax_pod_is_found() -> None:
    container = {"name": "x", "securityContext": {"capabilities": {}, "allowPrivilegeEscalation": False}}
    assert _laxities({"securityContext": {"runAsNonRoot": False}, "containers": [container]}) == ["pod", "x"]


def test_every_binding_has_its_role(scenario: Rendered) -> None:
    roles = {
        (one["kind"], one["metadata"].get("namespace") if one["kind"] == "Role" else None, one["metadata"]["name"])
        for one in scenario
    }
    for binding in (*_of(scenario, "RoleBinding"), *_of(scenario, "ClusterRoleBinding")):
        ref = binding["roleRef"]
        namespace = binding["metadata"]["namespace"] if ref["kind"] == "Role" else None
        assert (ref["kind"], namespace, ref["name"]) in roles


def test_selectors_find_the_operator_and_nothing_else(scenario: Rendered) -> None:
    (deployment,) = _of(scenario, "Deployment")
    (test,) = _of(scenario, "Pod")
    labels = deployment["spec"]["template"]["metadata"]["labels"].items()
    selectors = [deployment["spec"]["selector"]["matchLabels"]]
    selectors += [one["spec"]["selector"] for one in _of(scenario, "Service")]
    for kind in ("PodDisruptionBudget", "PodMonitor"):
        selectors += [one["spec"]["selector"]["matchLabels"] for one in _of(scenario, kind)]
    selectors += [one["spec"]["podSelector"]["matchLabels"] for one in _of(scenario, "NetworkPolicy")]
    for selector in selectors:
        assert selector.items() <= labels
        assert not selector.items() <= test["metadata"]["labels"].items()
