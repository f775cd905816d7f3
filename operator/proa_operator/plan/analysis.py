"""`rollout.analysis`: are the numbers of the new revision bad, or worse than the old one's?"""

from __future__ import annotations

from collections.abc import Iterable
from decimal import Decimal

from proa_operator.plan.situation import Situation
from proa_operator.plan.standing import Standing
from proa_operator.plan.state import WorkerLoad
from proa_operator.plan.topology import replicas_of


def analysis(situation: Situation) -> str:
    """What is wrong with the asked revision, once enough requests have ended there; empty if nothing is."""
    new = [standing for standing in situation.of(situation.asked) if standing.is_routable]
    return _error_rate(situation, _loads(new)) or _ttft(situation, new)


def is_watched(situation: Situation) -> bool:
    """It serves with all its groups, and not for long: a small service learns its numbers only then."""
    asked = situation.revision(situation.asked)
    if asked is None or situation.target != situation.asked or asked.failed or situation.refusals:
        return False
    return (
        asked.available_at is not None
        and situation.now < asked.available_at + situation.spec.rollout.no_progress_seconds
    )


def _error_rate(situation: Situation, loads: list[WorkerLoad]) -> str:
    finished = sum(load.finished_total for load in loads)
    if finished < situation.settings.analysis_requests:
        return ""
    rate = Decimal(sum(load.failed_total for load in loads)) / finished
    limit = situation.spec.rollout.analysis.max_error_rate
    if rate <= Decimal(limit):
        return ""
    return f"{rate:.1%} of its requests failed, more than rollout.analysis.maxErrorRate {limit}"


def _ttft(situation: Situation, new: list[Standing]) -> str:
    old = [standing for standing in situation.standings if standing.group.revision != situation.asked]
    before, after = _mean_ttft(situation, old), _mean_ttft(situation, new)
    limit = situation.spec.rollout.analysis.max_ttft_ratio
    if not before or after / before <= float(limit):
        return ""
    return (
        f"its TTFT of {1000 * after:.0f} ms is {after / before:.2f} times the old revision's, "
        f"more than rollout.analysis.maxTTFTRatio {limit}"
    )


def _loads(standings: Iterable[Standing]) -> list[WorkerLoad]:
    leaders = (standing.leader for standing in standings)
    return [leader.load for leader in leaders if leader is not None and leader.load is not None]


def _mean_ttft(situation: Situation, standings: list[Standing]) -> float:
    """Seconds to the hand-off plus seconds from there to the first token; 0 while a role tells too little."""
    total, revisions = 0.0, {standing.group.revision for standing in standings}
    for role in {role for revision in revisions for role in replicas_of(situation.specs[revision])}:
        loads = _loads(standing for standing in standings if standing.group.role is role)
        count = sum(load.ttft_count for load in loads)
        if count < situation.settings.analysis_requests:
            return 0.0
        total += sum(load.ttft_seconds * load.ttft_count for load in loads) / count
    return total
