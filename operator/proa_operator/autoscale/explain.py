"""A decision in one line."""

from __future__ import annotations

from proa_operator.autoscale.decide import Decision
from proa_operator.autoscale.signals import Signals


def describe(signals: Signals, decision: Decision) -> str:
    """What and why."""
    outcome, targets = decision.outcome, decision.targets
    present = signals.prefill.desired, signals.decode.desired
    sizes = f"prefill {present[0]} -> {targets.prefill}, decode {present[1]} -> {targets.decode}"
    if signals.missing:
        return f"holds {sizes}, for it does not see: {signals.missing[0]}"
    demand = f"{signals.arrivals_per_second:.2f} requests/s, {signals.backlog_tokens:.0f} tokens wait"
    bound = f", kept by {outcome.binding}" if outcome.binding else ""
    return f"{sizes} ({outcome.reason.value}): {demand}{bound}"
