"""The keyed queue without its clock: dedupe, one run a key at a time, spacing, backoff."""

from __future__ import annotations

import random

import pytest
from hypothesis import given
from hypothesis import strategies as st
from proa_operator.cluster.backlog import Backlog, Pace

PACE = Pace(spacing=1.0, spacing_failed=3.0, backoff_first=2.0, backoff_most=10.0, jitter=0.0)


def test_many_news_are_one_run() -> None:
    backlog: Backlog[str] = Backlog(PACE)
    for now in (0.0, 0.1, 0.2):
        backlog.add("a", now)
    assert backlog.pop(0.2) == ("a", 0.0)
    assert backlog.pop(0.2) is None


def test_the_longest_due_comes_first() -> None:
    backlog: Backlog[str] = Backlog(PACE)
    backlog.add_at("late", 2.0)
    backlog.add_at("early", 1.0)
    assert backlog.pop(0.5) is None
    assert [backlog.pop(3.0), backlog.pop(3.0)] == [("early", 1.0), ("late", 2.0)]


def test_news_while_a_key_runs_make_another_run_after_the_spacing() -> None:
    backlog: Backlog[str] = Backlog(PACE)
    backlog.add("a", 0.0)
    backlog.pop(0.0)
    backlog.add("a", 0.1)
    assert backlog.pop(5.0) is None, "it still runs"
    backlog.finish("a", 5.0, is_failed=False)
    assert backlog.pop(5.0) == ("a", 1.0)


def test_an_earlier_time_wins_and_a_later_one_changes_nothing() -> None:
    backlog: Backlog[str] = Backlog(PACE)
    for when in (5.0, 3.0, 9.0):
        backlog.add_at("a", when)
    assert backlog.next_due() == 3.0
    assert backlog.pop(4.0) == ("a", 3.0)
    backlog.finish("a", 4.0, is_failed=False)
    assert backlog.pop(100.0) is None, "the times that were replaced are forgotten"


def test_failures_back_off_to_a_limit_and_success_forgets_them() -> None:
    backlog: Backlog[str] = Backlog(PACE)
    now, pauses = 0.0, []
    backlog.add("a", now)
    for _ in range(5):
        backlog.pop(now)
        backlog.finish("a", now, is_failed=True)
        due = backlog.next_due()
        assert due is not None
        pauses.append(due - now)
        now = due
    assert pauses == [2.0, 4.0, 8.0, 10.0, 10.0]
    backlog.pop(now)
    backlog.finish("a", now, is_failed=False)
    backlog.add("a", now + 5.0)
    backlog.pop(now + 5.0)
    backlog.finish("a", now + 5.0, is_failed=True)
    assert backlog.next_due() == now + 7.0


def test_news_shorten_a_backoff_but_a_failing_key_does_not_spin() -> None:
    backlog: Backlog[str] = Backlog(PACE)
    for now in (0.0, 10.0, 30.0):
        backlog.add("a", now)
        backlog.pop(now)
        backlog.finish("a", now, is_failed=True)
    assert backlog.next_due() == 38.0
    backlog.add("a", 30.1)
    assert backlog.next_due() == 33.0


def test_age_and_depth_tell_what_waits_or_runs_too_long() -> None:
    backlog: Backlog[str] = Backlog(PACE)
    assert (backlog.age(9.0), backlog.depth(9.0)) == (0.0, 0)
    backlog.add("a", 1.0)
    backlog.add_at("b", 50.0)
    assert (backlog.age(9.0), backlog.depth(9.0)) == (8.0, 1)
    backlog.pop(9.0)
    assert backlog.age(20.0) == 11.0


def test_jitter_only_shortens_and_by_a_share() -> None:
    pace = Pace(backoff_first=8.0, jitter=0.25)
    pauses = []
    for seed in range(50):
        backlog: Backlog[str] = Backlog(pace, random.Random(seed))
        backlog.add("a", 0.0)
        backlog.pop(0.0)
        backlog.finish("a", 0.0, is_failed=True)
        pauses.append(backlog.next_due() or 0.0)
    assert 6.0 <= min(pauses) < max(pauses) <= 8.0


STEPS = st.lists(
    st.tuples(st.sampled_from(["add", "later", "pop", "done", "fail", "forget"]), st.sampled_from("abc")), max_size=60
)


@given(steps=STEPS, pauses=st.lists(st.floats(0.0, 3.0), min_size=60, max_size=60))
def test_no_key_runs_twice_at_once_and_no_news_is_lost(steps: list[tuple[str, str]], pauses: list[float]) -> None:
    backlog: Backlog[str] = Backlog(PACE)
    now, running, unserved = 0.0, set[str](), set[str]()
    for (step, key), pause in zip(steps, pauses, strict=False):
        now += pause
        if step in ("add", "later"):
            backlog.add(key, now) if step == "add" else backlog.add_at(key, now + 1.0)
            unserved.add(key)
        elif step == "pop" and (found := backlog.pop(now)) is not None:
            assert found[0] not in running
            running.add(found[0])
            unserved.discard(found[0])
        elif step in ("done", "fail") and key in running:
            running.discard(key)
            backlog.finish(key, now, is_failed=step == "fail")
            unserved |= {key} if step == "fail" else set()
        elif step == "forget":
            backlog.forget(key)
            unserved.discard(key)
    for key in running:
        backlog.finish(key, now, is_failed=False)
    served = set()
    while (found := backlog.pop(now + 1000.0)) is not None:
        served.add(found[0])
    assert unserved <= served


@pytest.mark.parametrize("seconds", [0.0, 0.5, 1.0])
def test_spacing_holds_between_two_starts(seconds: float) -> None:
    backlog: Backlog[str] = Backlog(PACE)
    backlog.add("a", 0.0)
    backlog.pop(0.0)
    backlog.finish("a", 0.0, is_failed=False)
    backlog.add("a", seconds)
    assert backlog.next_due() == 1.0
