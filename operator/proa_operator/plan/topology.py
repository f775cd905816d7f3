"""What a revision of each topology can serve. Exact fractions: a rollout of 3:2 pairs must not hang on a rounding."""

from __future__ import annotations

from collections.abc import Mapping
from fractions import Fraction
from math import ceil

from proa_operator.api.service import ServiceSpec, Topology
from proa_operator.names import Role

Counts = Mapping[Role, int]


def roles_of(spec: ServiceSpec) -> tuple[Role, ...]:
    """Roles that have a pool."""
    return (Role.DECODE,) if spec.pools.prefill is None else (Role.PREFILL, Role.DECODE)


def replicas_of(spec: ServiceSpec) -> dict[Role, int]:
    """Groups of each pool as the manifest has it."""
    pools = {Role.PREFILL: spec.pools.prefill, Role.DECODE: spec.pools.decode}
    return {role: pool.replicas for role, pool in pools.items() if pool is not None}


def num_pods_of(spec: ServiceSpec, role: Role) -> int:
    """Pods of one group of a role."""
    pool = spec.pools.prefill if role is Role.PREFILL else spec.pools.decode
    return 1 if pool is None else pool.nodes_per_group


def capacity(topology: Topology, have: Counts, desired: Counts) -> Fraction:
    """Served share of what is desired: of the scarcer role, or of all groups where each does both phases.

    Above 1 while there are more groups than desired. A service that desires nothing has 0.
    """
    if topology is Topology.AGGREGATED:
        wanted = sum(desired.values())
        return Fraction(sum(have.values()), wanted) if wanted else Fraction(0)
    if not all(desired.get(role) for role in Role):
        return Fraction(0)
    return min(Fraction(have.get(role, 0), desired[role]) for role in Role)


def floor(topology: Topology, desired: Counts, max_unavailable: int) -> Fraction:
    """Capacity that the operator's own actions may not go below."""
    if topology is Topology.AGGREGATED:
        return capacity(topology, {Role.DECODE: max(0, sum(desired.values()) - max_unavailable)}, desired)
    return capacity(topology, {role: max(0, number - max_unavailable) for role, number in desired.items()}, desired)


def matched(topology: Topology, ready: Counts, desired: Counts) -> dict[Role, int]:
    """Groups of each role to route, so that no role of a revision draws more traffic than the other can follow."""
    if topology is Topology.AGGREGATED:
        return dict(ready)
    share = capacity(topology, ready, desired)
    return {role: min(number, ceil(share * desired.get(role, 0))) for role, number in ready.items()}
