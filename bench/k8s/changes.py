"""What happens to services during the measurement: three kinds of events, each of which the operator must answer."""

from __future__ import annotations

import asyncio
from collections.abc import Callable, Coroutine, Sequence
from dataclasses import dataclass
from enum import StrEnum

from bench.k8s.client import Client
from bench.k8s.fleet import path_of
from bench.k8s.scale import Scale, service_name

_READY_SECONDS = "testbed.proa.dev/ready-seconds"


class Kind(StrEnum):
    """Name of the change: what answers it first."""

    SPEC = "spec"  # one prefill group more in the manifest: the WorkerPool's number is written
    POD = "pod"  # a worker's containers turn unready: its pod's routable condition is written
    CHILD = "child"  # somebody deletes a group's PodDisruptionBudget: it is applied again


@dataclass(frozen=True, slots=True, kw_only=True)
class Change:
    """One request, as the audit log tells it."""

    kind: Kind
    service: str
    namespace: str
    verb: str
    resource: str
    name: str


async def make(client: Client, scale: Scale, numbers: list[int]) -> list[Change]:
    """A change to each of these services, the kinds in turn, at the scale's pace whatever is still on its way."""
    loop, pace = asyncio.get_running_loop(), 1 / scale.changes_per_second
    started = loop.time()
    tasks: list[asyncio.Task[Change]] = []
    async with asyncio.TaskGroup() as group:
        for position, number in enumerate(numbers):
            await asyncio.sleep(max(0.0, started + position * pace - loop.time()))
            change = _CHANGES[list(Kind)[position % len(Kind)]]
            tasks.append(group.create_task(change(client, scale, number)))
    return [task.result() for task in tasks]


async def change_spec(client: Client, scale: Scale, number: int) -> Change:
    name = service_name(number)
    patch = {"spec": {"pools": {"prefill": {"replicas": scale.shape.prefill_groups + 1}}}}
    await client.patch(path_of(scale, number), patch)
    return _change(Kind.SPEC, scale, number, "patch", "disaggregatedservices", name)


async def change_pod(client: Client, scale: Scale, number: int) -> Change:
    """As a kubelet tells of a failed readiness probe. kwok would find the containers ready again a second later."""
    path = f"/api/v1/namespaces/{scale.namespace_of(number)}/pods"
    selector = f"proa.dev/service={service_name(number)},proa.dev/role=prefill"
    pods = (await client.get(path, labelSelector=selector))["items"]
    name = min(pod["metadata"]["name"] for pod in pods)
    await client.patch(f"{path}/{name}", {"metadata": {"annotations": {_READY_SECONDS: "never"}}})
    condition = {"type": "ContainersReady", "status": "False", "reason": "ContainersNotReady"}
    await client.patch(f"{path}/{name}/status", {"status": {"conditions": [condition]}}, kind="strategic-merge")
    return _change(Kind.POD, scale, number, "patch", "pods/status", name)


async def heal(client: Client, changes: Sequence[Change]) -> None:
    """Let the pods that were made unready be ready again."""
    for change in changes:
        if change.kind is Kind.POD:
            path = f"/api/v1/namespaces/{change.namespace}/pods/{change.name}"
            await client.patch(path, {"metadata": {"annotations": {_READY_SECONDS: None}}})


async def change_child(client: Client, scale: Scale, number: int) -> Change:
    path = f"/apis/policy/v1/namespaces/{scale.namespace_of(number)}/poddisruptionbudgets"
    selector = f"proa.dev/service={service_name(number)},proa.dev/role=prefill"
    name = (await client.get(path, labelSelector=selector))["items"][0]["metadata"]["name"]
    await client.delete(f"{path}/{name}")
    return _change(Kind.CHILD, scale, number, "delete", "poddisruptionbudgets", name)


_CHANGES: dict[Kind, Callable[[Client, Scale, int], Coroutine[None, None, Change]]] = {
    Kind.SPEC: change_spec,
    Kind.POD: change_pod,
    Kind.CHILD: change_child,
}


def _change(kind: Kind, scale: Scale, number: int, verb: str, resource: str, name: str) -> Change:
    return Change(
        kind=kind,
        service=service_name(number),
        namespace=scale.namespace_of(number),
        verb=verb,
        resource=resource,
        name=name,
    )
