"""Every autoscaler in every scenario, and the bounds that Proa has to keep."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass

from proa_operator.simulate.experiment import Experiment, prepared
from proa_operator.simulate.policies.dynamo import DynamoClassic, DynamoLoad
from proa_operator.simulate.policies.hpa import Hpa, KedaSlo
from proa_operator.simulate.policies.knative import Apa, Kpa
from proa_operator.simulate.policies.policy import Policy
from proa_operator.simulate.policies.proa import Proa
from proa_operator.simulate.policies.wva import WvaSaturation, WvaTokens
from proa_operator.simulate.scenario import Scenario
from proa_operator.simulate.score import Score
from proa_operator.simulate.traffic import Outcome

ORACLE, PROA = "oracle", "Proa"


@dataclass(frozen=True, slots=True, kw_only=True)
class Row:
    """One autoscaler in one scenario."""

    scenario: str
    policy: str
    score: Score
    cost_ratio: float
    """GPU hours over the oracle's."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Trial:
    """One scenario with all its rows; the outcomes are kept for pictures."""

    experiment: Experiment
    rows: tuple[Row, ...]
    outcomes: dict[str, Outcome]


def policies_for(scenario: Scenario) -> tuple[Policy, ...]:
    """Proa first, then the published rivals, each with the settings its project gives."""
    cost, slo, batch = scenario.cost, scenario.slo, scenario.best_batch
    return (
        Proa(cost, slo, scenario.limits),
        Hpa(),
        KedaSlo(slo),
        DynamoClassic(cost, slo),
        DynamoLoad(cost, slo),
        WvaSaturation(),
        WvaTokens(cost),
        Kpa(batch, is_mean=False),
        Kpa(batch, is_mean=True),
        Apa(batch),
    )


def trial(scenario: Scenario, policies: Callable[[Scenario], Sequence[Policy]] = policies_for) -> Trial:
    """The oracle and all `policies` in one scenario."""
    experiment = prepared(scenario)
    runs = [(policy.name, *experiment.run(policy)) for policy in (experiment.oracle(), *policies(scenario))]
    bound = runs[0][2].gpu_hours
    rows = tuple(
        Row(scenario=scenario.name, policy=name, score=score, cost_ratio=score.gpu_hours / bound)
        for name, _, score in runs
    )
    return Trial(experiment=experiment, rows=rows, outcomes={name: outcome for name, outcome, _ in runs})
