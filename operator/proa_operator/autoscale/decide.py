"""One decision of one service: signals, memory and settings in; targets, memory and a record out."""

from __future__ import annotations

from dataclasses import dataclass, replace
from typing import Any

from proa_operator.autoscale.act import Reason, Targets, act
from proa_operator.autoscale.codec import to_json
from proa_operator.autoscale.config import Config
from proa_operator.autoscale.demand import Demand, normalised
from proa_operator.autoscale.memory import Memory, Wish, remembered
from proa_operator.autoscale.models import GroupModel, prior, update
from proa_operator.autoscale.outlook import outlook_of
from proa_operator.autoscale.signals import Signals
from proa_operator.autoscale.solve import Prediction, predict, solve

RECORD_VERSION = 4


@dataclass(frozen=True, slots=True, kw_only=True)
class Outcome:
    """What a record says besides its inputs; None for what missing signals leave open."""

    targets: Targets
    reason: Reason
    demand_per_second: float | None
    recommended: Targets
    """Groups for the present demand, without windows and pauses."""
    binding: str | None
    predicted: Prediction
    """With the present groups."""
    model: GroupModel


@dataclass(frozen=True, slots=True, kw_only=True)
class Decision:
    """`record` is plain JSON with all inputs."""

    targets: Targets
    memory: Memory
    outcome: Outcome
    record: dict[str, Any]


def decide(signals: Signals, memory: Memory, config: Config) -> Decision:
    """Pure and exact: equal arguments give an equal record. Missing signals hold everything as it is."""
    before = memory
    model = memory.model or prior(config)
    if signals.is_fresh:
        outcome, memory = _fresh(signals, memory, model, config)
    else:
        outcome, memory = _blind(signals, memory, model, config)
    record = {
        "version": RECORD_VERSION,
        "signals": to_json(signals),
        "memory": to_json(before),
        "config": to_json(config),
        "outcome": to_json(outcome),
        "after": to_json(memory),
    }
    return Decision(targets=outcome.targets, memory=memory, outcome=outcome, record=record)


def _fresh(signals: Signals, memory: Memory, model: GroupModel, config: Config) -> tuple[Outcome, Memory]:
    lengths = normalised(signals.histogram or memory.lengths)
    outlook = outlook_of(memory.rates, signals, lengths, config)
    model = update(model, signals, outlook.demand, config)
    solution = solve(_awake(outlook.demand, signals), model, config, signals)
    is_more = solution.prefill > signals.prefill.desired or solution.decode > signals.decode.desired
    sure = solve(_awake(outlook.surely, signals), model, config, signals) if is_more else solution
    roomy = solve(_awake(outlook.lasting, signals), model, config, signals)
    wish = Wish(
        at=signals.now,
        prefill=solution.prefill,
        decode=solution.decode,
        sure_prefill=min(sure.prefill, solution.prefill),
        sure_decode=min(sure.decode, solution.decode),
        roomy_prefill=roomy.prefill,
        roomy_decode=roomy.decode,
    )
    memory = replace(
        memory,
        since=signals.now if memory.since is None else memory.since,
        wishes=remembered(memory.wishes, wish, config.policy),
        rates=outlook.samples,
        lengths=lengths if signals.histogram else memory.lengths,
        model=model,
    )
    targets, memory, reason = act(memory, signals, config)
    outcome = Outcome(
        targets=targets,
        reason=reason,
        demand_per_second=outlook.demand.requests_per_second,
        recommended=Targets(prefill=solution.prefill, decode=solution.decode),
        binding=solution.binding,
        predicted=predict(outlook.demand, model, config, signals.prefill.ready, signals.decode.ready),
        model=model,
    )
    return outcome, memory


def _blind(signals: Signals, memory: Memory, model: GroupModel, config: Config) -> tuple[Outcome, Memory]:
    """Nothing is concluded from what is not known. The windows start anew when signals are back."""
    memory = replace(memory, since=None, wishes=(), rates=())
    targets, memory, reason = act(memory, signals, config)
    outcome = Outcome(
        targets=targets,
        reason=reason,
        demand_per_second=None,
        recommended=targets,
        binding=None,
        predicted=Prediction(ttft_seconds=None, itl_seconds=None),
        model=model,
    )
    return outcome, memory


def _awake(demand: Demand, signals: Signals) -> Demand:
    """Requests that still run keep a service from sleeping, although no new ones come."""
    is_busy = any(pool.running > 0.0 or pool.waiting > 0.0 for pool in (signals.prefill, signals.decode))
    return replace(demand, requests_per_second=max(demand.requests_per_second, 1e-9)) if is_busy else demand
