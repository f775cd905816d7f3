"""Which revision is the target, when it counts as available, and which old ones are forgotten."""

from __future__ import annotations

from proa_operator import names
from proa_operator.names import Role
from proa_operator.plan.actions import Delete, EventType, MarkAvailable, Note, StartRevision
from proa_operator.plan.situation import Situation
from proa_operator.plan.step import Steps


def start(situation: Situation) -> Steps:
    """Give the asked revision the highest number, so that the order of numbers is the order of the user's wishes.

    A revision that failed and is asked for again after another one starts anew, without its failed mark.
    """
    if situation.refusals:
        return
    asked = situation.asked
    highest = max((known.number for known in situation.observed.revisions), default=0)
    known = situation.revision(asked)
    if known is not None and known.number == highest:
        return
    objects = situation.renderer.revision(
        situation.observed,
        situation.specs[asked] if known is not None else situation.spec,
        revision=asked,
        number=highest + 1,
        template_version=None if known is None else known.template_version,
    )
    yield StartRevision(revision=asked, number=highest + 1, at=situation.now, objects=objects)
    if highest:
        text = f"rolling out revision {asked}" if known is None else f"going back to revision {asked}"
        yield Note(type=EventType.NORMAL, reason="RolloutStarted", message=text)


def complete(situation: Situation) -> Steps:
    """The target serves with all its groups: from now on it is a revision to go back to."""
    target = situation.revision(situation.target)
    if target is None or not serves_fully(situation):
        return
    is_new = target.available_at is None or target.available_at < target.started_at
    if is_new or dict(target.sizes) != dict(situation.desired):
        yield MarkAvailable(revision=target.name, at=situation.now, sizes=dict(situation.desired))
    if is_new:
        yield Note(type=EventType.NORMAL, reason="Available", message=f"revision {target.name} serves with all groups")


def serves_fully(situation: Situation) -> bool:
    """All desired groups of the target are routable; a service that sleeps proves nothing."""
    routable = dict.fromkeys(Role, 0)
    for standing in situation.of(situation.target):
        routable[standing.group.role] += standing.is_ready and standing.is_routable
    wanted = situation.desired
    return any(wanted.values()) and all(routable[role] >= number for role, number in wanted.items())


def prune(situation: Situation) -> Steps:
    """Keep the last few, and all that have groups or may be needed next."""
    needed = {situation.asked, situation.target, *situation.revisions_with_groups()}
    by_age = sorted(situation.observed.revisions, key=lambda known: known.number, reverse=True)
    others = [known for known in by_age if known.name not in needed]
    good = next((known.name for known in by_age if known.available_at is not None and not known.failed), None)
    for known in others[max(0, situation.settings.keep_revisions - len(by_age) + len(others)) :]:
        if known.name != good:
            name = names.revision_name(situation.observed.service.metadata.name, known.name)
            yield Delete(kind="ControllerRevision", name=name)
