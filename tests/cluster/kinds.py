"""Proa's kinds on a bed: what the tests of this folder start from."""

from __future__ import annotations

import json
from pathlib import Path

from proa_operator.crd.kinds import KINDS

from testbed.cluster import Cluster, Document

TEMPLATES = Path(__file__).parents[2] / "charts" / "proa-crds" / "templates"


def apply_kinds(bed: Cluster) -> None:
    """Apply the files of the chart; return once the API server serves them."""
    bed.kubectl("apply", "--server-side", "--force-conflicts", f"--filename={TEMPLATES}")
    await_kinds(bed)


def remove_kinds(bed: Cluster) -> None:
    """Take them away with all their objects: a Helm release refuses kinds that it did not make."""
    bed.kubectl("delete", "--ignore-not-found", f"--filename={TEMPLATES}", "--timeout=60s", seconds=70)


def await_kinds(bed: Cluster) -> None:
    """Wait for Established. `kubectl wait` fails on a CRD that has no conditions yet, so it is asked again."""
    for kind in KINDS:
        wait = ("wait", "--for=condition=Established", f"crd/{kind.plural}.proa.dev", "--timeout=30s")
        bed.until(lambda wait=wait: bed.kubectl(*wait), what=f"the kind {kind.name}", seconds=90)


def foreign_kind(kind: str, group: str) -> Document:
    """A CRD of somebody else's kind, version v1, that takes any object."""
    plural = f"{kind.lower()}s"
    schema = {"openAPIV3Schema": {"type": "object", "x-kubernetes-preserve-unknown-fields": True}}
    return {
        "apiVersion": "apiextensions.k8s.io/v1",
        "kind": "CustomResourceDefinition",
        "metadata": {
            "name": f"{plural}.{group}",
            "annotations": {"api-approved.kubernetes.io": "unapproved, a stand-in for tests"},
        },
        "spec": {
            "group": group,
            "scope": "Namespaced",
            "names": {"kind": kind, "plural": plural, "singular": kind.lower()},
            "versions": [{"name": "v1", "served": True, "storage": True, "schema": schema}],
        },
    }


def is_listed(bed: Cluster, kind: str, group: str) -> bool:
    """Whether the discovery document has it, which comes after Established."""
    found = json.loads(bed.kubectl("get", "--raw", f"/apis/{group}/v1"))["resources"]
    return any(resource["kind"] == kind for resource in found)
