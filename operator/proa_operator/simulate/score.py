"""What a run is worth: SLO attainment, GPU hours, reversals."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np

from proa_operator.simulate.scenario import Scenario
from proa_operator.simulate.traffic import Outcome
from proa_operator.simulate.windows import Mask, Windows, is_judged


@dataclass(frozen=True, slots=True, kw_only=True)
class Score:
    """Of one autoscaler in one scenario. Attainments are shares, 0..1."""

    attainment: float
    """Requests within both objectives, of those outside start-up windows and intervals over capacity."""
    attainment_of_all: float
    """The same, of all requests."""
    gpu_hours: float
    reversals_per_hour: float
    """Times that a pool's target turned from growing to shrinking or back; the worse pool.

    Those of a run that is shorter than an hour are taken as all of its hour: nothing says that more would follow.
    """


def score_of(scenario: Scenario, outcome: Outcome, windows: Windows) -> Score:
    """Unanswered requests count as missed."""
    good = is_good(scenario, outcome)
    judged = is_judged(scenario, windows.startup | windows.over_capacity)
    hours = scenario.end_seconds / 3600
    series = ([target[1] for target in outcome.targets], [target[2] for target in outcome.targets])
    return Score(
        attainment=share(good, judged),
        attainment_of_all=float(good.mean()),
        gpu_hours=outcome.gpu_seconds / 3600,
        reversals_per_hour=max(map(reversals, series)) / max(1.0, hours),
    )


def is_good(scenario: Scenario, outcome: Outcome) -> Mask:
    """Requests, [R], that met both objectives."""
    ttft = np.asarray(outcome.first_token_seconds)
    gap = np.asarray(outcome.token_gap_seconds)
    good: Mask = (ttft <= scenario.slo.ttft_seconds) & (gap <= scenario.slo.itl_seconds)
    return good


def share(good: Mask, judged: Mask) -> float:
    """Of the judged requests; 1 when there are none."""
    return float(good[judged].mean()) if judged.any() else 1.0


def reversals(targets: Sequence[int]) -> int:
    """Changes of direction in a series of targets."""
    steps = np.sign(np.diff(targets))
    moves = steps[steps != 0]
    return int((moves[1:] != moves[:-1]).sum())
