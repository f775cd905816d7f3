"""What the operator writes into a status fits the CRDs: else the API server would refuse or drop it."""

from __future__ import annotations

import json
from typing import Any

import pytest
from proa_operator.api.status import ServiceStatus, WorkerPoolStatus
from proa_operator.cluster.cache import Stored
from proa_operator.cluster.facts import PoolFacts
from proa_operator.cluster.status import pool_status
from pydantic import ValidationError

from tests.unit.plan_fakes import service
from tests.unit.plan_world import World, is_settled


def statuses(*models: str) -> list[dict[str, Any]]:
    """Every status of a service that rolls from model to model."""
    seen: list[dict[str, Any]] = []
    world = World(service(model=models[0]), watchers=[lambda world, action: seen.append(dict(world.status))])
    for model in models:
        world.change(service(model=model))
        assert world.run(5000, until=lambda: is_settled(world))
    return [status for status in seen if status]


def test_every_status_of_a_rollout_fits() -> None:
    told: set[str] = set()
    for status in statuses("bundled://one", "bundled://two"):
        ServiceStatus.model_validate_json(json.dumps(status))
        told |= status.keys()
    by_autoscaler = {"autoscaler"}
    assert told == {field.alias for field in ServiceStatus.model_fields.values()} - by_autoscaler


def test_a_field_that_the_schema_lacks_is_found() -> None:
    status = statuses("bundled://one")[-1]
    with pytest.raises(ValidationError, match="pools"):
        ServiceStatus.model_validate_json(json.dumps({**status, "pools": {"encode": {}}}))


def test_the_status_of_a_pool_fits() -> None:
    counts = {"desired": 2, "replicas": 2, "ready": 1, "routable": 1, "draining": 0}
    rest = dict.fromkeys(("owner", "service", "applied", "touched"), "")
    owner = Stored(kind="DisaggregatedService", namespace="x", name="tiny", uid="1", version=1, facts=None, **rest)
    pool = PoolFacts(role="decode", replicas=2, declared=2, generation=1, status={})
    WorkerPoolStatus.model_validate_json(json.dumps(pool_status(owner, pool, counts)))
