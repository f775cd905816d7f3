"""From the planner's actions to rows."""

from __future__ import annotations

from typing import get_args

import pytest
from proa_operator import names
from proa_operator.cli.plan import is_file
from proa_operator.cli.plan_view import rows_of
from proa_operator.cluster.apply import stamped
from proa_operator.names import Role
from proa_operator.plan import actions as todo
from proa_operator.plan.memo import Drain, DrainPhase, GroupMemo, Restart, Why
from proa_operator.plan.state import RouteReason

OBJECT = {"kind": "Service", "metadata": {"name": "tiny-gateway"}}
DRAIN = Drain(phase=DrainPhase.CORDONED, since=0.0, why=Why.SCALE_IN)
RESTART = Restart(count=2, at=0.0, why=Why.STALLED, doomed=frozenset({"u"}))
CASES: list[tuple[todo.Action, tuple[str, str, str]]] = [
    (todo.Apply(objects=(OBJECT,)), ("Apply", "Service tiny-gateway", "create")),
    (todo.Delete(kind="Pod", name="p"), ("Delete", "Pod p", "with its dependents")),
    (todo.Scale(role=Role.DECODE, replicas=3), ("Scale", "WorkerPool decode", "to 3 groups")),
    (todo.Remember(group="g", memo=GroupMemo(drain=DRAIN)), ("Remember", "group g", "drain: Cordoned (ScaleIn)")),
    (todo.Remember(group="g", memo=GroupMemo(restart=RESTART)), ("Remember", "group g", "restart 2 (Stalled)")),
    (todo.Remember(group="g", memo=GroupMemo(served_at=1.0)), ("Remember", "group g", "served")),
    (
        todo.Remember(group="g", memo=GroupMemo(members=frozenset("ab"))),
        ("Remember", "group g", "2 pods start together"),
    ),
    (
        todo.Ungate(group="g", pods=("p",), avoid=("n1", "n2")),
        ("Ungate", "pod p", "let the scheduler bind it, not on n1, n2"),
    ),
    (
        todo.Route(pod="p", is_routable=True, reason=RouteReason.ROUTABLE),
        ("Route", "pod p", "into the gateway (Routable)"),
    ),
    (
        todo.Route(pod="p", is_routable=False, reason=RouteReason.CORDONED, message="drained"),
        ("Route", "pod p", "out of the gateway (Cordoned: drained)"),
    ),
    (todo.Probe(prefill_pod="p", decode_pod="d"), ("Probe", "pod p", "a transfer to d")),
    (todo.DrainWorker(pod="p", timeout_seconds=60.0), ("DrainWorker", "pod p", "at most 60 s")),
    (
        todo.MarkAvailable(revision="r", at=0.0, sizes={Role.PREFILL: 2, Role.DECODE: 1}),
        ("MarkAvailable", "revision r", "served with 2 prefill, 1 decode"),
    ),
    (todo.MarkFailed(revision="r", reason="crashed"), ("MarkFailed", "revision r", "crashed")),
    (todo.StartRevision(revision="r", number=4, at=0.0, objects=()), ("StartRevision", "revision r", "as number 4")),
    (todo.Note(type=todo.EventType.WARNING, reason="RolledBack", message="m"), ("Event RolledBack", "Warning", "m")),
]


@pytest.mark.parametrize(("action", "cells"), CASES, ids=lambda case: type(case).__name__)
def test_each_action_has_a_row(action: todo.Action, cells: tuple[str, str, str]) -> None:
    (row,) = rows_of([action], {})
    assert (row.number, row.action, row.target, row.detail) == (1, *cells)


def test_the_table_covers_every_action() -> None:
    assert {type(action) for action, _ in CASES} == set(get_args(todo.Action))


@pytest.mark.parametrize(
    ("digest", "details"),
    [
        (None, ["create"]),
        ("another", ["change"]),
        (stamped(OBJECT)["metadata"]["annotations"][names.APPLIED_ANNOTATION], []),
    ],
)
def test_an_object_that_is_so_already_has_no_row(digest: str | None, details: list[str]) -> None:
    applied = {} if digest is None else {("Service", "tiny-gateway"): digest}
    assert [row.detail for row in rows_of([todo.Apply(objects=(OBJECT,))], applied)] == details


@pytest.mark.parametrize(
    ("subject", "is_path"),
    [("tiny", False), ("deepseek-v3", False), ("tiny.yaml", True), ("./tiny", True), ("a/b", True)],
)
def test_files_and_names(subject: str, is_path: bool) -> None:
    assert is_file(subject) is is_path
