"""When a rollout has failed: it stands still, its groups crash, or its numbers are worse than the old ones."""

from __future__ import annotations

from collections.abc import Iterable
from decimal import Decimal

from proa_operator.api.rollout import OnFailure
from proa_operator.plan.actions import EventType, MarkFailed, Note
from proa_operator.plan.memo import Why
from proa_operator.plan.progress import Progress
from proa_operator.plan.situation import Situation, rollback_target
from proa_operator.plan.standing import Standing
from proa_operator.plan.state import WorkerLoad
from proa_operator.plan.step import Steps, Wake


def verdict(situation: Situation, progress: Progress) -> Steps:
    """Give the asked revision up, or say when to look again. A first install has no way back and is never given up."""
    back = rollback_target(situation.observed, situation.asked)
    if not is_on_trial(situation) or back is None:
        return
    deadline = progress.at + situation.spec.rollout.no_progress_seconds
    is_waiting_for_drain = any(standing.group.memo.drain is not None for standing in situation.standings)
    reason = _crashes(situation) or _analysis(situation)
    if not reason and situation.now >= deadline and not is_waiting_for_drain:
        reason = f"no progress for {situation.spec.rollout.no_progress_seconds} s: {_slowest(situation)}"
    if not reason:
        if deadline > situation.now:
            yield Wake(at=deadline)
        return
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


def _analysis(situation: Situation) -> str:
    """Error rate and TTFT of the new revision, once enough requests have ended there."""
    new = _loads(situation.of(situation.asked))
    finished = sum(load.finished_total or 0 for load in new)
    if finished < situation.settings.analysis_requests:
        return ""
    limits = situation.spec.rollout.analysis
    rate = sum(load.errors_total for load in new if load.finished_total) / finished
    if rate > Decimal(limits.max_error_rate):
        return f"{rate:.1%} of its requests failed, more than rollout.analysis.maxErrorRate {limits.max_error_rate}"
    old = _loads(standing for standing in situation.standings if standing.group.revision != situation.asked)
    before, after = _mean_ttft(old), _mean_ttft(new)
    if before and after and after / before > float(limits.max_ttft_ratio):
        return (
            f"its TTFT of {1000 * after:.0f} ms is {after / before:.2f} times the old revision's, "
            f"more than rollout.analysis.maxTTFTRatio {limits.max_ttft_ratio}"
        )
    return ""


def _loads(standings: Iterable[Standing]) -> list[WorkerLoad]:
    leaders = (standing.leader for standing in standings if standing.is_routable)
    return [leader.load for leader in leaders if leader is not None and leader.load is not None]


def _mean_ttft(loads: list[WorkerLoad]) -> float:
    """Seconds; 0 when nobody reports it."""
    known = [load.ttft_seconds for load in loads if load.ttft_seconds is not None]
    return sum(known) / len(known) if known else 0.0


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
