"""Windows, pauses and reasons to hold: tables of loads and what becomes of the pools."""

from __future__ import annotations

import json
import time
from dataclasses import replace
from itertools import pairwise
from typing import Any

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from proa_operator.autoscale.act import Reason, Targets
from proa_operator.autoscale.course import Course
from proa_operator.autoscale.decide import RECORD_VERSION, decide
from proa_operator.autoscale.memory import Memory, from_text, to_text
from proa_operator.autoscale.replay import replay
from proa_operator.autoscale.signals import PoolSignals
from proa_operator.errors import UserError

from tests.unit.autoscale_cases import PERIOD, config, run, signals, sizes

RECORD_PARTS = ("signals", "memory", "config", "outcome", "after")
STEADY = 40  # periods after which all windows are filled


def test_a_step_of_the_load_grows_both_pools_within_two_periods() -> None:
    decisions = run([2.0] * STEADY + [10.0] * 2, config())
    before, first, second = sizes(decisions)[-3:]
    assert before == (1, 1)
    assert first == before
    assert second[0] > 1
    assert second[1] > 1
    assert decisions[-1].outcome.reason is Reason.UP


def test_one_high_reading_changes_nothing() -> None:
    assert set(sizes(run([2.0] * STEADY + [10.0] + [2.0] * 10, config()))) == {(1, 1)}


def test_down_goes_step_by_step_one_pool_at_a_time() -> None:
    seen = sizes(run([10.0] * 60 + [1.0] * 120, config(), start=(5, 5)))
    assert seen[-1] == (1, 1)
    changes = [(old, new) for old, new in pairwise(seen) if old != new and new[0] <= old[0]]
    for (old_prefill, old_decode), (new_prefill, new_decode) in changes:
        assert (old_prefill - new_prefill) + (old_decode - new_decode) == 1
    first = next(idx for idx, size in enumerate(seen) if idx >= 60 and size != seen[59])
    assert (first - 60) * PERIOD >= 300.0 - 2 * PERIOD


@pytest.mark.parametrize(
    ("changes", "reason"),
    [
        ({"is_rolling": True}, Reason.ROLLING),
        ({"transfer_failures": 0.1}, Reason.TRANSFERS_FAIL),
        ({"missing": ("x",)}, Reason.METRICS_MISSING),
        ({"prefill": PoolSignals(desired=4, ready=0)}, Reason.NOT_SERVING),
        ({"decode": PoolSignals(desired=4, ready=0)}, Reason.NOT_SERVING),
    ],
)
def test_nothing_shrinks_while_something_is_wrong(changes: dict[str, Any], reason: Reason) -> None:
    decisions = run([1.0] * STEADY, config(), start=(4, 4), **changes)
    assert set(sizes(decisions)) == {(4, 4)}
    assert decisions[-1].outcome.reason is reason


def test_an_outage_holds_and_its_end_does_not_jump() -> None:
    settings_ = config()
    before = run([4.0] * STEADY, settings_, start=(3, 3))
    held, memory = sizes(before)[-1], before[-1].memory
    out = run([0.0] * 40, settings_, start=held, memory=memory, at=STEADY * PERIOD, missing=("Prometheus",))
    assert set(sizes(out)) == {held}
    back_at = (STEADY + 40) * PERIOD
    back = run([40.0, 4.0, 4.0, 0.5, 0.5], settings_, start=held, memory=out[-1].memory, at=back_at)
    assert set(sizes(back)) == {held}
    assert back[0].outcome.reason in (Reason.WARMING, Reason.STEADY)


def test_below_the_minimum_never_even_without_metrics() -> None:
    assert sizes(run([0.0], config(least=2), start=(1, 1), missing=("all",))) == [(2, 2)]


def test_a_memory_that_is_lost_holds_for_one_window() -> None:
    decisions = run([1.0] * 19, config(), start=(4, 4))
    assert set(sizes(decisions)) == {(4, 4)}
    assert decisions[-1].outcome.reason is Reason.WARMING
    assert sizes(run([1.0] * 25, config(), start=(4, 4)))[-1] != (4, 4)


def shrinking(memory: Memory) -> Memory:
    """As if both pools had gone down last, so that going on needs no evidence."""
    return replace(memory, prefill_course=Course(is_shrinking=True), decode_course=Course(is_shrinking=True))


def test_a_number_set_by_hand_is_left_alone_for_a_while() -> None:
    memory = shrinking(run([1.0] * STEADY, config())[-1].memory)
    now = STEADY * PERIOD
    pinned = PoolSignals(desired=6, ready=6, manual_at=now - 1.0)
    assert decide(signals(now, 1.0, prefill=6), memory, config()).targets.prefill == 5
    for rate in (1.0, 40.0):
        assert decide(replace(signals(now, rate), prefill=pinned), memory, config()).targets.prefill == 6
    over = replace(pinned, desired=12, ready=12)
    assert decide(replace(signals(now, 1.0), prefill=over), memory, config()).targets.prefill == 12
    late = replace(over, manual_at=now - 601.0)
    assert decide(replace(signals(now, 1.0), prefill=late), memory, config()).targets.prefill == 8


def test_a_pinned_pool_does_not_keep_the_other_one() -> None:
    memory = shrinking(run([1.0] * STEADY, config())[-1].memory)
    seen = signals(STEADY * PERIOD, 1.0, 2, 2)
    pinned = PoolSignals(desired=6, ready=6, manual_at=seen.now - 1.0)
    assert decide(replace(seen, decode=pinned), memory, config()).targets == Targets(prefill=1, decode=6)
    idle = run([0.0] * STEADY, config(least=0), prefill=PoolSignals(desired=0, ready=0))[-1].memory
    asleep = replace(signals(STEADY * PERIOD, 0.0), decode=replace(pinned, desired=1, ready=1))
    assert decide(asleep, idle, config(least=0)).targets == Targets(prefill=1, decode=1)


def test_a_service_sleeps_and_wakes_with_both_pools() -> None:
    asleep = run([1.0] * STEADY + [0.0] * 60, config(least=0))
    assert sizes(asleep)[-1] == (0, 0)
    assert Reason.SLEEP in {decision.outcome.reason for decision in asleep}
    woken = run([0.5], config(least=0), start=(0, 0), memory=asleep[-1].memory, at=100 * PERIOD)
    assert woken[0].targets == Targets(prefill=1, decode=1)
    assert woken[0].outcome.reason is Reason.WAKE


def test_a_service_whose_groups_are_all_down_does_not_fall_asleep() -> None:
    down = PoolSignals(desired=1, ready=0)
    decisions = run([1.0] * STEADY + [0.0] * 60, config(least=0), decode=down)
    assert set(sizes(decisions)) == {(1, 1)}
    assert decisions[-1].outcome.reason is Reason.NOT_SERVING


def test_requests_that_run_keep_a_service_awake() -> None:
    busy = PoolSignals(desired=1, ready=1, running=1.0)
    decisions = run([1.0] * STEADY + [0.0] * 60, config(least=0), decode=busy)
    assert sizes(decisions)[-1] == (1, 1)


def test_a_backlog_is_demand_although_arrivals_are_not() -> None:
    calm = run([2.0] * STEADY, config())
    waiting = signals(STEADY * PERIOD, 2.0, backlog_tokens=500_000.0)
    more = decide(waiting, calm[-1].memory, config())
    assert calm[-1].outcome.demand_per_second == 2.0
    assert more.outcome.demand_per_second is not None
    assert more.outcome.demand_per_second > 5.0


def test_without_a_profile_nothing_shrinks_before_enough_was_seen() -> None:
    decisions = run([1.0] * STEADY, config(has_profile=False), start=(4, 4))
    assert set(sizes(decisions)) == {(4, 4)}
    assert decisions[-1].outcome.reason is Reason.LEARNING


def test_a_record_that_was_changed_does_not_replay() -> None:
    record = json.loads(json.dumps(run([3.0] * 10, config())[-1].record))
    record["signals"]["arrivals_per_second"] = 9.0
    differences = replay(record).differences
    assert any("demand_per_second" in difference for difference in differences)


@pytest.mark.parametrize(
    ("record", "message"),
    [
        ({}, "not a decision record"),
        ({"version": 1}, "use the proa version that wrote it"),
        ({"version": RECORD_VERSION}, "the record has no signals"),
        (
            {"version": RECORD_VERSION, "signals": {}, "memory": {}, "config": {}, "outcome": {}, "after": {}},
            "these fields are",
        ),
    ],
)
def test_a_broken_record_is_refused_in_one_line(record: dict[str, Any], message: str) -> None:
    with pytest.raises(UserError, match=message) as found:
        replay(record)
    assert "\n" not in str(found.value)


@given(
    rates=st.lists(st.floats(min_value=0.0, max_value=60.0), min_size=5, max_size=60),
    gaps=st.sets(st.integers(min_value=0, max_value=59), max_size=10),
    least=st.integers(min_value=0, max_value=3),
)
@settings(max_examples=25)
def test_targets_stay_within_bounds_and_move_one_way(rates: list[float], gaps: set[int], least: int) -> None:
    settings_, memory, size = config(least=least), Memory(), (max(1, least), max(1, least))
    for idx, rate in enumerate(rates):
        missing = ("x",) if idx in gaps else ()
        decision = decide(signals(idx * PERIOD, rate, *size, missing=missing), memory, settings_)
        memory, new = decision.memory, (decision.targets.prefill, decision.targets.decode)
        assert all(least <= number <= 8 for number in new)
        assert not (new[0] < size[0] and new[1] < size[1]) or new == (0, 0)
        assert bool(new[0]) == bool(new[1])
        if missing:
            assert new == size
        size = new
    assert from_text(to_text(memory)) == memory
    assert len(to_text(memory)) < 8000


def test_a_record_holds_json_numbers_only() -> None:
    with pytest.raises(ValueError, match="not a JSON number"):
        decide(signals(0.0, float("nan"), missing=("x",)), Memory(), config())


def test_a_memory_that_was_edited_is_refused() -> None:
    with pytest.raises(UserError, match="not JSON"):
        from_text("{")
    with pytest.raises(UserError, match="memory"):
        from_text('{"since": 1}')


def test_a_thousand_services_are_decided_within_a_second() -> None:
    memory = run([5.0] * STEADY, config(most=64), start=(3, 3))[-1].memory
    seen, settings_ = signals(STEADY * PERIOD, 5.0, 3, 3), config(most=64)
    took = []
    for _ in range(3):  # the best of three: other work shares the cores
        started = time.process_time()
        for _ in range(1000):
            decide(seen, memory, settings_)
        took.append(time.process_time() - started)
    assert min(took) < 1.0
