"""What a turn from growing to shrinking costs, and what it saves."""

from __future__ import annotations

import numpy as np
import pytest
from proa_operator.autoscale.course import Course, may_shrink, moved, weighed
from proa_operator.simulate.score import reversals

from tests.unit.autoscale_cases import PERIOD, config, run, sizes

WINDOW = 300.0


def seconds_until_shrink(present: int, needed: int, course: Course, now: float = 0.0) -> float:
    for tick in range(2000):
        if may_shrink(course, now + tick * PERIOD, WINDOW):
            return tick * PERIOD
        course = weighed(course, present, needed, PERIOD)
    return float("inf")


@pytest.mark.parametrize(
    ("present", "needed", "at_least", "at_most"),
    [
        (12, 3, 0.0, 90.0),  # a fall of the load
        (4, 3, 420.0, 540.0),
        (12, 11, 1300.0, 1600.0),  # noise would ask for it again
        (4, 4, float("inf"), float("inf")),
    ],
)
def test_the_more_is_idle_the_sooner_a_pool_turns(present: int, needed: int, at_least: float, at_most: float) -> None:
    assert at_least <= seconds_until_shrink(present, needed, Course()) <= at_most


def test_a_moment_of_need_takes_all_evidence_back() -> None:
    course = weighed(Course(), 4, 1, 1000.0)
    assert may_shrink(course, 0.0, WINDOW)
    assert not may_shrink(weighed(course, 4, 4, PERIOD), 0.0, WINDOW)


def test_going_on_is_free_and_turns_get_dearer() -> None:
    course = moved(Course(weight=300.0), -1, 0.0, WINDOW)
    assert course == Course(is_shrinking=True, turned_at=(0.0,))
    assert may_shrink(course, 15.0, WINDOW)
    again = moved(moved(course, -1, 15.0, WINDOW), 2, 30.0, WINDOW)
    assert again == Course(turned_at=(0.0, 30.0))
    assert seconds_until_shrink(8, 4, again) > 10 * seconds_until_shrink(8, 4, Course())
    assert seconds_until_shrink(8, 4, again, now=12.1 * WINDOW) == seconds_until_shrink(8, 4, Course())
    assert moved(again, 0, 45.0, WINDOW) == again


@pytest.mark.parametrize("rate", [4.4])
def test_noise_of_the_load_turns_no_pool(rate: float) -> None:
    """Four hours of Poisson arrivals at a rate where the need lies between two numbers of groups."""
    counts = np.random.default_rng(5).poisson(rate * PERIOD, 960) / PERIOD
    rates = np.convolve(counts, np.ones(4) / 4, mode="valid")
    seen = sizes(run(rates.tolist(), config(), start=(2, 2)))
    for pool in (0, 1):
        assert reversals([size[pool] for size in seen]) <= 2
