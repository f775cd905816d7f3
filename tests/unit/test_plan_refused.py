"""What the conditions of a new service say when its spec is refused: why, and nothing about a download."""

from __future__ import annotations

from dataclasses import replace

import pytest

from tests.unit.plan_fakes import FakeRenderer, service
from tests.unit.plan_world import World

WHY = "spec.engine.image: give one"


def conditions(model: str, *, refused: tuple[str, ...]) -> dict[str, tuple[str, str, str]]:
    world = World(service(model=model), renderer=FakeRenderer(refused=refused))
    world.run(60)
    return {found["type"]: (found["status"], found["reason"], found["message"]) for found in world.status["conditions"]}


def test_a_refused_service_does_not_claim_a_download() -> None:
    found = conditions("hf://org/model", refused=(WHY,))
    assert found["ModelReady"] == ("False", "SpecRefused", f"nothing is started: {WHY}")
    assert conditions("hf://org/model", refused=())["ModelReady"][1] == "Downloading"


@pytest.mark.parametrize("model", ["hf://org/model", "bundled://tiny"])
def test_a_refused_service_says_why_nothing_serves(model: str) -> None:
    found = conditions(model, refused=(WHY,))
    assert found["Available"] == ("False", "NoPairs", f"no group serves yet: nothing is started: {WHY}")
    assert found["Progressing"] == ("False", "SpecRefused", WHY)


def test_a_service_that_is_refused_while_it_starts_tells_how_far_it_is() -> None:
    world = World(service(model="bundled://tiny"), renderer=FakeRenderer())
    assert world.run(60, until=lambda: any(not pod.is_gated and not pod.is_loaded for pod in world.pods.values()))
    world.renderer = replace(world.renderer, refused=(WHY,))
    world.run(3)
    found = {found["type"]: found for found in world.status["conditions"]}
    assert "starts (Load" in found["Available"]["message"]
    assert found["Progressing"]["message"] == WHY
