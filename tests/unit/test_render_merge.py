"""The strategic merge of podTemplate, as a table of what merges and what is refused."""

from __future__ import annotations

import copy
from typing import Any

import pytest
from proa_operator.render.errors import RenderError
from proa_operator.render.merge import merge_template

BASE: dict[str, Any] = {
    "metadata": {"labels": {"proa.dev/service": "tiny"}},
    "spec": {
        "terminationGracePeriodSeconds": 90,
        "tolerations": [{"key": "gpu", "operator": "Exists"}],
        "containers": [
            {
                "name": "worker",
                "image": "engine:1",
                "command": ["proa-worker"],
                "args": ["--role", "decode"],
                "env": [{"name": "HOME", "value": "/tmp"}],
                "ports": [{"name": "engine", "containerPort": 50051}],
                "resources": {"requests": {"cpu": "1", "memory": "1Gi"}},
                "volumeMounts": [{"name": "tmp", "mountPath": "/tmp"}],
            }
        ],
        "volumes": [{"name": "tmp", "emptyDir": {}}],
    },
}


def _worker(**fields: Any) -> dict[str, Any]:
    return {"spec": {"containers": [{"name": "worker", **fields}]}}


def _merged(patch: dict[str, Any]) -> dict[str, Any]:
    return merge_template(BASE, patch, where="podTemplate")


def _at(template: dict[str, Any], path: str) -> Any:
    found: Any = template
    for key in path.split("/"):
        found = found[int(key)] if key.isdigit() else found[key]
    return found


@pytest.mark.parametrize(
    ("patch", "path", "value"),
    [
        pytest.param({}, "spec", BASE["spec"], id="nothing"),
        pytest.param({"spec": {"priorityClassName": "high"}}, "spec/priorityClassName", "high", id="a new field"),
        pytest.param(
            {"spec": {"terminationGracePeriodSeconds": 5}}, "spec/terminationGracePeriodSeconds", 5, id="another value"
        ),
        pytest.param(
            {"metadata": {"labels": {"team": "x"}}},
            "metadata/labels",
            {"proa.dev/service": "tiny", "team": "x"},
            id="a label",
        ),
        pytest.param(
            {"metadata": {"annotations": {"a": "b"}}}, "metadata/annotations", {"a": "b"}, id="a first annotation"
        ),
        pytest.param(_worker(image="mine:2"), "spec/containers/0/image", "mine:2", id="a field of the worker"),
        pytest.param(_worker(image="mine:2"), "spec/containers/0/args", ["--role", "decode"], id="the rest stays"),
        pytest.param(_worker(command=["py"]), "spec/containers/0/command", ["py"], id="a plain list is replaced"),
        pytest.param(
            _worker(resources={"requests": {"cpu": "8"}}),
            "spec/containers/0/resources/requests",
            {"cpu": "8", "memory": "1Gi"},
            id="an object in an object",
        ),
        pytest.param(
            _worker(resources={"requests": {"cpu": None}}),
            "spec/containers/0/resources/requests",
            {"memory": "1Gi"},
            id="null removes",
        ),
        pytest.param(
            _worker(env=[{"name": "A", "value": "1"}]),
            "spec/containers/0/env",
            [{"name": "HOME", "value": "/tmp"}, {"name": "A", "value": "1"}],
            id="a new variable comes last",
        ),
        pytest.param(
            _worker(env=[{"name": "HOME", "valueFrom": {"fieldRef": {"fieldPath": "metadata.name"}}}]),
            "spec/containers/0/env",
            [{"name": "HOME", "valueFrom": {"fieldRef": {"fieldPath": "metadata.name"}}}],
            id="a variable has one source",
        ),
        pytest.param(
            _worker(ports=[{"name": "engine", "hostPort": 1}]),
            "spec/containers/0/ports",
            [{"name": "engine", "containerPort": 50051, "hostPort": 1}],
            id="a port by its name",
        ),
        pytest.param(
            _worker(volumeMounts=[{"name": "big", "mountPath": "/tmp"}]),
            "spec/containers/0/volumeMounts",
            [{"name": "big", "mountPath": "/tmp"}],
            id="a mount by its path",
        ),
        pytest.param(
            {"spec": {"volumes": [{"name": "tmp", "hostPath": {"path": "/x"}}]}},
            "spec/volumes",
            [{"name": "tmp", "hostPath": {"path": "/x"}}],
            id="a volume has one source",
        ),
        pytest.param(
            {"spec": {"volumes": [{"name": "tmp", "emptyDir": {"sizeLimit": "1Gi"}}]}},
            "spec/volumes",
            [{"name": "tmp", "emptyDir": {"sizeLimit": "1Gi"}}],
            id="the same source merges",
        ),
        pytest.param(
            {"spec": {"volumes": [{"name": "tmp", "$patch": "delete"}]}}, "spec/volumes", [], id="an element removed"
        ),
        pytest.param(
            {"spec": {"tolerations": [{"key": "mine"}, {"key": "gpu", "operator": "Exists"}]}},
            "spec/tolerations",
            [{"key": "gpu", "operator": "Exists"}, {"key": "mine"}],
            id="tolerations are added",
        ),
        pytest.param(
            {"spec": {"initContainers": [{"name": "wait", "image": "i"}]}},
            "spec/initContainers",
            [{"name": "wait", "image": "i"}],
            id="a first init container",
        ),
        pytest.param(
            {"spec": {"containers": [{"name": "sidecar", "image": "s", "env": [{"name": "B", "value": "2"}]}]}},
            "spec/containers/1",
            {"name": "sidecar", "image": "s", "env": [{"name": "B", "value": "2"}]},
            id="a sidecar",
        ),
    ],
)
def test_merge(patch: dict[str, Any], path: str, value: Any) -> None:
    assert _at(_merged(patch), path) == value


@pytest.mark.parametrize(
    ("patch", "said"),
    [
        pytest.param({"containers": []}, r"podTemplate\.containers: .* into spec", id="no spec around it"),
        pytest.param({"spec": {"schedulingGates": []}}, "belongs to the operator", id="gates"),
        pytest.param({"spec": {"readinessGates": []}}, "belongs to the operator", id="readiness gates"),
        pytest.param({"spec": {"restartPolicy": "Never"}}, "belongs to the operator", id="restart policy"),
        pytest.param({"metadata": {"name": "x"}}, "only labels and annotations", id="a name"),
        pytest.param({"metadata": {"labels": {"proa.dev/revision": "x"}}}, "use another key", id="our label"),
        pytest.param({"metadata": {"annotations": {"proa.dev/x": "x"}}}, "use another key", id="our annotation"),
        pytest.param(
            {"metadata": {"labels": {"app.kubernetes.io/component": "x"}}}, "use another key", id="selected label"
        ),
        pytest.param({"metadata": {"labels": None}}, "labels: must be an object", id="no labels at all"),
        pytest.param({"spec": None}, r"spec: must be an object", id="no spec at all"),
        pytest.param({"spec": {"containers": {}}}, r"containers: must be a list", id="object for a list"),
        pytest.param({"spec": {"containers": ["worker"]}}, r"containers\[0\]: must be an object", id="text in a list"),
        pytest.param(_worker(resources=[]), r"resources: must be an object", id="list for an object"),
        pytest.param(_worker(args="--x"), r"args: must be a list", id="text for a list"),
        pytest.param({"spec": {"containers": [{"image": "x"}]}}, r"containers\[0\]: has no name", id="no merge key"),
        pytest.param(_worker(**{"$patch": "replace"}), "only delete is known", id="replace"),
        pytest.param({"spec": {"$retainKeys": []}}, "is a directive", id="another directive"),
        pytest.param(_worker(**{"$patch": "delete"}), "removes the container worker", id="the worker deleted"),
        pytest.param({"spec": {"containers": None}}, "removes the container worker", id="all containers removed"),
    ],
)
def test_refusals(patch: dict[str, Any], said: str) -> None:
    with pytest.raises(RenderError, match=said) as refusal:
        _merged(patch)
    assert "\n" not in str(refusal.value)


def test_neither_side_is_changed() -> None:
    base, patch = copy.deepcopy(BASE), _worker(env=[{"name": "HOME", "$patch": "delete"}])
    before = copy.deepcopy(patch)
    merge_template(BASE, patch, where="podTemplate")
    assert (base, before) == (BASE, patch)
