"""Twenty of the random rollouts of tests/unit on the API server, and planted faults that the same checks catch."""

from __future__ import annotations

from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from functools import partial
from pathlib import Path
from random import Random

import pytest

from testbed.control_plane import ControlPlane
from testbed.settings import BedSettings
from tests.cluster.kinds import apply_kinds
from tests.cluster.live_fleet import Fleet
from tests.cluster.live_fuzz import SPEED, LiveWorld, Theatre
from tests.cluster.operator_process import Operator
from tests.unit.plan_fakes import service
from tests.unit.plan_fuzz import AT_MOST_SECONDS, MODELS, Drawn, draw, play
from tests.unit.plan_invariants import Broken
from tests.unit.plan_world import is_settled

SHORT = (str(Path(__file__).with_name("live_operator.py")),)
NUM_ROLLOUTS = 20
FIRST_NODE = 220
ROLL_SECONDS = 90.0
FAULTS = {
    "pairing": "pairing protocol any joins the revisions",
    "capacity": "lowers the capacity",
    "budget": "pods hold devices, more than",
    "work": "is deleted with",
    "none": "",
}
"""Variants of live_operator.py, and what is said of them."""
pytestmark = [pytest.mark.soak, pytest.mark.timeout(2400)]


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
    randoms = {f"fuzz-{seed}": Random(seed) for seed in range(NUM_ROLLOUTS)}
    drawn = {name: draw(random, seed) for seed, (name, random) in enumerate(randoms.items())}
    acts = {name: partial(play, random=random, seed=seed) for seed, (name, random) in enumerate(randoms.items())}
    with Operator(api, namespace, program=SHORT):
        judged = Theatre(api, fleet, namespace, drawn).play(acts)
    checks, actions, late = (
        sum(getattr(one, name) for one in judged.values()) for name in ("num_checks", "num_actions", "num_late")
    )
    print(f"{len(judged)} rollouts, {checks} events judged, {actions} of the operator's, {late} of them late")
    assert checks > 5000
    assert late < 0.02 * actions


def test_planted_faults_are_caught(api: ControlPlane, fleet: Fleet) -> None:
    """Operators with one fault each, side by side, and a sound one."""
    with ThreadPoolExecutor(len(FAULTS)) as threads:
        plays = [partial(_upgraded, api, fleet, fault, FIRST_NODE + 2 * number) for number, fault in enumerate(FAULTS)]
        caught = dict(zip(FAULTS, threads.map(lambda one: one(), plays), strict=True))
    assert {fault: words in caught[fault] for fault, words in FAULTS.items()} == dict.fromkeys(FAULTS, True), caught
    assert caught["none"] == ""


def _upgraded(api: ControlPlane, fleet: Fleet, fault: str, first_node: int) -> str:
    """What the invariants say when an operator with this fault replaces the model of 3:2 groups."""
    api.kubectl("create", "namespace", fault)
    drawn = Drawn(
        first=service(prefill=3, decode=2, model=MODELS[0]), start_seconds=dict.fromkeys(MODELS, 5.0), num_nodes=0
    )
    theatre = Theatre(api, fleet, fault, {fault: drawn}, first_node=first_node)

    def act(world: LiveWorld) -> None:
        assert world.run(AT_MOST_SECONDS, until=lambda: is_settled(world)), f"{fault}: no first install"
        world.change(service(prefill=3, decode=2, model=MODELS[1]))
        world.run(ROLL_SECONDS * SPEED, until=lambda: is_settled(world))

    with Operator(api, fault, program=SHORT, VARIANT=fault):
        try:
            theatre.play({fault: act})
        except Broken as error:
            return str(error)
    return ""
