"""What `helm install` says at its end to somebody who has not prepared everything."""

from __future__ import annotations

import pytest

from tests.chart.conftest import CHARTS, Helm

NO_REGISTRY = "proa-operator:0.1.0 names no registry"
NO_KINDS = "helm install proa-crds charts/proa-crds"


@pytest.mark.parametrize(
    ("options", "said", "unsaid"),
    [
        ((), (NO_REGISTRY, NO_KINDS, "Nobody may scrape metrics"), ()),
        (("--set=image.repository=registry.example/proa-operator",), (NO_KINDS,), (NO_REGISTRY,)),
        (("--set=rbac.mode=Namespaced",), ("It sees no nodes", "--namespace ours --filename examples/tiny.yaml"), ()),
    ],
)
def test_notes_name_what_is_missing(
    helm: Helm, options: tuple[str, ...], said: tuple[str, ...], unsaid: tuple[str, ...]
) -> None:
    words = ("install", "proa", str(CHARTS / "proa"), "--namespace=ours", "--dry-run=client", *options)
    done = helm(*words)
    assert done.returncode == 0, done.stderr
    notes = done.stdout.partition("\nNOTES:\n")[2]
    assert [line for line in said if line not in notes] == []
    assert [line for line in unsaid if line in notes] == []
