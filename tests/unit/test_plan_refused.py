"""What the conditions of a new service say when its spec is refused: why, and nothing about a download."""

from __future__ import annotations

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
