"""What a step of the planner yields: actions in order, and times at which to look again."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass

from proa_operator.plan.actions import Action


@dataclass(frozen=True, slots=True, kw_only=True)
class Wake:
    """At this time the plan changes, even if nothing else happens."""

    at: float


Steps = Iterator[Action | Wake]
