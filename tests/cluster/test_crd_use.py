"""The kinds in daily use: get, explain, scale, an HPA, status."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest
import yaml

from testbed.control_plane import ControlPlane
from tests.cluster.kinds import apply_kinds

ROOT = Path(__file__).parents[2]
POOL: dict[str, Any] = {
    "apiVersion": "proa.dev/v1alpha1",
    "kind": "WorkerPool",
    "metadata": {"name": "tiny-decode"},
    "spec": {"service": "tiny", "role": "decode", "replicas": 1},
}
PROFILE = (ROOT / "docs" / "crds.md").read_text().rpartition("```yaml\n")[2].partition("```")[0]
STATUS = {
    "columns": {"prefill": "1/2", "decode": "1/1", "state": "Load 40%"},
    "revision": "0123abcd",
    "laterField": {"kept": True},
    "conditions": [
        {
            "type": "Available",
            "status": "True",
            "reason": "Serving",
            "message": "all wanted groups serve",
            "lastTransitionTime": "2026-01-31T00:00:00Z",
        }
    ],
}


@pytest.fixture(scope="module", autouse=True)
def crds(api: ControlPlane) -> None:
    apply_kinds(api)


@pytest.fixture
def pool(api: ControlPlane, namespace: str) -> str:
    """Namespace that holds the pool tiny-decode."""
    api.apply(_in(namespace, POOL))
    return namespace


def _in(namespace: str, document: dict[str, Any]) -> dict[str, Any]:
    return {**document, "metadata": {**document["metadata"], "namespace": namespace}}


def _patch(api: ControlPlane, namespace: str, what: str, change: dict[str, Any], *flags: str) -> str:
    done = api.tried(
        "kubectl", "patch", what, f"--namespace={namespace}", "--type=merge", "-p", json.dumps(change), *flags
    )
    return done.stderr


def test_get_shows_pools_and_state(api: ControlPlane, namespace: str) -> None:
    api.kubectl("apply", f"--namespace={namespace}", f"--filename={ROOT / 'examples' / 'tiny.yaml'}")
    assert _patch(api, namespace, "dsvc/tiny", {"status": STATUS}, "--subresource=status") == ""
    head, row = api.kubectl("get", "dsvc", f"--namespace={namespace}").splitlines()
    assert head.split() == ["NAME", "MODEL", "AVAILABLE", "STATE", "PREFILL", "DECODE", "REVISION", "AGE"]
    assert row.split()[:-1] == ["tiny", "tiny-moe", "True", "Load", "40%", "1/2", "1/1", "0123abcd"]
    assert api.get("dsvc", "tiny", namespace)["status"] == STATUS
    assert "dsvc" not in api.kubectl("get", "all", f"--namespace={namespace}")
    assert "disaggregatedservice.proa.dev/tiny" in api.kubectl("get", "all", f"--namespace={namespace}")


def test_a_status_of_the_wrong_type_is_refused(api: ControlPlane, namespace: str) -> None:
    api.kubectl("apply", f"--namespace={namespace}", f"--filename={ROOT / 'examples' / 'tiny.yaml'}")
    said = _patch(api, namespace, "dsvc/tiny", {"status": {"observedGeneration": "1"}}, "--subresource=status")
    assert "status.observedGeneration: Invalid value" in said


@pytest.mark.parametrize(
    ("field", "words"),
    [
        ("dsvc", "A mixture-of-experts model served with prefill and decode in separate pools."),
        ("dsvc.spec.kvTransfer.leaseSeconds", "Time without progress after which a hand-off is given up"),
        ("dsvc.spec.pools.decode.parallelism.ep", "Expert-parallel size: 1, or tp*dp."),
        ("dsvc.status.conditions.message", "Reason for people, with the fix where there is one."),
        ("wpool.spec.replicas", "Number of groups."),
        ("pprof.spec.provenance.origin", "measured on this hardware, or simulated."),
    ],
)
def test_explain_reads_well(api: ControlPlane, field: str, words: str) -> None:
    assert words in " ".join(api.kubectl("explain", field).split())


def test_scale(api: ControlPlane, pool: str) -> None:
    api.kubectl("scale", "wpool/tiny-decode", "--replicas=3", f"--namespace={pool}")
    assert api.get("wpool", "tiny-decode", pool)["spec"]["replicas"] == 3
    owned = {**POOL, "spec": {"service": "tiny", "role": "decode"}}
    api.apply(_in(pool, owned), "--field-manager=proa-operator")
    assert api.get("wpool", "tiny-decode", pool)["spec"]["replicas"] == 3
    done = api.tried("kubectl", "scale", "wpool/tiny-decode", "--replicas=501", f"--namespace={pool}")
    assert "spec.replicas in body should be less than or equal to 500" in done.stderr


def test_scale_reports_groups_and_selector(api: ControlPlane, pool: str) -> None:
    status = {"replicas": 2, "readyReplicas": 1, "selector": "proa.dev/role=decode"}
    assert _patch(api, pool, "wpool/tiny-decode", {"status": status}, "--subresource=status") == ""
    found = api.kubectl("get", "--raw", f"/apis/proa.dev/v1alpha1/namespaces/{pool}/workerpools/tiny-decode/scale")
    assert json.loads(found)["status"] == {"replicas": 2, "selector": "proa.dev/role=decode"}


def test_an_autoscaler_raises_a_pool_to_its_minimum(api: ControlPlane, pool: str) -> None:
    metric = {
        "type": "Resource",
        "resource": {"name": "cpu", "target": {"type": "Utilization", "averageUtilization": 1}},
    }
    target = {"apiVersion": POOL["apiVersion"], "kind": POOL["kind"], "name": "tiny-decode"}
    spec = {"scaleTargetRef": target, "minReplicas": 4, "maxReplicas": 8, "metrics": [metric]}
    scaler = {
        "apiVersion": "autoscaling/v2",
        "kind": "HorizontalPodAutoscaler",
        "metadata": {"name": "x"},
        "spec": spec,
    }
    api.apply(_in(pool, scaler))
    replicas = ("get", "wpool/tiny-decode", f"--namespace={pool}", "--output=jsonpath={.spec.replicas}")
    api.until(lambda: api.kubectl(*replicas) == "4", what="4 replicas from the autoscaler", seconds=60)


@pytest.mark.parametrize(
    ("change", "words"),
    [
        ({"role": "prefill"}, "spec.role: Invalid value: a pool keeps its role"),
        ({"service": "other"}, "spec.service: Invalid value: a pool stays with its service"),
        ({"role": "both"}, 'supported values: "prefill", "decode"'),
    ],
)
def test_a_pool_stays_what_it_is(api: ControlPlane, pool: str, change: dict[str, Any], words: str) -> None:
    assert words in _patch(api, pool, "wpool/tiny-decode", {"spec": change})


@pytest.mark.parametrize(
    ("part", "change", "words"),
    [
        ("step", {"expertShare": "1"}, ""),
        ("step", {"expertShare": "1.1"}, "spec.step.expertShare: Invalid value: a token cannot go to more experts"),
        ("step", {"expertShare": "x"}, "spec.step.expertShare in body should match"),
        ("prefill", {"tokenSeconds": 1}, "spec.prefill.tokenSeconds in body must be of type string"),
        ("provenance", {"date": "today"}, "spec.provenance.date in body should match"),
        ("provenance", {"origin": "guessed"}, 'supported values: "measured", "simulated"'),
    ],
)
def test_a_profile(api: ControlPlane, namespace: str, part: str, change: dict[str, Any], words: str) -> None:
    document = yaml.safe_load(PROFILE)
    api.apply(_in(namespace, document))
    said = _patch(api, namespace, "pprof/tiny-native-cpu", {"spec": {part: change}})
    assert words in said if words else said == ""
