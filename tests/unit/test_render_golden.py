"""Everything that is rendered for a few manifests, byte for byte.

    python tests/unit/test_render_golden.py --rewrite      writes today's objects into the files: read the diff

tests/testdata/render/NAME.manifest.yaml (or examples/NAME.yaml) -> tests/testdata/render/NAME.yaml
"""

from __future__ import annotations

import sys
from pathlib import Path
from typing import Any

import pytest
import yaml
from proa_operator.api.engine import EngineType
from proa_operator.api.load import load
from proa_operator.render import (
    PodSelector,
    RenderSettings,
    Service,
    controller_revision,
    download_objects,
    gateway_objects,
    group_objects,
    revision_objects,
    revision_of,
    service_objects,
    worker_pool_replicas,
)

ROOT = Path(__file__).parents[2]
FOLDER = ROOT / "tests" / "testdata" / "render"
CASES = ("tiny", "deepseek-v3-mi300x", "everything", "aggregated")
SETTINGS = RenderSettings(
    operator_image="localhost/proa-operator:test",
    engine_images={engine: f"localhost/proa-{engine.value}:test" for engine in EngineType},
    operator_namespace="proa-system",
    operator_labels={"app.kubernetes.io/name": "proa-operator"},
    prometheus=PodSelector(
        namespace_labels={"kubernetes.io/metadata.name": "monitoring"},
        pod_labels={"app.kubernetes.io/name": "prometheus"},
    ),
    has_pod_monitors=True,
    has_http_routes=True,
    rdma_resource="amd.com/nic",
)


def rendered(case: str) -> str:
    """All objects of a manifest as YAML, one group of each role."""
    own = FOLDER / f"{case}.manifest.yaml"
    manifest = load(own if own.exists() else ROOT / "examples" / f"{case}.yaml")
    service = Service(
        name=manifest.metadata.name, namespace="default", uid="00000000-0000-4000-8000-000000000000", spec=manifest.spec
    )
    objects = _objects(service)
    return yaml.safe_dump_all(objects, sort_keys=False, width=120)


def _objects(service: Service) -> list[dict[str, Any]]:
    revision = revision_of(service.spec)
    started_at = "2026-01-01T00:00:00.000Z"
    groups = [
        one
        for role in service.roles
        for one in group_objects(service, revision=revision, role=role, index=0, settings=SETTINGS)
    ]
    return [
        controller_revision(service, revision=revision, number=1, started_at=started_at, settings=SETTINGS),
        *service_objects(service, settings=SETTINGS),
        *(worker_pool_replicas(service, role) for role in service.roles),
        *revision_objects(service, revision=revision),
        *download_objects(service, settings=SETTINGS),
        *groups,
        *gateway_objects(service, settings=SETTINGS),
    ]


@pytest.mark.parametrize("case", CASES)
def test_rendered_as_before(case: str) -> None:
    kept = (FOLDER / f"{case}.yaml").read_text(encoding="utf-8")
    assert rendered(case) == kept, (
        "read the difference; if it is meant: python tests/unit/test_render_golden.py --rewrite"
    )


def test_every_kept_file_is_a_case() -> None:
    kept = {path.name.removesuffix(".yaml") for path in FOLDER.glob("*.yaml") if ".manifest" not in path.name}
    assert kept == set(CASES)


if __name__ == "__main__" and sys.argv[1:] == ["--rewrite"]:
    for name in CASES:
        (FOLDER / f"{name}.yaml").write_text(rendered(name), encoding="utf-8")
