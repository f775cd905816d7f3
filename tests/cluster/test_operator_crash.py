"""Crash anywhere and go on: one write a life, a lost leader, a leader that was asleep."""

from __future__ import annotations

import os
import signal
import time
from datetime import UTC, datetime
from pathlib import Path

import pytest

from testbed.cluster import Document
from testbed.control_plane import ControlPlane
from tests.cluster.operator_checks import SETTLE_SECONDS, await_settled, settled, shape, writes
from tests.cluster.operator_process import Doubles, Operator, sim_service

DYING = (str(Path(__file__).with_name("dying_operator.py")),)
MOST_LIVES = 80
REST_SECONDS = 6.0
FAILOVER_SECONDS = 15.0


@pytest.fixture(scope="module")
def undisturbed(api: ControlPlane, doubles: Doubles) -> dict[tuple[str, str], object]:
    """What an operator makes that nobody kills."""
    api.kubectl("create", "namespace", "undisturbed")
    with Operator(api, "undisturbed"):
        api.apply(sim_service(doubles), "--namespace=undisturbed")
        await_settled(api, "undisturbed")
    return shape(api, "undisturbed")


@pytest.mark.slow
@pytest.mark.timeout(900)  # some 25 starts of the operator: 50 s on a quiet machine
def test_killed_after_each_write_in_turn_it_ends_the_same(
    api: ControlPlane, namespace: str, doubles: Doubles, undisturbed: dict[tuple[str, str], object]
) -> None:
    api.apply(sim_service(doubles), f"--namespace={namespace}")
    lives = 0
    while _dies(api, namespace, Operator(api, namespace, program=DYING, DIE="after:1")):
        lives += 1
        last = [f"{event.verb} {event.resource} {event.name} {event.code}" for event in writes(api, namespace)[-8:]]
        assert lives < MOST_LIVES, f"the writes do not end: {last}"
    with Operator(api, namespace):
        await_settled(api, namespace)
    assert lives >= 20, "each child, each mark and each status is a write of its own"
    assert shape(api, namespace).keys() == {(kind, name) for kind, name in undisturbed}
    assert _of_namespace(shape(api, namespace), namespace) == _of_namespace(undisturbed, "undisturbed")


@pytest.mark.parametrize("number", [1, 4, 9])
def test_killed_before_a_write_it_ends_the_same(
    api: ControlPlane, namespace: str, doubles: Doubles, undisturbed: dict[tuple[str, str], object], number: int
) -> None:
    api.apply(sim_service(doubles), f"--namespace={namespace}")
    assert _dies(api, namespace, Operator(api, namespace, program=DYING, DIE=f"before:{number}"))
    with Operator(api, namespace):
        await_settled(api, namespace)
    assert _of_namespace(shape(api, namespace), namespace) == _of_namespace(undisturbed, "undisturbed")


def test_another_replica_leads_within_15_seconds_of_a_kill(api: ControlPlane, namespace: str, doubles: Doubles) -> None:
    first, second = (Operator(api, namespace, pod=f"operator-{letter}") for letter in "ab")
    with first:
        api.until(first.leads, what="the first replica to lead")
        with second:
            api.until(lambda: second.samples(), what="the second replica")
            assert not second.leads()
            first.kill()
            killed_at = datetime.now(UTC)
            api.apply(sim_service(doubles), f"--namespace={namespace}")
            api.until(second.leads, what="the second replica to lead", seconds=SETTLE_SECONDS)
            took = datetime.fromisoformat(_lease(api, namespace)["acquireTime"]) - killed_at
            print(f"failover after {took.total_seconds():.1f} s")
            assert took.total_seconds() < FAILOVER_SECONDS
            await_settled(api, namespace)


def test_a_replica_that_ends_hands_over_at_once(api: ControlPlane, namespace: str, doubles: Doubles) -> None:
    first, second = (Operator(api, namespace, pod=f"operator-{letter}") for letter in "ab")
    with second, first:
        api.until(lambda: first.leads() or second.leads(), what="one replica to lead")
        leader, other = (first, second) if first.leads() else (second, first)
        api.until(lambda: other.samples(), what="the other replica")
        assert leader.stop() == 0
        assert _lease(api, namespace)["holderIdentity"] in ("", other.pod), "it gives the Lease back"
        api.until(other.leads, what="the other replica to lead", seconds=SETTLE_SECONDS)


def test_a_leader_that_was_asleep_writes_nothing(api: ControlPlane, namespace: str, doubles: Doubles) -> None:
    first, second = (Operator(api, namespace, pod=f"operator-{letter}") for letter in "ab")
    with first:
        api.until(first.leads, what="the first replica to lead")
        with second:
            api.until(lambda: second.samples(), what="the second replica")
            assert first.process is not None
            os.kill(first.process.pid, signal.SIGSTOP)
            api.until(second.leads, what="the second replica to lead", seconds=SETTLE_SECONDS)
            os.kill(first.process.pid, signal.SIGCONT)
            api.apply(sim_service(doubles), f"--namespace={namespace}")
            await_settled(api, namespace)
            wrote = {name: value for name, value in first.samples().items() if "_api_requests_total" in name}
            others = [name for name in wrote if 'verb="patch"' in name or 'verb="create"' in name]
            assert not first.leads()
            assert others == ['proa_operator_api_requests_total{code="201",kind="Lease",verb="create"}']
            assert writes(api, namespace), "the second replica did write"


def _lease(api: ControlPlane, namespace: str) -> Document:
    found: Document = api.get("lease", "proa", namespace)["spec"]
    return found


def _dies(api: ControlPlane, namespace: str, operator: Operator) -> bool:
    """Whether it comes to its end before it has nothing left to write."""
    with operator:
        deadline = time.monotonic() + SETTLE_SECONDS
        quiet_since = time.monotonic()
        while time.monotonic() < deadline:
            if operator.has_died():
                return True
            if not operator.leads():
                quiet_since = time.monotonic()
            if time.monotonic() - quiet_since > REST_SECONDS and settled(api, namespace):
                return False
            time.sleep(0.1)
    raise AssertionError(f"the operator neither led nor died in {SETTLE_SECONDS:g} s")


def _of_namespace(found: dict[tuple[str, str], object], namespace: str) -> str:
    """Comparable text: the namespace's own name is in selectors and arguments."""
    return repr(sorted((key, repr(value)) for key, value in found.items())).replace(namespace, "NAMESPACE")
