"""When a rollout has failed: it stands still, its groups crash, or its numbers are worse than the old ones."""

from __future__ import annotations

from proa_operator.api.rollout import OnFailure
from proa_operator.plan.actions import EventType, MarkFailed, Note
from proa_operator.plan.analysis import analysis, is_watched
from proa_operator.plan.memo import Why
from proa_operator.plan.progress import Progress
from proa_operator.plan.situation import Situation, rollback_target
from proa_operator.plan.state import Revision
from proa_operator.plan.step import Steps, Wake


def verdict(situation: Situation, progress: Progress) -> Steps:
    """Give the asked revision up, or say when to look again. A first install has no way back and is never given up."""
    back = rollback_target(situation.observed, situation.asked)
    if back is None:
        return
    if is_on_trial(situation):
        deadline = progress.at + situation.spec.rollout.no_progress_seconds
        reason = _crashes(situation) or analysis(situation) or _standstill(situation, deadline)
        if not reason and deadline > situation.now:
            yield Wake(at=deadline)
    else:
        reason = analysis(situation) if is_watched(situation) else ""
    if reason:
        yield from _give_up(situation, back, reason)


def _give_up(situation: Situation, back: Revision, reason: str) -> Steps:
    yield MarkFailed(revision=situation.asked, reason=reason)
    if situation.spec.rollout.on_failure is OnFailure.ROLLBACK:
        text = f"revision {situation.asked} failed, going back to {back.name}: {reason}"
        yield Note(type=EventType.WARNING, reason="RolledBack", message=text)
    else:
        text = f"revision {situation.asked} failed and stays as it is (rollout.onFailure is Pause): {reason}"
        yield Note(type=EventType.WARNING, reason="RolloutPaused", message=text)


def is_on_trial(situation: Situation) -> bool:
    """The asked revision is being rolled out and has not yet served with all its groups."""
    asked = situation.revision(situation.asked)
    if asked is None or situation.target != situation.asked or asked.failed or situation.refusals:
        return False
    return asked.available_at is None or asked.available_at < asked.started_at


def _crashes(situation: Situation) -> str:
    limit = situation.settings.crash_limit
    for standing in situation.of(situation.asked):
        again = standing.group.memo.restart
        own = again.count if again is not None and again.why is not Why.UNSCHEDULABLE else 0
        worst = max([own, *(pod.num_restarts for pod in standing.live)])
        if worst >= limit:
            return f"group {standing.group.name} crashed {worst} times"
    return ""


def _standstill(situation: Situation, deadline: float) -> str:
    """A drain under way is progress that no mark shows."""
    is_waiting_for_drain = any(standing.group.memo.drain is not None for standing in situation.standings)
    if situation.now < deadline or is_waiting_for_drain:
        return ""
    return f"no progress for {situation.spec.rollout.no_progress_seconds} s: {_slowest(situation)}"


def _slowest(situation: Situation) -> str:
    """The first cause that can be named."""
    for standing in situation.of(situation.asked):
        for pod in standing.live:
            if pod.waiting_reason:
                return f"pod {pod.name} waits: {pod.waiting_reason} {pod.waiting_message}".rstrip()
            if pod.unschedulable_since is not None and not pod.node:
                return f"pod {pod.name} finds no node"
        if any(pod.is_gated for pod in standing.live):
            return f"group {standing.group.name} waits for free nodes"
        if not standing.is_up:
            return f"group {standing.group.name} does not become ready; see the logs of its pods"
        if not standing.is_proven:
            return f"the probe transfer of group {standing.group.name} does not pass"
    return "no group of it exists"
