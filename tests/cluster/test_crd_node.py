"""The operator's chart on a real node: both pods run within the restricted level, one leads, `helm test` says so."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path

import pytest

from testbed.node.node import NodeCluster
from tests.cluster.kinds import apply_kinds

CHART = str(Path(__file__).parents[2] / "charts" / "proa")
IMAGES = (
    "image.repository=localhost/proa-operator",
    "image.tag=test",
    "engineImages.sim=localhost/proa-sim:test",
    "engineImages.native=localhost/proa-native:test",
)


@pytest.fixture
def installed(node_cluster: NodeCluster, namespace: str) -> Iterator[str]:
    """A restricted namespace with an operator of its own."""
    apply_kinds(node_cluster)
    node_cluster.kubectl("label", "namespace", namespace, "pod-security.kubernetes.io/enforce=restricted")
    values = ",".join((*IMAGES, "rbac.mode=Namespaced"))
    node_cluster.helm(
        "install", "proa", CHART, f"--namespace={namespace}", f"--set={values}", "--wait", "--timeout=180s"
    )
    yield namespace
    node_cluster.helm("uninstall", "proa", f"--namespace={namespace}", "--wait", "--ignore-not-found")


def _leader(bed: NodeCluster, namespace: str) -> str:
    holder: str = bed.get("lease", "proa", namespace)["spec"].get("holderIdentity", "")
    return holder


def test_the_operator_runs_and_is_replaced(node_cluster: NodeCluster, installed: str) -> None:
    said = node_cluster.helm("test", "proa", f"--namespace={installed}", "--logs", "--timeout=120s")
    assert "the kinds are installed and an operator leads" in said
    first = _leader(node_cluster, installed)
    node_cluster.kubectl("delete", "pod", first, f"--namespace={installed}", "--wait=false")
    node_cluster.until(lambda: _leader(node_cluster, installed) not in ("", first), what="another leader", seconds=60)
    node_cluster.kubectl(
        "rollout", "status", "deployment/proa", f"--namespace={installed}", "--timeout=120s", seconds=130
    )
    node_cluster.helm("uninstall", "proa", f"--namespace={installed}", "--wait")
    everything = ("get", "all,role,rolebinding,netpol,pdb,sa", f"--namespace={installed}", "--output=name")
    node_cluster.until(
        lambda: node_cluster.kubectl(*everything).split() == ["serviceaccount/default"],
        what="an empty namespace",
        seconds=90,
    )
