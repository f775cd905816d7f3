"""Twenty of the random rollouts of tests/unit on the API server, and planted faults that the same checks catch."""

from __future__ import annotations

import itertools
from collections.abc import Iterator
from pathlib import Path

import pytest

from testbed.control_plane import ControlPlane
from testbed.settings import BedSettings
from tests.cluster.kinds import apply_kinds
from tests.cluster.live_fleet import Fleet
from tests.cluster.live_fuzz import Theatre
from tests.cluster.operator_process import Operator

SHORT = (str(Path(__file__).with_name("live_operator.py")),)
NUM_ROLLOUTS = 20
NODES = itertools.count(0, 13)


@pytest.fixture(scope="module")
def api() -> Iterator[ControlPlane]:
    """A cluster of its own: some two hundred nodes."""
    with ControlPlane(BedSettings(lease_seconds=200, node_grace_seconds=600)) as bed:
        apply_kinds(bed)
        yield bed


@pytest.fixture(scope="module")
def fleet() -> Iterator[Fleet]:
    with Fleet() as found:
        yield found


def test_twenty_random_rollouts(api: ControlPlane, fleet: Fleet, namespace: str) -> None:
    with Operator(api, namespace, program=SHORT):
        judged = Theatre(api, fleet, namespace, range(NUM_ROLLOUTS)).play()
    checks, actions, late = (
        sum(getattr(one, name) for one in judged.values()) for name in ("num_checks", "num_actions", "num_late")
    )
    print(f"{len(judged)} rollouts, {checks} events judged, {actions} of the operator's, {late} of them late")
    assert checks > 5000
    assert late < 10
