"""The status of a service: numbers of each pool by revision, start-up phases, conditions, and the printer columns."""

from __future__ import annotations

from typing import Any

from proa_operator.names import Role
from proa_operator.plan import gang
from proa_operator.plan.conditions import conditions_of
from proa_operator.plan.objects import digest
from proa_operator.plan.progress import Progress
from proa_operator.plan.renderer import Objects
from proa_operator.plan.situation import Situation
from proa_operator.plan.standing import Standing
from proa_operator.plan.state import JobState, StartPhase
from proa_operator.plan.verdict import is_on_trial

_KEPT = ("autoscaler",)
"""Written by others; passed through."""
_ORDER = list(StartPhase)


def status_of(situation: Situation, progress: Progress, objects: Objects) -> dict[str, Any]:
    """For the status subresource. Equal situations give equal statuses: it holds no time but those of changes."""
    status: dict[str, Any] = {
        "observedGeneration": situation.observed.generation,
        "revision": situation.target,
        "topology": situation.specs[situation.target].topology.value,
        "rendered": digest(objects),
        "pools": {role.value: _pool(situation, role) for role in Role if _has_pool(situation, role)},
        "revisions": [_revision(situation, name) for name in situation.revisions_with_groups()],
        "starting": [_starting(standing) for standing in situation.standings if _is_starting(standing)],
        "columns": _columns(situation),
        "conditions": conditions_of(situation),
    }
    if is_on_trial(situation):
        status["rollout"] = progress.to_status()
    return status | {name: situation.observed.status[name] for name in _KEPT if name in situation.observed.status}


def _has_pool(situation: Situation, role: Role) -> bool:
    return role in situation.desired or any(standing.group.role is role for standing in situation.standings)


def _pool(situation: Situation, role: Role) -> dict[str, Any]:
    """Sums over all revisions; `replicas` is what /scale reports."""
    counts = _counts([standing for standing in situation.standings if standing.group.role is role])
    return {"desired": situation.desired.get(role, 0), **counts}


def _revision(situation: Situation, name: str) -> dict[str, Any]:
    return {
        "name": name,
        "isTarget": name == situation.target,
        **{role.value: _counts(situation.of(name, role)) for role in Role if situation.of(name, role)},
    }


def _counts(standings: list[Standing]) -> dict[str, int]:
    return {
        "replicas": sum(not standing.is_leaving for standing in standings),
        "ready": sum(standing.is_ready for standing in standings),
        "routable": sum(standing.is_ready and standing.is_routable for standing in standings),
        "draining": sum(standing.group.memo.drain is not None for standing in standings),
    }


def _is_starting(standing: Standing) -> bool:
    return not standing.is_leaving and not standing.is_ready


def _starting(standing: Standing) -> dict[str, Any]:
    """The slowest pod speaks for its group. The fraction in tenths, not to write with every byte."""
    loads = [pod.load for pod in standing.live if pod.load is not None and not pod.is_loaded]
    if any(pod.is_gated for pod in standing.live):
        return {"group": standing.group.name, "phase": "Gated"}
    if not loads:
        return {"group": standing.group.name, "phase": "Probe" if standing.is_up else "Pending"}
    slowest = min(loads, key=lambda load: (_ORDER.index(load.phase), load.fraction))
    percent = 10 * int(10 * slowest.fraction)
    return {"group": standing.group.name, "phase": slowest.phase.value, "percent": percent}


def _columns(situation: Situation) -> dict[str, str]:
    """Text for `kubectl get`: "2/2" routable groups of each pool, and what goes on."""
    columns = {}
    for role in Role:
        if _has_pool(situation, role):
            pool = _pool(situation, role)
            columns[role.value] = f"{pool['routable']}/{pool['desired']}"
    return columns | {"state": _state(situation)}


def _download(job: JobState | None) -> str:
    """In tenths, like the phases of workers."""
    if job is not None and job.failed:
        return "DownloadFailed"
    return f"Download {10 * (10 * job.bytes_done // job.bytes_total)}%" if job and job.bytes_total else "Download"


def _state(situation: Situation) -> str:
    starting = [_starting(standing) for standing in situation.standings if _is_starting(standing)]
    draining = sum(standing.group.memo.drain is not None for standing in situation.standings)
    if situation.refusals:
        return "Refused"
    if not gang.is_model_ready(situation):
        return _download(situation.observed.job)
    if not situation.standings:
        return "Pending" if any(situation.desired.values()) else "Asleep"
    if starting:
        first = starting[0]
        return f"{first['phase']} {first['percent']}%" if "percent" in first else str(first["phase"])
    return f"Draining {draining}" if draining else "Serving"
