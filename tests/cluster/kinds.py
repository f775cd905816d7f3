"""Proa's kinds on a bed: what the tests of this folder start from."""

from __future__ import annotations

from pathlib import Path

from proa_operator.crd.kinds import KINDS

from testbed.cluster import Cluster

TEMPLATES = Path(__file__).parents[2] / "charts" / "proa-crds" / "templates"


def apply_kinds(bed: Cluster) -> None:
    """Apply the files of the chart; return once the API server serves them."""
    bed.kubectl("apply", "--server-side", "--force-conflicts", f"--filename={TEMPLATES}")
    await_kinds(bed)


def await_kinds(bed: Cluster) -> None:
    """Wait for Established. `kubectl wait` fails on a CRD that has no conditions yet, so it is asked again."""
    for kind in KINDS:
        wait = ("wait", "--for=condition=Established", f"crd/{kind.plural}.proa.dev", "--timeout=10s")
        bed.until(lambda wait=wait: bed.kubectl(*wait), what=f"the kind {kind.name}", seconds=30)
