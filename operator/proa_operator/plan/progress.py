"""How far a rollout is, and since when it has stood still. Only time without any progress counts against it."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

from proa_operator.plan.situation import Situation
from proa_operator.plan.standing import Standing
from proa_operator.plan.state import StartPhase, WorkerLoad

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
    """0 gated, 5 bound, 10 to 59 for the phase that the worker reports, 60 loaded, 70 proven, 80 routable."""
    if standing.is_routable:
        return 80
    if standing.is_proven:
        return 70
    if standing.is_up:
        return 60
    is_bound = len(standing.live) == standing.group.num_pods and all(pod.node for pod in standing.live)
    loads = [pod.load for pod in standing.live if pod.load is not None and pod.load.phase in _PHASES]
    return min(map(_load_mark, loads), default=5) if is_bound else 0


def _load_mark(load: WorkerLoad) -> int:
    """Tenths of a phase: the status is not to change with each byte."""
    return 10 + 10 * _PHASES.index(load.phase) + min(9, int(10 * load.fraction))


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
