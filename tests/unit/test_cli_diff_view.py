"""What the operator owns of a live object, and how two objects differ."""

from __future__ import annotations

import copy
from typing import Any

import pytest
from proa_operator import names
from proa_operator.cli.diff_view import Change, object_differences, unified, without_revision
from proa_operator.cli.managed import applied_part

OWN = "proa-operator"
PORT = {"name": "http", "port": 8000}
LIVE: dict[str, Any] = {
    "apiVersion": "v1",
    "kind": "Service",
    "metadata": {
        "name": "tiny-gateway",
        "namespace": "team",
        "uid": "u",
        "labels": {"a": "1", "theirs": "x"},
        "annotations": {names.APPLIED_ANNOTATION: "digest"},
        "finalizers": ["one", "two"],
        "managedFields": [
            {
                "manager": OWN,
                "operation": "Apply",
                "fieldsV1": {
                    "f:metadata": {
                        "f:labels": {".": {}, "f:a": {}},
                        "f:annotations": {f"f:{names.APPLIED_ANNOTATION}": {}},
                        "f:finalizers": {'v:"one"': {}},
                    },
                    "f:spec": {"f:ports": {'k:{"port":8000}': {".": {}, "f:name": {}, "f:port": {}}}, "f:selector": {}},
                },
            },
            {"manager": OWN, "operation": "Update", "fieldsV1": {"f:status": {"f:loadBalancer": {}}}},
            {"manager": "kubectl", "operation": "Apply", "fieldsV1": {"f:metadata": {"f:labels": {"f:theirs": {}}}}},
        ],
    },
    "spec": {"clusterIP": "10.0.0.1", "ports": [{**PORT, "protocol": "TCP"}], "selector": {"app": "x"}},
    "status": {"loadBalancer": {}},
}


def _wanted(**spec: Any) -> dict[str, Any]:
    meta = {"name": "tiny-gateway", "namespace": "team", "labels": {"a": "1"}, "finalizers": ["one"]}
    return {
        "apiVersion": "v1",
        "kind": "Service",
        "metadata": meta,
        "spec": {"ports": [PORT], "selector": {"app": "x"}, **spec},
    }


def test_only_what_was_applied_counts() -> None:
    part = applied_part(LIVE, [OWN])
    assert part["metadata"]["labels"] == {"a": "1"}
    assert part["metadata"]["finalizers"] == ["one"]
    assert part["spec"] == {"ports": [PORT], "selector": {"app": "x"}}
    assert "status" not in part


def test_an_item_without_fields_of_its_own_is_its_key() -> None:
    live = copy.deepcopy(LIVE)
    live["metadata"]["managedFields"][0]["fieldsV1"]["f:spec"]["f:ports"] = {'k:{"port":8000}': {".": {}}}
    assert applied_part(live, [OWN])["spec"]["ports"] == [{"port": 8000}]


def test_two_managers_own_one_object_together() -> None:
    assert applied_part(LIVE, [OWN, "kubectl"])["metadata"]["labels"] == {"a": "1", "theirs": "x"}


@pytest.mark.parametrize(
    ("wanted", "changes"),
    [
        (_wanted(), []),
        (_wanted(selector={"app": "y"}), [Change.CHANGED]),
        (_wanted(ports=[]), [Change.CHANGED]),
        ({**_wanted(), "metadata": {"name": "other"}}, [Change.ADDED]),
    ],
    ids=["equal", "a value", "an item gone", "a new object"],
)
def test_differences(wanted: dict[str, Any], changes: list[Change]) -> None:
    found = list(object_differences([wanted], {("Service", "tiny-gateway"): LIVE}))
    assert [difference.change for difference in found] == changes


def test_lines_go_from_the_cluster_to_the_manifest() -> None:
    (found,) = object_differences([_wanted(selector={"app": "y"})], {("Service", "tiny-gateway"): LIVE})
    assert found.lines[:2] == ("--- Service tiny-gateway (cluster)", "+++ Service tiny-gateway (manifest)")
    assert [line for line in found.lines[2:] if line[0] in "+-"] == ["-    app: x", "+    app: y"]


def test_what_the_api_server_fills_in_is_no_difference() -> None:
    field = {"valueFrom": {"fieldRef": {"fieldPath": "metadata.name"}}}
    live = copy.deepcopy(LIVE)
    live["spec"]["env"] = [{"valueFrom": {"fieldRef": {"fieldPath": "metadata.name", "apiVersion": "v1"}}}]
    live["metadata"]["managedFields"][0]["fieldsV1"]["f:spec"]["f:env"] = {}
    assert not list(object_differences([_wanted(env=[field])], {("Service", "tiny-gateway"): live}))


def test_the_same_object_of_two_revisions_is_equal() -> None:
    old, new = ({"name": f"tiny-{revision}-decode-000", "labels": [revision], "n": 1} for revision in ("aaaa", "bbbb"))
    assert not unified(without_revision(old, "aaaa"), without_revision(new, "bbbb"), "x")
    assert unified(without_revision(old, "aaaa"), without_revision({**new, "n": 2}, "bbbb"), "x")
