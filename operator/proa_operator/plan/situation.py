"""What all steps of one plan share: the target, what is desired of it, and how each group stands."""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from dataclasses import dataclass, replace
from fractions import Fraction

from proa_operator.api.rollout import OnFailure
from proa_operator.api.service import ServiceSpec, Topology
from proa_operator.names import Role
from proa_operator.plan import topology
from proa_operator.plan.nodes import Demand, demand_of
from proa_operator.plan.renderer import Renderer
from proa_operator.plan.settings import PlanSettings
from proa_operator.plan.standing import Standing, standing_of
from proa_operator.plan.state import Observed, Revision


@dataclass(frozen=True, slots=True, kw_only=True)
class Situation:
    """Derived from one observation; see `situation_of`."""

    observed: Observed
    settings: PlanSettings
    renderer: Renderer
    refusals: tuple[str, ...]
    """Why the present spec is not followed."""
    asked: str
    """Revision that the spec asks for."""
    target: str
    """Revision that the groups are moved to: `asked`, or after a failure the one to go back to."""
    specs: Mapping[str, ServiceSpec]
    """Spec of the target and of every revision that has groups."""
    desired: Mapping[Role, int]
    """Groups of each role of the target."""
    standings: tuple[Standing, ...]
    growing: str = ""
    """Revision that gets new groups: the target, unless two others still serve, see `_growing`."""

    @property
    def now(self) -> float:
        """Seconds since the epoch."""
        return self.observed.now

    @property
    def spec(self) -> ServiceSpec:
        """The user's present one."""
        return self.observed.service.spec

    @property
    def is_frozen(self) -> bool:
        """Groups neither come nor go: a spec that cannot be followed, or a pause without a revision to fill up with."""
        return (self.is_paused and not self.filling) or (bool(self.refusals) and self.target == self.asked)

    @property
    def is_paused(self) -> bool:
        """A failed rollout that was told to stay as it is: no group is moved from one revision to the other."""
        failed = self.revision(self.target)
        return self.spec.rollout.on_failure is OnFailure.PAUSE and failed is not None and bool(failed.failed)

    @property
    def filling(self) -> str:
        """Revision of new groups: the growing one, and while paused the last good one; empty where there is none."""
        if not self.is_paused:
            return self.growing
        back = rollback_target(self.observed, self.asked)
        return back.name if back is not None and back.spec.topology is self.specs[self.target].topology else ""

    def is_passed_over(self, standing: Standing) -> bool:
        """It never served, and its revision does not grow any more: it goes, so it neither starts nor is probed.

        Else it would begin to count just when the next revision has its first groups, see `_growing`.
        """
        is_moving = not (self.is_frozen or self.is_paused)
        return is_moving and standing.group.revision != self.growing and not standing.is_counted

    def revision(self, name: str) -> Revision | None:
        """The stored revision of that name."""
        return next((known for known in self.observed.revisions if known.name == name), None)

    def of(self, revision: str, role: Role | None = None) -> list[Standing]:
        """Groups of a revision, and of one of its roles."""
        return [
            standing
            for standing in self.standings
            if standing.group.revision == revision and (role is None or standing.group.role is role)
        ]

    def revisions_with_groups(self) -> list[str]:
        """Names, in the order of the groups."""
        return list(dict.fromkeys(standing.group.revision for standing in self.standings))

    def desired_of(self, revision: str) -> Mapping[Role, int]:
        """What `revision` has to have to serve all load: today's numbers, or its own where its topology differs."""
        if self.specs[revision].topology is self.specs[self.target].topology:
            return self.desired
        stored = self.revision(revision)
        return (stored and stored.sizes) or topology.replicas_of(self.specs[revision])

    def capacity(self, groups: Iterable[Standing]) -> Fraction:
        """Pair capacity of these groups: of each revision by itself, summed."""
        counts: dict[str, dict[Role, int]] = {}
        for standing in groups:
            of_revision = counts.setdefault(standing.group.revision, {})
            of_revision[standing.group.role] = of_revision.get(standing.group.role, 0) + 1
        return sum(
            (
                topology.capacity(self.specs[revision].topology, have, self.desired_of(revision))
                for revision, have in counts.items()
            ),
            Fraction(0),
        )

    def budget(self, role: Role) -> int:
        """Groups of a role that may hold devices at a time; a change of topology may need the larger of both sizes."""
        sizes = [self.desired_of(revision).get(role, 0) for revision in self.revisions_with_groups()]
        return max([self.desired.get(role, 0), *sizes]) + self.spec.rollout.max_surge_groups

    @property
    def wanted(self) -> Mapping[Role, int]:
        """Groups of each role that the growing revision has to have; while paused all revisions together."""
        return self.desired if self.is_paused else self.desired_of(self.growing)

    def demand(self, revision: str) -> Demand:
        """What a pod of the revision asks of its node."""
        spec = self.specs[revision]
        return demand_of(spec, self.renderer.node_rules(spec))


def situation_of(observed: Observed, settings: PlanSettings, renderer: Renderer) -> Situation:
    """All of it, from one observation."""
    refusals = renderer.refusals(observed)
    asked = _asked(observed, renderer)
    target = _target(observed, asked, is_refused=bool(refusals))
    specs = {known.name: known.spec for known in observed.revisions}
    specs.setdefault(target, observed.service.spec)
    for group in observed.groups:  # its ControllerRevision was deleted by hand: the present spec is the best guess
        specs.setdefault(group.revision, observed.service.spec)
    situation = Situation(
        observed=observed,
        settings=settings,
        renderer=renderer,
        refusals=refusals,
        asked=asked,
        target=target,
        specs=specs,
        desired=_desired(observed, specs[target]),
        standings=_standings(observed, settings, renderer, specs),
    )
    return replace(situation, growing=_growing(situation))


def _growing(situation: Situation) -> str:
    """Never more than two revisions share the pools.

    Two can always hand capacity over, one pair or one surplus group at a time. Three can lock each other: with 5:3
    groups wanted and a surge of 1, 2:2 new groups beside 2:1 and 2:1 leave no room for more and no old one that may go.
    So a target that finds two others serving waits until one of them has taken the other's place: the one that is known
    to be good, for a change of mind midway often means that the new one is not; else the larger.
    """
    counted: dict[str, list[Standing]] = {}
    for standing in situation.standings:
        if standing.is_counted:
            counted.setdefault(standing.group.revision, []).append(standing)
    if len(counted.keys() - {situation.target}) < 2:
        return situation.target

    def merit(name: str) -> tuple[bool, Fraction, int]:
        known = situation.revision(name)
        is_good = known is not None and known.available_at is not None and not known.failed
        return is_good, situation.capacity(counted[name]), known.number if known is not None else 0

    return max(counted, key=merit)


def _asked(observed: Observed, renderer: Renderer) -> str:
    """The latest stored revision that the spec equals by that revision's own template version, or a new one.

    So an upgrade of the operator rolls nothing, and a spec that is taken back finds its old groups.
    """
    spec, restart = observed.service.spec, observed.restart
    digests: dict[int, str] = {}
    for known in sorted(observed.revisions, key=lambda revision: -revision.number):
        version = known.template_version
        if version not in digests:
            digests[version] = renderer.revision_of(spec, template_version=version, restart=restart)
        if digests[version] == known.name:
            return known.name
    return renderer.revision_of(spec, template_version=None, restart=restart)


def _target(observed: Observed, asked: str, *, is_refused: bool) -> str:
    """After a failed rollout, and under a spec that cannot be rendered, the last good revision where there is one."""
    latest = max(observed.revisions, key=lambda revision: revision.number, default=None)
    has_failed = latest is not None and latest.name == asked and bool(latest.failed)
    if not is_refused and not (has_failed and observed.service.spec.rollout.on_failure is OnFailure.ROLLBACK):
        return asked
    back = rollback_target(observed, asked)
    return back.name if back is not None else asked


def rollback_target(observed: Observed, asked: str) -> Revision | None:
    """The latest revision but `asked` that once served with all its groups and did not fail."""
    good = [
        known
        for known in observed.revisions
        if known.name != asked and known.available_at is not None and not known.failed
    ]
    return max(good, key=lambda known: known.number, default=None)


def _desired(observed: Observed, target: ServiceSpec) -> dict[Role, int]:
    """WorkerPool.spec.replicas, unless the manifest's own number has changed since it was written there."""
    desired = {}
    for role, own in topology.replicas_of(target).items():
        pool = observed.pools.get(role)
        present = topology.replicas_of(observed.service.spec).get(role, own)
        desired[role] = present if pool is None or pool.declared != present else pool.replicas
    return desired


def _standings(
    observed: Observed, settings: PlanSettings, renderer: Renderer, specs: Mapping[str, ServiceSpec]
) -> tuple[Standing, ...]:
    demands = {
        revision: demand_of(specs[revision], renderer.node_rules(specs[revision]))
        for revision in {group.revision for group in observed.groups}
    }
    return tuple(
        standing_of(
            group,
            observed.nodes,
            demands[group.revision],
            settings,
            needs_probe=specs[group.revision].topology is Topology.DISAGGREGATED,
        )
        for group in sorted(observed.groups, key=lambda group: group.name)
    )
