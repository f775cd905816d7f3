"""Steps on their way: what the loop must know of one when it ends."""

from __future__ import annotations

from dataclasses import dataclass

from proa_workers.core.plan import StepOutput, StepPlan
from proa_workers.engine.base import Flight


@dataclass(frozen=True, slots=True, kw_only=True)
class Step:
    """A launched step; `started_at` on the loop's clock, `is_ahead`: before the tokens of the step before were read."""

    flight: Flight
    started_at: float
    is_ahead: bool = False

    @property
    def plan(self) -> StepPlan:
        return self.flight.plan


@dataclass(frozen=True, slots=True, kw_only=True)
class Landed:
    """A step that was computed while it was asked for."""

    plan: StepPlan
    output: StepOutput

    def read(self) -> StepOutput:
        return self.output
