"""The planner: from one observation of a service to ordered actions and its status.

It is level-triggered. Whatever happened before, a plan starts from what is there: pods, memos on the StatefulSets,
marks on the ControllerRevisions, and the status, which may be lost. Applying the actions of a plan and planning again
ends in an empty plan when the world stands still.
"""

from __future__ import annotations

from collections.abc import Iterable

from proa_operator.plan import drain, gang, health, objects, revisions, rollout, routing
from proa_operator.plan.actions import Action, Delete, MarkFailed, Plan, Remember, Route
from proa_operator.plan.progress import progress_of
from proa_operator.plan.renderer import Renderer
from proa_operator.plan.settings import PlanSettings
from proa_operator.plan.situation import Situation, situation_of
from proa_operator.plan.state import Observed
from proa_operator.plan.status import status_of
from proa_operator.plan.step import Wake
from proa_operator.plan.verdict import verdict


def plan(observed: Observed, settings: PlanSettings, renderer: Renderer) -> Plan:
    """What to do now. Pure: the same observation gives the same plan."""
    situation = situation_of(observed, settings, renderer)
    progress = progress_of(situation)
    children = () if _is_blocked(situation) else objects.rendered(situation)
    steps: list[Action | Wake] = list(objects.sweep(situation, children))  # before anything of the same name is made
    if not _is_blocked(situation):
        steps += revisions.start(situation)
        steps += objects.keep(situation, children)
    judged = list(verdict(situation, progress))
    restarted = list(health.restarts(situation))
    routed = list(routing.routes(situation))
    is_calm = not (situation.is_frozen or _has(judged, MarkFailed) or _has(restarted, Remember))
    # A drain counts on what is routable, so it waits for a plan that changes nothing there.
    shrunk = list(rollout.shrink(situation)) if is_calm and not _has(routed, Route) else []
    steps += [*judged, *restarted]
    steps += gang.gates(situation, going={step.name for step in shrunk if isinstance(step, Delete)})
    steps += [*routing.probes(situation), *routed, *drain.advance(situation)]
    steps += rollout.grow(situation) if is_calm else ()
    steps += shrunk
    steps += revisions.complete(situation)
    steps += revisions.prune(situation)
    return Plan(
        actions=tuple(step for step in steps if not isinstance(step, Wake)),
        status=status_of(situation, progress, children),
        wake_at=min((step.at for step in steps if isinstance(step, Wake)), default=None),
    )


def _is_blocked(situation: Situation) -> bool:
    """The spec cannot be rendered and there is no older revision to serve with."""
    return bool(situation.refusals) and situation.target == situation.asked


def _has(steps: Iterable[Action | Wake], kind: type) -> bool:
    return any(isinstance(step, kind) for step in steps)
