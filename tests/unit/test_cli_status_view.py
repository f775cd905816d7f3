"""From a DisaggregatedService to what `proa status` shows."""

from __future__ import annotations

from typing import Any

import pytest
from proa_operator.cli.status_table import detail, overview
from proa_operator.cli.status_view import age, view_of
from rich.console import Console

NOW = 1_800_000_000.0
COUNTS = {"replicas": 1, "ready": 1, "routable": 1, "draining": 0}
OLD, NEW = "aaaaaaaa", "bbbbbbbb"


def _condition(kind: str, status: str, reason: str = "Because", message: str = "of this") -> dict[str, Any]:
    since = "2027-01-15T07:59:00Z"
    return {"type": kind, "status": status, "reason": reason, "message": message, "lastTransitionTime": since}


def _service(status: dict[str, Any] | None = None, *, generation: int = 1, **meta: Any) -> dict[str, Any]:
    return {
        "metadata": {"namespace": "team", "name": "tiny", "generation": generation, **meta},
        "spec": {"topology": "Disaggregated"},
        "status": {"observedGeneration": 1, **status} if status is not None else None,
    }


ROLLING = {
    "revision": NEW,
    "topology": "Disaggregated",
    "columns": {"prefill": "2/2", "decode": "1/1", "state": "Load 40%"},
    "pools": {
        "prefill": {"desired": 2, "replicas": 3, "ready": 2, "routable": 2, "draining": 1},
        "decode": {"desired": 1, **COUNTS},
    },
    "revisions": [
        {"name": OLD, "isTarget": False, "prefill": {**COUNTS, "draining": 1}},
        {"name": NEW, "isTarget": True, "prefill": COUNTS, "decode": COUNTS},
    ],
    "starting": [{"group": "tiny-bbbbbbbb-prefill-001", "phase": "Load", "percent": 40}],
    "conditions": [_condition("Available", "True"), _condition("Progressing", "True", "RollingOut", "moving")],
}


def test_pools_by_revision() -> None:
    rows = [
        (row.pool, row.revision, row.is_target, row.desired, row.ready, row.draining)
        for row in view_of(_service(ROLLING)).pools
    ]
    assert rows == [
        ("prefill", "", True, 2, 2, 1),
        ("prefill", OLD, False, None, 1, 1),
        ("prefill", NEW, True, None, 1, 0),
        ("decode", NEW, True, 1, 1, 0),
    ]


@pytest.mark.parametrize(
    ("status", "generation", "message"),
    [
        (None, 1, "no operator has seen it"),
        ({}, 2, "has not seen the latest change"),
        ({"conditions": [_condition("Progressing", "True", "RollingOut", "moving")]}, 1, "RollingOut: moving"),
        ({"conditions": [_condition("Progressing", "False"), _condition("Available", "True")]}, 1, ""),
        (
            {
                "conditions": [
                    _condition("Available", "False"),
                    _condition("Degraded", "True", "ProbeFailed", "no route"),
                ]
            },
            1,
            "ProbeFailed: no route",
        ),
        (
            {"conditions": [_condition("CapacityAvailable", "False", "NoNodeFits", "add nodes")]},
            1,
            "NoNodeFits: add nodes",
        ),
    ],
)
def test_the_gravest_thing_is_the_message(status: dict[str, Any] | None, generation: int, message: str) -> None:
    found = view_of(_service(status, generation=generation)).message
    assert message in found
    assert bool(found) is bool(message)


@pytest.mark.parametrize(
    ("kind", "status", "is_good"),
    [
        ("Available", "True", True),
        ("Available", "False", False),
        ("Degraded", "False", True),
        ("Degraded", "True", False),
        ("RolledBack", "True", False),
        ("Progressing", "True", True),
        ("Progressing", "False", True),
        ("ModelReady", "Unknown", None),
        ("NodeViewUnavailable", "True", False),
    ],
)
def test_which_conditions_are_good(kind: str, status: str, is_good: bool | None) -> None:
    (row,) = view_of(_service({"conditions": [_condition(kind, status)]})).conditions
    assert row.is_good is is_good


def test_a_service_on_its_way_out_says_so() -> None:
    assert view_of(_service(ROLLING, deletionTimestamp="2027-01-15T07:59:00Z")).phase == "Deleting"


@pytest.mark.parametrize(
    ("since", "text"),
    [
        ("", ""),
        ("2027-01-15T08:00:00Z", "0s"),
        ("2027-01-15T07:58:01Z", "119s"),
        ("2027-01-15T07:58:00Z", "2m"),
        ("2027-01-15T06:00:00Z", "2h"),
        ("2027-01-13T08:00:00Z", "2d"),
        ("2027-01-15T09:00:00Z", "0s"),
    ],
)
def test_age(since: str, text: str) -> None:
    assert age(since, NOW) == text


def _printed(renderable: Any) -> str:
    console = Console(width=160, record=True, highlight=False)
    console.print(renderable)
    return console.export_text()


def test_tables_show_names_counts_and_what_looks_like_markup() -> None:
    odd = {**ROLLING, "conditions": [_condition("Degraded", "True", "Refused", "[Errno 111] [/x]")]}
    views = [view_of(_service(odd, creationTimestamp="2027-01-15T07:00:00Z"))]
    for text in (_printed(overview(views, NOW)), _printed(detail(views[0], NOW))):
        assert "tiny" in text
        assert "Load 40%" in text
        assert "[Errno 111] [/x]" in text
    assert "bbbbbbbb (target)" in _printed(detail(views[0], NOW))
