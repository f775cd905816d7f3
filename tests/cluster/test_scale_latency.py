"""The checkers of bench/k8s on written-out audit logs: what counts as the answer to a change, and what is none."""

from __future__ import annotations

import json
from pathlib import Path

import pytest

from bench.k8s.audit import AuditTail, Request
from bench.k8s.changes import Change, Kind
from bench.k8s.client import AGENT
from bench.k8s.latency import OPERATOR, latencies, percentile
from bench.k8s.scale import Scale

CHANGE = Change(
    kind=Kind.CHILD, service="s0001", namespace="n", verb="delete", resource="poddisruptionbudgets", name="s0001-a"
)


def request(agent: str, verb: str, resource: str, name: str, received: float, answered: float = 0.0) -> Request:
    return Request(
        agent=agent,
        verb=verb,
        resource=resource,
        namespace="n",
        name=name,
        code=200,
        received=received,
        answered=answered or received + 0.01,
    )


MADE = request(AGENT, "delete", "poddisruptionbudgets", "s0001-a", 10.0, 10.02)


@pytest.mark.parametrize(
    ("others", "expected"),
    [
        pytest.param([(OPERATOR, "patch", "poddisruptionbudgets", "s0001-a", 10.05)], (30.0, 60.0), id="answered"),
        pytest.param([(OPERATOR, "patch", "pods/status", "s0001-b", 10.01)], (0.0, 20.0), id="before its answer"),
        pytest.param([(OPERATOR, "patch", "pods/status", "s0001-b", 9.99)], None, id="before the change"),
        pytest.param([(OPERATOR, "patch", "pods/status", "s0002-b", 10.05)], None, id="another service"),
        pytest.param([(OPERATOR, "patch", "disaggregatedservices/status", "s0001", 10.05)], None, id="no child"),
        pytest.param([(OPERATOR, "get", "pods", "s0001-b", 10.05)], None, id="no write"),
        pytest.param([("kubectl", "patch", "pods", "s0001-b", 10.05)], None, id="somebody else"),
        pytest.param(
            [(OPERATOR, "patch", "pods", "s0001-b", 10.5), (OPERATOR, "patch", "pods", "s0001-c", 10.12)],
            (100.0, 130.0),
            id="the first of two, whatever the order of the log",
        ),
    ],
)
def test_the_answer_to_a_change(
    others: list[tuple[str, str, str, str, float]], expected: tuple[float, float] | None
) -> None:
    found, missing = latencies([CHANGE], [MADE, *(request(*other) for other in others)])
    assert [(one.ms, one.outer_ms) for one in found] == ([pytest.approx(expected)] if expected else [])
    assert missing == ([] if expected else [CHANGE])


def test_a_change_that_the_server_refused_is_missing() -> None:
    refused = Request(**{**{name: getattr(MADE, name) for name in MADE.__slots__}, "code": 404})
    answer = request(OPERATOR, "patch", "pods", "s0001-b", 10.05)
    assert latencies([CHANGE], [refused, answer]) == ([], [CHANGE])


@pytest.mark.parametrize(
    ("values", "share", "expected"),
    [([1.0], 0.5, 1.0), ([1.0, 2.0], 0.5, 1.0), ([3.0, 1.0, 2.0], 0.99, 3.0), (list(range(1, 101)), 0.99, 99)],
)
def test_percentiles_are_values_that_were_measured(values: list[float], share: float, expected: float) -> None:
    assert percentile(values, share) == expected


def test_the_log_is_read_on_from_its_end_and_half_a_line_is_left(tmp_path: Path) -> None:
    def line(name: str, stage: str = "ResponseComplete") -> str:
        event = {
            "stage": stage,
            "userAgent": AGENT,
            "verb": "patch",
            "objectRef": {"resource": "pods", "subresource": "status", "namespace": "n", "name": name},
            "responseStatus": {"code": 200},
            "requestReceivedTimestamp": "2026-01-31T00:00:00.250000Z",
            "stageTimestamp": "2026-01-31T00:00:00.750000Z",
        }
        return json.dumps(event) + "\n"

    path = tmp_path / "audit.log"
    path.write_text(line("before"))
    tail = AuditTail(path)
    with path.open("a") as log:
        log.write(line("one") + line("panicked", "Panic") + line("two")[:40])
    (one,) = tail.read()
    assert (one.name, one.resource, one.answered - one.received) == ("one", "pods/status", 0.5)
    with path.open("a") as log:
        log.write(line("two")[40:])
    assert [found.name for found in tail.read()] == ["two"]
    path.rename(tmp_path / "audit-2026-01-31T00-00-01.000.log")
    (tmp_path / "audit-2026-01-31T00-00-02.000.log").write_text(line("three"))
    path.write_text(line("four"))
    assert [found.name for found in tail.read()] == ["three", "four"]
    assert tail.read() == []


@pytest.mark.parametrize(
    ("services", "nodes", "changes", "fix"),
    [(10, 20, 11, "lower --changes"), (10, 19, 10, "raise --nodes"), (1, 2, 1, "lower --namespaces")],
)
def test_a_size_that_cannot_be_is_refused(services: int, nodes: int, changes: int, fix: str) -> None:
    with pytest.raises(ValueError, match=fix):
        Scale(services=services, nodes=nodes, namespaces=2, changes=changes, changes_per_second=1, rest_seconds=1)
