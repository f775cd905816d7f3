"""A tenth of `python -m bench.k8s`, with small services: the same phases.

The bounds are those that a busy machine keeps; the ones that matter are measured at full size (bench/k8s/README.md).
"""

from __future__ import annotations

import sys

import pytest

from bench.k8s.run import measure
from bench.k8s.scale import Scale, Shape
from testbed.tiers import left_out

SMALL = Scale(
    services=100,
    nodes=40,
    namespaces=5,
    changes=45,
    changes_per_second=4.0,
    rest_seconds=8.0,
    settle_seconds=4.0,
    shape=Shape(prefill_groups=1, decode_groups=1, decode_nodes=1),
)


@pytest.mark.slow
@pytest.mark.soak
@pytest.mark.timeout(1200)
@pytest.mark.skipif(left_out("a") is not None, reason=left_out("a") or "")  # not by the fixture: it has its own bed
async def test_a_hundred_services() -> None:
    record = await measure(SMALL, seed=0, up_seconds=120)
    print(record, file=sys.stderr)
    changes = record["changes"]
    assert changes["unanswered"] == []
    assert changes["latency_ms"]["all"]["p50"] < 500
    assert changes["latency_ms"]["all"]["p99"] < 5000
    assert changes["operator_cpu_ms_per_change"] < 200, "some work grows with the number of services"
    assert record["at_rest"]["other_writes"] == {}
    assert record["cold_start"]["rss_most_mib"] < 250
    assert record["cold_start"]["seconds"] < 60
    assert record["failover"]["all_answered_seconds"] < 20
