"""What the renderer makes, on a real API server: taken as it is, stable, within the restricted Pod Security."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest
import yaml
from proa_operator import names
from proa_operator.render import is_revision

from testbed.control_plane import ControlPlane

ROOT = Path(__file__).parents[2]
RENDERED = sorted(
    path for path in (ROOT / "tests" / "testdata" / "render").glob("*.yaml") if ".manifest" not in path.name
)
FOREIGN_KINDS = ("PodMonitor", "HTTPRoute")  # their CRDs are not on the bed


@pytest.fixture(scope="module", autouse=True)
def crds(api: ControlPlane) -> None:
    """The project's own kinds."""
    api.kubectl(
        "apply", "--server-side", "--force-conflicts", f"--filename={ROOT / 'charts' / 'proa-crds' / 'templates'}"
    )
    api.kubectl("wait", "--for=condition=Established", "crd/workerpools.proa.dev", "--timeout=50s")


def _objects(path: Path, namespace: str) -> list[dict[str, Any]]:
    """Without owner: the garbage collector would delete the children of a service that there is not."""
    found = [one for one in yaml.safe_load_all(path.read_text()) if one["kind"] not in FOREIGN_KINDS]
    for one in found:
        one["metadata"]["namespace"] = namespace
        one["metadata"].pop("ownerReferences", None)
    return found


def _is_replicas(one: dict[str, Any]) -> bool:
    return one["kind"] == "WorkerPool" and "replicas" in one["spec"]


def _is_stateful_sets(one: dict[str, Any]) -> bool:
    """The StatefulSet controller's ControllerRevisions carry all labels of its pods."""
    return one["kind"] == "ControllerRevision" and not is_revision(one)


def _apply(api: ControlPlane, objects: list[dict[str, Any]]) -> str:
    """Standard error of both applies, each with its field manager."""
    parts = {
        names.MANAGER: [one for one in objects if not _is_replicas(one)],
        names.REPLICAS_MANAGER: [one for one in objects if _is_replicas(one)],
    }
    done = [api.tried_apply(part, f"--field-manager={manager}") for manager, part in parts.items() if part]
    assert all(one.returncode == 0 for one in done), "".join(one.stderr for one in done)
    return "".join(one.stderr for one in done)


@pytest.mark.parametrize("path", RENDERED, ids=lambda path: path.stem)
def test_every_object_is_taken_and_nothing_is_warned_about(api: ControlPlane, namespace: str, path: Path) -> None:
    api.kubectl("label", "namespace", namespace, "pod-security.kubernetes.io/warn=restricted")
    said = _apply(api, _objects(path, namespace))
    warnings = [line for line in said.splitlines() if "Warning" in line]
    is_rdma = "IPC_LOCK" in path.read_text()
    wanted = 'must not include "IPC_LOCK" in securityContext.capabilities.add)'
    assert all(is_rdma and line.count("(container") == 1 and wanted in line for line in warnings), warnings
    assert bool(warnings) is is_rdma


def test_applying_again_changes_nothing(api: ControlPlane, namespace: str) -> None:
    objects = _objects(RENDERED[-1], namespace)
    kinds = ",".join(sorted({one["kind"].lower() for one in objects}))

    def versions() -> dict[tuple[str, str], str]:
        """Controllers write the status of what has a generation, and nothing else."""
        _apply(api, objects)
        found = api.get(kinds, namespace=namespace, selector=f"{names.MANAGED_BY_LABEL}={names.MANAGER}")["items"]
        metas = [(one["kind"], one["metadata"]) for one in found if not _is_stateful_sets(one)]
        return {(kind, meta["name"]): str(meta.get("generation", meta["resourceVersion"])) for kind, meta in metas}

    first = versions()
    assert len(first) == len(objects) - 2, "the replicas are parts of the two pools"
    assert versions() == first


def test_a_group_has_gated_pods_that_the_gateway_can_select(api: ControlPlane, namespace: str) -> None:
    objects = _objects(ROOT / "tests" / "testdata" / "render" / "deepseek-v3-mi300x.yaml", namespace)
    (wide,) = [one for one in objects if one["kind"] == "StatefulSet" and one["spec"]["replicas"] == 2]
    api.apply(wide, f"--field-manager={names.MANAGER}")
    group = f"{names.GROUP_LABEL}={wide['metadata']['name']}"

    def pods() -> list[dict[str, Any]]:
        found: list[dict[str, Any]] = api.get("pods", namespace=namespace, selector=group)["items"]
        return found if len(found) == 2 else []

    made = api.until(pods, what="two pods of the group")
    assert sorted(one["metadata"]["labels"][names.POD_INDEX_LABEL] for one in made) == ["0", "1"]
    assert all(one["spec"]["schedulingGates"] == [{"name": names.GANG_GATE}] for one in made)
    assert all(len(one["metadata"]["labels"]["controller-revision-hash"]) <= 63 for one in made)


def test_a_scaled_pool_stays_scaled(api: ControlPlane, namespace: str) -> None:
    """With one field manager for both parts the second apply would drop the number."""
    objects = _objects(ROOT / "tests" / "testdata" / "render" / "tiny.yaml", namespace)
    pools = [one for one in objects if one["kind"] == "WorkerPool"]
    _apply(api, pools)
    api.kubectl("scale", "workerpool/tiny-decode", "--replicas=3", f"--namespace={namespace}")
    _apply(api, [one for one in pools if not _is_replicas(one)])
    found = api.get("workerpool", namespace=namespace)["items"]
    assert {one["metadata"]["name"]: one["spec"]["replicas"] for one in found} == {"tiny-decode": 3, "tiny-prefill": 1}
