"""What Proa has to keep over the suite; `failures_of` gives one line for each bound that broke."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from statistics import fmean, median

from proa_operator.simulate.suite import ORACLE, PROA, Row

LEAST_ATTAINMENT = 0.95
MEDIAN_COST, WORST_COST = 1.15, 1.3
MOST_REVERSALS_PER_HOUR = 2.0


@dataclass(frozen=True, slots=True, kw_only=True)
class Summary:
    """One autoscaler over all scenarios."""

    policy: str
    mean_attainment: float
    least_attainment: float
    gpu_hours: float
    median_cost: float
    """GPU hours over the oracle's."""
    worst_cost: float
    most_reversals_per_hour: float


def summaries(rows: Sequence[Row]) -> list[Summary]:
    """In the order in which the autoscalers appear."""
    names = dict.fromkeys(row.policy for row in rows)
    return [_summary(name, [row for row in rows if row.policy == name]) for name in names]


def _summary(name: str, rows: Sequence[Row]) -> Summary:
    return Summary(
        policy=name,
        mean_attainment=fmean(row.score.attainment for row in rows),
        least_attainment=min(row.score.attainment for row in rows),
        gpu_hours=sum(row.score.gpu_hours for row in rows),
        median_cost=median(row.cost_ratio for row in rows),
        worst_cost=max(row.cost_ratio for row in rows),
        most_reversals_per_hour=max(row.score.reversals_per_hour for row in rows),
    )


def failures_of(rows: Sequence[Row]) -> list[str]:
    """Empty when all bounds hold."""
    mine = [row for row in rows if row.policy == PROA]
    found = [
        *(
            f"{row.scenario}: SLO attainment {row.score.attainment:.1%} is below {LEAST_ATTAINMENT:.0%}"
            for row in mine
            if row.score.attainment < LEAST_ATTAINMENT
        ),
        *(
            f"{row.scenario}: {row.score.reversals_per_hour:.1f} reversals an hour, at most"
            f" {MOST_REVERSALS_PER_HOUR:.0f} are allowed"
            for row in mine
            if row.score.reversals_per_hour > MOST_REVERSALS_PER_HOUR
        ),
    ]
    return found + _cost_failures(mine) + _dominators(rows)


def _cost_failures(mine: Sequence[Row]) -> list[str]:
    found = []
    middle = median(row.cost_ratio for row in mine)
    worst = max(mine, key=lambda row: row.cost_ratio)
    if middle > MEDIAN_COST:
        found.append(f"GPU hours are {middle:.2f} x the oracle's in the median, at most {MEDIAN_COST} x are allowed")
    if worst.cost_ratio > WORST_COST:
        found.append(
            f"{worst.scenario}: GPU hours are {worst.cost_ratio:.2f} x the oracle's, at most {WORST_COST} x are allowed"
        )
    return found


def _dominators(rows: Sequence[Row]) -> list[str]:
    """Baselines that attain at least as much with at most as many GPU hours, over the suite."""
    all_of = {summary.policy: summary for summary in summaries(rows)}
    mine = all_of[PROA]
    return [
        f"{other.policy} dominates: attainment {other.mean_attainment:.1%} with {other.gpu_hours:.1f} GPU hours,"
        f" against {mine.mean_attainment:.1%} with {mine.gpu_hours:.1f}"
        for name, other in all_of.items()
        if name not in (PROA, ORACLE)
        and other.mean_attainment >= mine.mean_attainment
        and other.gpu_hours <= mine.gpu_hours
    ]
