"""Bad revisions go back by themselves, a change of mind costs nothing, and a new operator rolls nothing."""

from __future__ import annotations

import json
from collections.abc import Iterator
from functools import partial
from pathlib import Path
from typing import Any

import pytest
from proa_operator import names

from testbed.control_plane import ControlPlane
from testbed.settings import BedSettings
from tests.cluster.kinds import apply_kinds
from tests.cluster.live_api import RawApi, Seen, Watches
from tests.cluster.live_fleet import Fleet, addressed_nodes
from tests.cluster.live_services import LABEL, PLAYED, played_service
from tests.cluster.operator_checks import await_settled, service
from tests.cluster.operator_process import Operator, condition

SHORT = (str(Path(__file__).with_name("live_operator.py")),)
NAMESPACE = "rollback"
DEADLINE_SECONDS = 20
PERIOD_SECONDS = 15.0
WAIT_SECONDS = 120.0
RULES = {"noProgressSeconds": DEADLINE_SECONDS}
NEVER_READY = {f"{PLAYED}ready-seconds": "never"}
CRASH_LOOP = {f"{PLAYED}ready-seconds": "never", f"{PLAYED}crash-seconds": "1"}
BAD = {
    "never": (NEVER_READY, "no progress for 20 s"),
    "crash": (CRASH_LOOP, "crashed 6 times"),
    "errors": ({"bad": "yes"}, "33.3% of its requests failed"),
}
"""Service -> annotations of its bad pods, and why it is given up."""


class Witness:
    """Plays the fleet, and keeps what happened when. New leaders of the service `errors` fail every third request."""

    def __init__(self, fleet: Fleet) -> None:
        self.fleet = fleet
        self.deleted: list[str] = []
        """StatefulSets that are gone."""
        self.ran_at: dict[str, float] = {}
        """When the last container of a revision first ran, by revision."""
        self.failed: dict[str, tuple[str, float, str]] = {}
        """Revision that was given up, when and why, by service."""
        self._ran: set[str] = set()

    def see(self, seen: Seen) -> None:
        """Under the lock of the watches."""
        meta = seen.body["metadata"]
        if seen.kind == "StatefulSet" and seen.type == "DELETED":
            self.deleted.append(meta["name"])
        if seen.kind == "ControllerRevision" and names.FAILED_ANNOTATION in meta.get("annotations", {}):
            revision, why = meta["labels"][names.REVISION_LABEL], meta["annotations"][names.FAILED_ANNOTATION]
            self.failed.setdefault(meta["labels"][names.SERVICE_LABEL], (revision, seen.at, why))
        if seen.kind == "Pod" and names.GROUP_LABEL in meta["labels"]:
            self._see_pod(seen)

    def _see_pod(self, seen: Seen) -> None:
        meta = seen.body["metadata"]
        worker, revision = self.fleet.see_pod(seen.type, seen.body), meta["labels"][names.REVISION_LABEL]
        if seen.body.get("status", {}).get("phase") == "Running" and meta["uid"] not in self._ran:
            self._ran.add(meta["uid"])
            self.ran_at[revision] = seen.at
        if worker is not None and worker.service == "errors" and "bad" in meta.get("annotations", {}):
            worker.finished, worker.failed = 300, 100


@pytest.fixture(scope="module")
def api() -> Iterator[ControlPlane]:
    with ControlPlane(BedSettings(lease_seconds=200, node_grace_seconds=600)) as bed:
        apply_kinds(bed)
        raw = RawApi(bed)
        for node in addressed_nodes("roll-0", "roll-1", labels={LABEL: "roll"}):
            raw.call("POST", raw.path("Node"), node)
        bed.kubectl("create", "namespace", NAMESPACE)
        yield bed


@pytest.fixture(scope="module")
def witness(api: ControlPlane) -> Iterator[Witness]:
    with Fleet() as fleet:
        found = Witness(fleet)
        with Watches(RawApi(api), NAMESPACE, ("Pod", "StatefulSet", "ControllerRevision"), found.see):
            yield found


def applied(api: ControlPlane, name: str, **fields: Any) -> None:
    document = played_service(name, label="roll", rollout=RULES, **fields)
    api.apply(document, f"--namespace={NAMESPACE}")


def test_bad_revisions_go_back_within_the_deadline_and_a_period(api: ControlPlane, witness: Witness) -> None:
    """Three kinds of bad at once. The deadline counts from the last progress: here, that the containers run."""
    with Operator(api, NAMESPACE, program=SHORT):
        for name in BAD:
            applied(api, name)
        for name in BAD:
            await_settled(api, NAMESPACE, name, seconds=WAIT_SECONDS)
        old = {name: service(api, NAMESPACE, name)["status"]["revision"] for name in BAD}
        for name, (notes, _) in BAD.items():
            applied(api, name, notes=notes)
        is_back = lambda name: condition(service(api, NAMESPACE, name), "RolledBack") == "True"  # noqa: E731
        for name, (_, words) in BAD.items():
            api.until(partial(is_back, name), what=f"{name} to be rolled back", seconds=WAIT_SECONDS)
            await_settled(api, NAMESPACE, name, seconds=WAIT_SECONDS)
            revision, at, why = witness.failed[name]
            assert words in why
            assert at - witness.ran_at[revision] < DEADLINE_SECONDS + PERIOD_SECONDS
            assert _sets(api, name) == {f"{name}-{old[name]}-{role}-000" for role in ("prefill", "decode")}
    assert not [name for name in witness.deleted if any(revision in name for revision in old.values())]


def test_a_change_of_mind_midway_deletes_nothing_that_serves(api: ControlPlane, witness: Witness) -> None:
    with Operator(api, NAMESPACE, program=SHORT):
        applied(api, "mind", prefill=2, decode=2)
        await_settled(api, NAMESPACE, "mind", seconds=WAIT_SECONDS)
        old = _sets(api, "mind")
        applied(api, "mind", prefill=2, decode=2, notes=NEVER_READY)
        api.until(lambda: _sets(api, "mind") > old, what="a group of the new revision", seconds=WAIT_SECONDS)
        applied(api, "mind", prefill=2, decode=2)
        api.until(lambda: _sets(api, "mind") == old, what="the old groups alone", seconds=WAIT_SECONDS)
        await_settled(api, NAMESPACE, "mind", seconds=WAIT_SECONDS)
        assert not set(witness.deleted) & old


def test_an_upgrade_of_the_operator_alone_rolls_nothing(api: ControlPlane, witness: Witness) -> None:
    with Operator(api, NAMESPACE, program=SHORT):
        applied(api, "still")
        await_settled(api, NAMESPACE, "still", seconds=WAIT_SECONDS)
    before = _pods(api)
    images = {"PROA_OPERATOR_IMAGE": "operator:2", "PROA_ENGINE_IMAGE_SIM": "sim:2"}
    upgraded = Operator(api, NAMESPACE, program=SHORT, VARIANT="upgrade")
    upgraded.environment |= images
    with upgraded:

        def has_rolled_gateway() -> bool:
            return "operator:2" in json.dumps(api.get("deployments", "still-gateway", NAMESPACE))

        api.until(has_rolled_gateway, what="the new operator to work", seconds=WAIT_SECONDS)
        await_settled(api, NAMESPACE, "still", seconds=WAIT_SECONDS)
        assert _pods(api) == before
        applied(api, "still", notes={"v": "2"})
        api.until(lambda: _pods(api) - before, what="pods of a spec that has changed", seconds=WAIT_SECONDS)


def _sets(api: ControlPlane, name: str) -> set[str]:
    found = api.get("statefulsets", namespace=NAMESPACE, selector=f"proa.dev/service={name}")["items"]
    return {one["metadata"]["name"] for one in found}


def _pods(api: ControlPlane) -> set[str]:
    found = api.get("pods", namespace=NAMESPACE, selector="proa.dev/service=still,proa.dev/group")["items"]
    return {one["metadata"]["uid"] for one in found}
