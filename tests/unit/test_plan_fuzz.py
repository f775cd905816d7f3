"""300 random rollouts with crashes and changes of mind; the invariants are checked at every event."""

from __future__ import annotations

import pytest

from tests.unit.plan_fuzz import rollout

NUM_ROLLOUTS = 300
NUM_PARTS = 20


@pytest.mark.parametrize("part", range(NUM_PARTS))
def test_random_rollouts(part: int) -> None:
    outcomes = [rollout(seed) for seed in range(part, NUM_ROLLOUTS, NUM_PARTS)]
    assert sum(outcome.num_checks for outcome in outcomes) > 1000
