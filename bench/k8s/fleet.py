"""Brings a cluster to its size: namespaces, nodes and services, several at a time."""

from __future__ import annotations

import asyncio
import time
from collections.abc import Callable
from pathlib import Path

from bench.k8s.client import Client, Document, all_of
from bench.k8s.scale import GPU, GPU_LABELS, Scale, service, service_name
from testbed.played import node_manifest
from testbed.volumes import host_volume

SERVICES = "/apis/proa.dev/v1alpha1/disaggregatedservices"
_AT_ONCE = 16
_PAGE = "500"
Say = Callable[[str], None]


async def add_nodes(client: Client, scale: Scale) -> None:
    """Nodes of 8 GPUs that kwok plays. Those that are not Ready yet when this returns are soon."""

    async def add(number: int) -> None:
        name = f"node-{number:04d}"
        await client.create("/api/v1/nodes", node_manifest(name, resources={GPU: 8}, labels=GPU_LABELS))

    await all_of(range(scale.nodes), add, at_once=_AT_ONCE)


async def add_volumes(client: Client, scale: Scale, folder: Path) -> None:
    """One for the claim of each service. Played pods mount nothing, so the folders need not exist."""

    async def add(number: int) -> None:
        name = f"scale-{number:04d}"
        await client.create("/api/v1/persistentvolumes", host_volume(name, folder / name, storage_class="standard"))

    await all_of(range(scale.services), add, at_once=_AT_ONCE)


async def add_services(client: Client, scale: Scale, prefill_ip: str, decode_ip: str) -> None:
    """All services, none of which has to be up when this returns."""

    async def add_namespace(number: int) -> None:
        body = {"apiVersion": "v1", "kind": "Namespace", "metadata": {"name": scale.namespace_of(number)}}
        await client.create("/api/v1/namespaces", body)

    async def add(number: int) -> None:
        path = SERVICES.replace("/disagg", f"/namespaces/{scale.namespace_of(number)}/disagg")
        await client.create(path, service(number, scale.shape, prefill_ip, decode_ip))

    await all_of(range(scale.namespaces), add_namespace, at_once=_AT_ONCE)
    await all_of(range(scale.services), add, at_once=_AT_ONCE)


async def await_serving(client: Client, scale: Scale, *, seconds: float, say: Say) -> float:
    """Until all services serve and nothing progresses; the seconds that it took.

    TimeoutError after `seconds` in which there were never more of them: a busy machine takes its time.
    """
    started = grown_at = time.monotonic()
    pause, most = 1.0 + scale.services / 100, 0
    while (num_settled := await settled(client)) < scale.services:
        now = time.monotonic()
        most, grown_at = (num_settled, now) if num_settled > most else (most, grown_at)
        if now - grown_at > seconds:
            raise TimeoutError(f"only {most} of {scale.services} services are up, and no more for {seconds:.0f} s")
        say(f"{num_settled} of {scale.services} services are up after {now - started:.0f} s")
        await asyncio.sleep(pause)
    return time.monotonic() - started


async def settled(client: Client) -> int:
    """Services that are Available at their present generation and do not progress."""
    found, token = 0, ""
    while True:
        page = await client.get(SERVICES, limit=_PAGE, **{"continue": token} if token else {})
        found += sum(is_settled(item) for item in page["items"])
        if not (token := page["metadata"].get("continue", "")):
            return found


def is_settled(item: Document) -> bool:
    """Whether one service is."""
    status = item.get("status", {})
    holds = {found["type"]: found["status"] for found in status.get("conditions", [])}
    is_current = status.get("observedGeneration") == item["metadata"]["generation"]
    return bool(is_current and holds.get("Available") == "True" and holds.get("Progressing") == "False")


def path_of(scale: Scale, number: int) -> str:
    """Of the service with that number."""
    return f"{SERVICES.replace('/disagg', f'/namespaces/{scale.namespace_of(number)}/disagg')}/{service_name(number)}"
