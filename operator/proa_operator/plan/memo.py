"""What the operator has to remember about one group: JSON in an annotation of its StatefulSet, read after a restart."""

from __future__ import annotations

import json
from dataclasses import dataclass
from enum import StrEnum
from typing import Any


class DrainPhase(StrEnum):
    """A group leaves in this order; deletion follows."""

    CORDONED = "Cordoned"  # out of the gateway; its worker still takes what is on the way
    DRAINING = "Draining"  # its worker takes nothing new


class Why(StrEnum):
    """Why a group is drained or restarted: reason of the Event."""

    SCALE_IN = "ScaleIn"
    ROLLOUT = "Rollout"
    ROLLBACK = "Rollback"
    NODE = "NodeUnhealthy"
    REQUESTED = "DrainRequested"
    POD_LOST = "PodLost"
    STALLED = "Stalled"
    UNSCHEDULABLE = "Unschedulable"


@dataclass(frozen=True, slots=True, kw_only=True)
class Drain:
    """How far a group is on its way out."""

    phase: DrainPhase
    since: float
    """When it was cordoned."""
    why: Why
    idle_since: float | None = None
    """When its worker was first seen without a request after the cordon."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Restart:
    """The last restart of the group as a whole."""

    count: int
    """Restarts in a row; the pause before the next start grows with it."""
    at: float
    why: Why
    doomed: frozenset[str]
    """Uids of the pods that this restart deletes."""


@dataclass(frozen=True, slots=True, kw_only=True)
class GroupMemo:
    """All of it."""

    members: frozenset[str] = frozenset()
    """Uids of the pods that were ungated together; a group with another pod among them has to start again."""
    admitted_at: float | None = None
    """When they were."""
    served_at: float | None = None
    """When the group was first routable."""
    drain: Drain | None = None
    restart: Restart | None = None

    def to_text(self) -> str:
        """JSON, keys sorted, nothing for what is unset."""
        return json.dumps(_bare(self), sort_keys=True, separators=(",", ":"))

    @classmethod
    def from_text(cls, text: str) -> GroupMemo:
        """The inverse of `to_text`. ValueError for anything else: the caller decides what a broken memo means."""
        try:
            return _memo(json.loads(text))
        except (KeyError, TypeError, AttributeError) as error:
            raise ValueError(f"not a group's memo: {error!r}") from None


NOTHING = GroupMemo()
"""The memo of a group whose annotation is missing."""


def _bare(memo: GroupMemo) -> dict[str, Any]:
    bare: dict[str, Any] = {"members": sorted(memo.members), "admittedAt": memo.admitted_at, "servedAt": memo.served_at}
    if memo.drain is not None:
        drain = memo.drain
        bare["drain"] = {"phase": drain.phase, "since": drain.since, "why": drain.why, "idleSince": drain.idle_since}
    if memo.restart is not None:
        again = memo.restart
        bare["restart"] = {"count": again.count, "at": again.at, "why": again.why, "doomed": sorted(again.doomed)}
    return {key: value for key, value in bare.items() if value not in (None, [])}


def _memo(bare: dict[str, Any]) -> GroupMemo:
    drain, again = bare.get("drain"), bare.get("restart")
    return GroupMemo(
        members=frozenset(bare.get("members", ())),
        admitted_at=bare.get("admittedAt"),
        served_at=bare.get("servedAt"),
        drain=None
        if drain is None
        else Drain(
            phase=DrainPhase(drain["phase"]),
            since=drain["since"],
            why=Why(drain["why"]),
            idle_since=drain.get("idleSince"),
        ),
        restart=None
        if again is None
        else Restart(
            count=again["count"], at=again["at"], why=Why(again["why"]), doomed=frozenset(again.get("doomed", ()))
        ),
    )
