"""A scenario made ready: warm start, windows that are not judged, and the oracle's bound; then any autoscaler on it."""

from __future__ import annotations

from dataclasses import dataclass
from math import ceil

from proa_operator.simulate.need import BIN_SECONDS, Need, need_of
from proa_operator.simulate.policies.oracle import Oracle, best_plan
from proa_operator.simulate.policies.policy import Policy, Targets
from proa_operator.simulate.run import Setting, simulate
from proa_operator.simulate.scenario import Scenario
from proa_operator.simulate.score import Score, is_good, score_of, share
from proa_operator.simulate.traffic import Outcome
from proa_operator.simulate.windows import TARGET_LOAD, Windows, is_judged, windows_of

WARM_SECONDS = 300.0  # the pools start with the size that the first minutes need
ENOUGH = 0.95  # attainment that the oracle has to reach


@dataclass(frozen=True, slots=True, kw_only=True)
class Experiment:
    """What all autoscalers share in one scenario."""

    scenario: Scenario
    need: Need
    start: Targets
    windows: Windows

    def run(self, policy: Policy) -> tuple[Outcome, Score]:
        outcome = simulate(self.setting, policy)
        return outcome, score_of(self.scenario, outcome, self.windows)

    @property
    def setting(self) -> Setting:
        scenario = self.scenario
        return Setting(
            traffic=scenario.traffic,
            cost=scenario.cost,
            limits=scenario.limits,
            start=self.start,
            end_seconds=scenario.end_seconds,
            fabric_bytes_per_second=scenario.fabric_bytes_per_second,
            best_batch=scenario.best_batch,
            faults=scenario.faults,
        )

    def oracle(self) -> Oracle:
        """Cheapest plan that holds the SLO wherever capacity allows it, start-up windows included."""
        judged = is_judged(self.scenario, self.windows.over_capacity)

        def is_enough(oracle: Oracle) -> bool:
            return share(is_good(self.scenario, simulate(self.setting, oracle)), judged) >= ENOUGH

        return best_plan(self.need, self.scenario.cost.startup_seconds, self.scenario.limits, is_enough)


def prepared(scenario: Scenario) -> Experiment:
    """The scenario with what it needs over time, and the groups that every policy starts with."""
    need = need_of(scenario)
    num_bins = round(WARM_SECONDS / BIN_SECONDS)
    start = scenario.limits.clip(
        Targets(
            prefill=ceil(float(need.prefill[:num_bins].mean()) / TARGET_LOAD),
            decode=ceil(float(need.decode[:num_bins].mean()) / TARGET_LOAD),
        )
    )
    return Experiment(scenario=scenario, need=need, start=start, windows=windows_of(scenario, need, start))
