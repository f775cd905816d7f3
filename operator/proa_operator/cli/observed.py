"""What the planner would see of a service now, also with a spec that nobody has applied yet."""

from __future__ import annotations

import time
from dataclasses import dataclass, replace

from proa_operator import names
from proa_operator.api.service import DisaggregatedService
from proa_operator.cli.cluster import Children, Cluster, required
from proa_operator.cluster.facts import ServiceFacts
from proa_operator.cluster.observe import Surroundings, observe
from proa_operator.cluster.read import Reader
from proa_operator.plan.state import NodeState, Observed


@dataclass(frozen=True, slots=True, kw_only=True)
class Sight:
    """An observation, and the objects behind it."""

    observed: Observed
    found: Children
    is_new: bool
    """There is no such service in the cluster."""


async def see(cluster: Cluster, name: str, manifest: DisaggregatedService | None, *, has_nodes: bool) -> Sight:
    """With `manifest` in place of the stored spec, if it is given. NotFound without either."""
    found = await cluster.children(name)
    nodes, unbound = await cluster.nodes(name) if has_nodes else (None, 0)
    if manifest is None or found.service is not None:
        observed = _stored(cluster, name, found, nodes, unbound)
        if manifest is not None:
            observed = replace(observed, service=_placed(manifest, cluster), generation=observed.generation + 1)
        return Sight(observed=observed, found=found, is_new=False)
    service, now = _placed(manifest, cluster), time.time()
    restart = manifest.metadata.annotations.get(names.RESTART_ANNOTATION, "")
    observed = Observed(
        service=service, uid="", generation=1, now=now, nodes=nodes, unbound_pods=unbound, restart=restart
    )
    return Sight(observed=observed, found=found, is_new=True)


def _stored(cluster: Cluster, name: str, found: Children, nodes: dict[str, NodeState] | None, unbound: int) -> Observed:
    service = required(found, name, cluster.namespace)
    assert isinstance(service.facts, ServiceFacts)
    around = Surroundings(now=time.time(), nodes=nodes, unbound_pods=unbound)
    return observe(service, found.children, around, Reader())


def _placed(manifest: DisaggregatedService, cluster: Cluster) -> DisaggregatedService:
    meta = manifest.metadata.model_copy(update={"namespace": cluster.namespace})
    return manifest.model_copy(update={"metadata": meta})
