"""Actions of the planner as rows: what, on which object, and why. Pure."""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from dataclasses import dataclass

from proa_operator import names
from proa_operator.cluster.apply import stamped
from proa_operator.names import Role
from proa_operator.plan import actions as todo
from proa_operator.plan.actions import Action
from proa_operator.plan.memo import GroupMemo
from proa_operator.plan.renderer import Objects, key_of

Applied = Mapping[tuple[str, str], str]
"""Of the objects that are there, by kind and name: the digest of what was applied last, empty for none."""


@dataclass(frozen=True, slots=True, kw_only=True)
class ActionRow:
    """One write or call that the operator would make."""

    number: int
    action: str
    target: str
    detail: str


def rows_of(actions: Iterable[Action], applied: Applied) -> tuple[ActionRow, ...]:
    """In order; an Apply gives a row for each object that is not as it should be."""
    cells = [cell for action in actions for cell in _cells(action, applied)]
    return tuple(
        ActionRow(number=number, action=action, target=target, detail=detail)
        for number, (action, target, detail) in enumerate(cells, start=1)
    )


Cell = tuple[str, str, str]


def _cells(action: Action, applied: Applied) -> list[Cell]:
    match action:
        case todo.Apply(objects=objects):
            return _applied(objects, applied)
        case todo.Delete():
            return [("Delete", f"{action.kind} {action.name}", "with its dependents")]
        case todo.Scale():
            return [("Scale", f"WorkerPool {Role(action.role).value}", f"to {action.replicas} groups")]
        case todo.Remember():
            return [("Remember", f"group {action.group}", _memo(action.memo))]
        case todo.Ungate() | todo.Route():
            return _on_pods(action)
        case todo.Probe():
            return [("Probe", f"pod {action.prefill_pod}", f"a transfer to {action.decode_pod}")]
        case todo.DrainWorker():
            return [("DrainWorker", f"pod {action.pod}", f"at most {action.timeout_seconds:g} s")]
        case todo.StartRevision() | todo.MarkAvailable() | todo.MarkFailed():
            return [_on_revision(action)]
        case todo.Note():
            return [(f"Event {action.reason}", action.type.value, action.message)]


def _applied(objects: Objects, applied: Applied) -> list[Cell]:
    """The operator writes nothing where the digest of the last apply is the same."""
    digests = {key_of(item): stamped(item)["metadata"]["annotations"][names.APPLIED_ANNOTATION] for item in objects}
    return [
        ("Apply", f"{kind} {name}", "change" if (kind, name) in applied else "create")
        for (kind, name), digest in digests.items()
        if applied.get((kind, name)) != digest
    ]


def _on_pods(action: todo.Ungate | todo.Route) -> list[Cell]:
    if isinstance(action, todo.Route):
        to = "into the gateway" if action.is_routable else "out of the gateway"
        reason = f"{action.reason.value}: {action.message}" if action.message else action.reason.value
        return [("Route", f"pod {action.pod}", f"{to} ({reason})")]
    avoid = f", not on {', '.join(action.avoid)}" if action.avoid else ""
    return [("Ungate", f"pod {pod}", f"let the scheduler bind it{avoid}") for pod in action.pods]


def _on_revision(action: todo.StartRevision | todo.MarkAvailable | todo.MarkFailed) -> Cell:
    target = f"revision {action.revision}"
    if isinstance(action, todo.StartRevision):
        return ("StartRevision", target, f"as number {action.number}")
    if isinstance(action, todo.MarkFailed):
        return ("MarkFailed", target, action.reason)
    return ("MarkAvailable", target, f"served with {_sizes(action.sizes)}")


def _sizes(sizes: Mapping[Role, int]) -> str:
    return ", ".join(f"{size} {Role(role).value}" for role, size in sizes.items())


def _memo(memo: GroupMemo | None) -> str:
    """What the group is about to go through."""
    if memo is None:
        return "nothing any more"
    if memo.drain is not None:
        return f"drain: {memo.drain.phase.value} ({memo.drain.why.value})"
    if memo.restart is not None and memo.restart.doomed:
        return f"restart {memo.restart.count} ({memo.restart.why.value})"
    return "served" if memo.served_at is not None else f"{len(memo.members)} pods start together"
