"""How far a rollout is, and since when it has stood still. Only time without any progress counts against it."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

from proa_operator.plan.situation import Situation
from proa_operator.plan.standing import Standing
from proa_operator.plan.state import PodState, StartPhase

_PHASES = (StartPhase.DOWNLOAD, StartPhase.LOAD, StartPhase.COMPILE, StartPhase.GRAPHS, StartPhase.SERVING)


@dataclass(frozen=True, slots=True, kw_only=True)
class Progress:
    """The best that each new group ever reached in this rollout. A crash loop passes no mark twice."""

    key: str
    """Another rollout, or other numbers, start anew."""
    best: Mapping[str, int]
    at: float
    """When a mark last rose."""

    def to_status(self) -> dict[str, Any]:
        """For status.rollout."""
        return {"key": self.key, "best": dict(sorted(self.best.items())), "progressedAt": self.at}


def progress_of(situation: Situation) -> Progress:
    """From the marks in the status and those of now. With an empty status the clock starts again."""
    revision = situation.revision(situation.target)
    sizes = ",".join(f"{role.value}={number}" for role, number in sorted(situation.desired.items()))
    key = f"{situation.target}/{revision.number if revision else 0}/{situation.growing}/{sizes}"
    marks = _marks(situation)
    before = situation.observed.status.get("rollout", {})
    if before.get("key") != key:
        return Progress(key=key, best=marks, at=situation.now)
    best: dict[str, int] = before.get("best", {})
    has_moved = any(mark > best.get(name, -1) for name, mark in marks.items())
    highest = {name: max(mark, best.get(name, mark)) for name, mark in marks.items()}
    at = situation.now if has_moved else float(before["progressedAt"])
    return Progress(key=key, best=highest, at=at)


def mark(standing: Standing) -> int:
    """0 gated, then 10 for each pod's average phase, 60 loaded, 70 proven, 80 routable."""
    if standing.is_routable:
        return 80
    if standing.is_proven:
        return 70
    if standing.is_up:
        return 60
    return min(map(_pod_mark, standing.live), default=0) if len(standing.live) == standing.group.num_pods else 0


def _pod_mark(pod: PodState) -> int:
    """Hundredths of a phase are lost on purpose: the status is not to change with each byte."""
    if pod.is_gated or not pod.node:
        return 0
    if pod.load is None or pod.load.phase not in _PHASES:
        return 5
    return 10 + 10 * _PHASES.index(pod.load.phase) + int(10 * min(1.0, pod.load.fraction)) % 10


def _life(standing: Standing) -> str:
    """A group that has served may load anew after a crash; the crash limit ends a loop of that."""
    memo = standing.group.memo
    if memo.served_at is None:
        return standing.group.name
    crashes = sum(pod.num_restarts for pod in standing.live) + (memo.restart.count if memo.restart else 0)
    return f"{standing.group.name}/{crashes}"


def _marks(situation: Situation) -> dict[str, int]:
    """Of each group that comes up; of the download; and of the old groups, which are to become fewer."""
    marks = {_life(standing): mark(standing) for standing in situation.of(situation.growing)}
    others = sum(standing.group.revision != situation.growing for standing in situation.standings)
    job = situation.observed.job
    percent = 100 * job.bytes_done // job.bytes_total if job is not None and job.bytes_total else 0
    return marks | {"old groups": -others, "model": percent}
