"""Scores, windows that are not judged, and the bounds of the suite: each with a fault that breaks it."""

from __future__ import annotations

from dataclasses import replace

import numpy as np
import pytest
from proa_operator.simulate.bounds import failures_of
from proa_operator.simulate.experiment import prepared
from proa_operator.simulate.policies.policy import Slo, Targets
from proa_operator.simulate.scenario import Scenario
from proa_operator.simulate.score import Score, reversals, score_of
from proa_operator.simulate.suite import Row
from proa_operator.simulate.traffic import Fault, Outcome
from proa_operator.simulate.windows import Windows, is_judged

from tests.unit.simulate_fakes import COST, LIMITS, traffic

GOOD = Score(attainment=0.99, attainment_of_all=0.9, gpu_hours=10.0, reversals_per_hour=1.0)
CHEAP_BUT_BAD = replace(GOOD, attainment=0.7, gpu_hours=8.0)


def row(scenario: str, policy: str, score: Score, cost_ratio: float) -> Row:
    return Row(scenario=scenario, policy=policy, score=score, cost_ratio=cost_ratio)


def suite(mine: Score = GOOD, cost_ratio: float = 1.1, rival: Score = CHEAP_BUT_BAD) -> list[Row]:
    return [
        row("one", "oracle", replace(GOOD, gpu_hours=9.0), 1.0),
        row("one", "Proa", mine, cost_ratio),
        row("one", "rival", rival, 1.0),
    ]


def test_a_good_suite_keeps_all_bounds() -> None:
    assert failures_of(suite()) == []


@pytest.mark.parametrize(
    ("rows", "text"),
    [
        (suite(replace(GOOD, attainment=0.949)), "one: SLO attainment 94.9% is below 95%"),
        (suite(replace(GOOD, reversals_per_hour=2.5)), "one: 2.5 reversals an hour"),
        (suite(cost_ratio=1.2), "GPU hours are 1.20 x the oracle's in the median"),
        (suite(cost_ratio=1.4), "one: GPU hours are 1.40 x the oracle's"),
        (suite(rival=replace(GOOD, gpu_hours=9.9)), "rival dominates: attainment 99.0% with 9.9 GPU hours"),
    ],
)
def test_each_bound_is_checked(rows: list[Row], text: str) -> None:
    assert any(line.startswith(text) for line in failures_of(rows))


@pytest.mark.parametrize(
    ("targets", "expected"),
    [([1, 2, 3, 3], 0), ([1, 2, 1], 1), ([1, 3, 3, 2, 2, 4], 2), ([5], 0), ([], 0)],
)
def test_reversals_are_changes_of_direction(targets: list[int], expected: int) -> None:
    assert reversals(targets) == expected


def scenario(rates: list[float], *, faults: tuple[Fault, ...] = ()) -> Scenario:
    """Ten minutes at each rate, evenly spaced; a prompt is 1 s of work for a group, an answer almost none."""
    times = np.concatenate([600 * part + np.arange(0, 600, 1 / rate) for part, rate in enumerate(rates)])
    requests = traffic(times.tolist(), [1000] * len(times), [2] * len(times))
    return Scenario(
        name="steps",
        traffic=requests,
        cost=COST,
        slo=Slo(ttft_seconds=2.0, itl_seconds=0.1),
        limits=LIMITS,
        end_seconds=600.0 * len(rates),
        fabric_bytes_per_second=1e12,
        faults=faults,
    )


def spans(windows: Windows) -> tuple[float, float]:
    """Seconds of each kind."""
    return float(windows.startup.sum()) * 5, float(windows.over_capacity.sum()) * 5


def test_steady_traffic_is_judged_throughout() -> None:
    assert spans(prepared(scenario([3.0, 3.0])).windows) == (0.0, 0.0)


def test_a_step_opens_a_window_of_about_reaction_and_start() -> None:
    startup, over = spans(prepared(scenario([1.0, 5.0])).windows)
    assert over == 0
    assert 105 + 30 <= startup <= 400


def test_traffic_beyond_the_largest_pools_is_over_capacity_until_the_backlog_is_gone() -> None:
    startup, over = spans(prepared(scenario([1.0, 16.0, 1.0, 1.0, 1.0])).windows)
    assert over > 900
    assert startup < 300


def test_a_lost_group_opens_a_window() -> None:
    broken = prepared(scenario([3.0], faults=(Fault(at_seconds=300.0, lost_decode=1),)))
    assert spans(broken.windows)[0] > 100


def test_requests_that_touch_a_window_are_not_judged_and_unanswered_ones_miss() -> None:
    plain = replace(scenario([1.0]), traffic=traffic([0.0, 50.0, 97.0], [1] * 3, [2] * 3), end_seconds=150.0)
    startup = np.zeros(30, dtype=np.bool_)
    startup[10] = True  # from 50 s to 55 s
    windows = Windows(startup=startup, over_capacity=np.zeros(30, dtype=np.bool_))
    assert is_judged(plain, startup).tolist() == [True, False, True]
    outcome = Outcome(
        first_token_seconds=[1.0, 9.0, float("nan")],
        token_gap_seconds=[0.01, 0.01, float("nan")],
        targets=[(0.0, 1, 1)],
    )
    score = score_of(plain, outcome, windows)
    assert (score.attainment, score.attainment_of_all) == (0.5, pytest.approx(1 / 3))


def nothing_left_out(num_parts: int) -> Windows:
    none = np.zeros(120 * num_parts, dtype=np.bool_)
    return Windows(startup=none, over_capacity=none)


def test_turns_of_a_short_run_are_those_of_an_hour() -> None:
    turns = [(0.0, 1, 1), (100.0, 2, 1), (200.0, 1, 1), (300.0, 2, 1)]
    found = []
    for num_parts in (2, 12):  # 20 minutes and two hours
        run = scenario([0.01] * num_parts)
        count = len(run.traffic)
        outcome = Outcome(first_token_seconds=[1.0] * count, token_gap_seconds=[0.01] * count, targets=turns)
        found.append(score_of(run, outcome, nothing_left_out(num_parts)).reversals_per_hour)
    assert found == [2.0, 1.0]


def test_the_oracle_holds_the_slo_with_fewer_gpus_than_full_pools() -> None:
    experiment = prepared(scenario([1.0, 4.0, 1.0]))
    _, score = experiment.run(experiment.oracle())
    assert experiment.start == Targets(prefill=2, decode=1)
    assert score.attainment_of_all >= 0.95
    assert score.gpu_hours < 0.6 * 0.5 * 16 * COST.gpus_per_group
