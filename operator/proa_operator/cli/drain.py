"""`proa drain`."""

from __future__ import annotations

import asyncio
from collections.abc import Iterable, Mapping
from datetime import UTC, datetime
from typing import Annotated, Any

import typer

from proa_operator import names
from proa_operator.cli.cluster import MANAGER, connected
from proa_operator.cli.errors import NotFound
from proa_operator.cli.output import Output, show
from proa_operator.cli.waiting import Wait, until
from proa_operator.cli.where import Context, Format, Kubeconfig, Name, Namespace, Where
from proa_operator.cluster.api import Ref
from proa_operator.cluster.kinds import STATEFUL_SET
from proa_operator.errors import UserError

GRACE_SECONDS = 120.0
"""On top of the service's own drain timeout, for the steps before and after it."""

Json = Mapping[str, Any]


def drain(
    name: Name,
    group: Annotated[str, typer.Argument(metavar="GROUP", help="Its name, or the end of it, such as decode-001.")],
    wait: Wait = False,
    timeout: Annotated[
        float | None,
        typer.Option(min=1, help="Deadline of --wait, in seconds.", show_default="the service's drain timeout + 120"),
    ] = None,
    namespace: Namespace = None,
    output: Format = Output.TABLE,
    context: Context = None,
    kubeconfig: Kubeconfig = None,
) -> None:
    """Take one group out of service without losing a request; the operator replaces it.

    The gateway stops sending to it, running requests end, KV leases run out, then it is deleted. To have fewer groups,
    scale its pool: kubectl scale wpool NAME-decode --replicas=N.
    """
    where = Where(namespace=namespace, context=context, kubeconfig=kubeconfig)
    found = asyncio.run(_drain(where, name, group, wait=wait, timeout=timeout))
    done = "is gone" if wait else f"drains: proa status {name} --watch"
    show({"service": name, "group": found}, output, lambda: f"group {found} {done}")


async def _drain(where: Where, name: str, wanted: str, *, wait: bool, timeout: float | None) -> str:
    async with connected(where) as cluster:
        service = await cluster.service(name)
        groups = await cluster.owned(STATEFUL_SET, service)
        group = find_group(groups, wanted, name=name)["metadata"]
        notes = {names.DRAIN_ANNOTATION: datetime.now(UTC).strftime("%Y-%m-%dT%H:%M:%SZ")}
        patch = {"metadata": {"uid": group["uid"], "annotations": notes}}
        ref = Ref(kind=STATEFUL_SET, name=group["name"], namespace=cluster.namespace)
        await cluster.api.merge_patch(ref, patch, manager=MANAGER)

        async def remaining() -> str:
            left = await cluster.owned(STATEFUL_SET, service)
            is_there = any(found["metadata"]["uid"] == group["uid"] for found in left)
            return "its StatefulSet is still there; proa status and kubectl get events tell more" if is_there else ""

        if wait:
            own = service["spec"].get("drain", {}).get("timeoutSeconds", 600) + GRACE_SECONDS
            await until(remaining, seconds=timeout or own, what=f"the drain of {group['name']}")
    return str(group["name"])


def find_group(groups: Iterable[Json], wanted: str, *, name: str) -> Json:
    """The group of that name, or the only one whose name ends so. NotFound, or UserError when several do."""
    by_name = {group["metadata"]["name"]: group for group in groups}
    known = ", ".join(sorted(by_name)) or "none"
    if wanted in by_name:
        return by_name[wanted]
    ends = [found for found in sorted(by_name) if found.endswith(f"-{wanted}")]
    if not ends:
        raise NotFound(f"service {name} has no group {wanted}: it has {known}")
    if len(ends) > 1:
        raise UserError(f"several groups end with {wanted}: give one of {', '.join(ends)}")
    return by_name[ends[0]]
