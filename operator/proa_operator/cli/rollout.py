"""`proa rollout` and `proa rollout restart`."""

from __future__ import annotations

import asyncio
import time
from dataclasses import dataclass
from datetime import UTC, datetime
from typing import Any

import typer
from rich.console import Group, RenderableType
from rich.text import Text
from typer.core import TyperGroup

from proa_operator import names
from proa_operator.cli.cluster import MANAGER, Cluster, connected
from proa_operator.cli.output import Output, grid, show
from proa_operator.cli.revision_view import RevisionRow, revision_rows
from proa_operator.cli.status_view import ServiceView, age, view_of
from proa_operator.cli.waiting import Timeout, Wait, until
from proa_operator.cli.watching import Watch, follow
from proa_operator.cli.where import Context, Format, Kubeconfig, Name, Namespace, Where
from proa_operator.cluster.api import Ref
from proa_operator.cluster.kinds import REVISION, SERVICE
from proa_operator.errors import ServeError

_STYLES = {"Failed": "red", "Target": "green", "Serving": "yellow", "": "dim"}


class StatusByDefault(TyperGroup):
    """`rollout NAME` is `rollout status NAME`."""

    def resolve_command(self, ctx: Any, args: list[str]) -> Any:
        return super().resolve_command(ctx, args if args[0] in self.commands else ["status", *args])


rollout = typer.Typer(
    cls=StatusByDefault,
    add_completion=False,
    no_args_is_help=True,
    rich_markup_mode="rich",
    subcommand_metavar="NAME | COMMAND [ARGS]...",
    help="""Show the revisions of a service and how far its rollout is, or roll it out anew.

    `proa rollout NAME` is `proa rollout status NAME`.""",
)


@dataclass(frozen=True, slots=True, kw_only=True)
class RolloutView:
    """Revisions, oldest first, and how the service stands."""

    service: ServiceView
    revisions: tuple[RevisionRow, ...]


@rollout.command("status")
def rollout_status(
    name: Name,
    wait: Wait = False,
    timeout: Timeout = 1800.0,
    watch: Watch = False,
    namespace: Namespace = None,
    output: Format = Output.TABLE,
    context: Context = None,
    kubeconfig: Kubeconfig = None,
) -> None:
    """Show each revision: what changed with it, whether it serves or failed, and the progress of the present one."""
    where = Where(namespace=namespace, context=context, kubeconfig=kubeconfig)
    if watch:
        asyncio.run(_follow(where, name, output))
    view = asyncio.run(_status(where, name, timeout if wait else None))
    show(view, output, lambda: table_of(view, time.time()))


@rollout.command("restart")
def rollout_restart(
    name: Name,
    namespace: Namespace = None,
    output: Format = Output.TABLE,
    context: Context = None,
    kubeconfig: Kubeconfig = None,
) -> None:
    """Replace every group by a new one of the same spec, surge first, as a rollout does."""
    where = Where(namespace=namespace, context=context, kubeconfig=kubeconfig)
    at = datetime.now(UTC).strftime("%Y-%m-%dT%H:%M:%SZ")
    asyncio.run(_restart(where, name, at))
    show({"service": name, "restart": at}, output, lambda: f"{name} rolls out anew: proa rollout {name} shows how far")


async def _follow(where: Where, name: str, output: Output) -> None:
    """Until an interrupt."""
    async with connected(where) as cluster:
        await follow(lambda: _view(cluster, name), output, lambda view: table_of(view, time.time()))


async def _status(where: Where, name: str, seconds: float | None) -> RolloutView:
    async with connected(where) as cluster:

        async def missing() -> str:
            return unfinished(view_of(await cluster.service(name)))

        if seconds is not None:
            await until(missing, seconds=seconds, what=f"the rollout of {name}")
        return await _view(cluster, name)


async def _view(cluster: Cluster, name: str) -> RolloutView:
    body = await cluster.service(name)
    stored = await cluster.owned(REVISION, body)
    return RolloutView(service=view_of(body), revisions=revision_rows(stored, body.get("status") or {}))


def unfinished(view: ServiceView) -> str:
    """What a rollout waits for; empty when it is done. ServeError when it has failed."""
    holds = {found.type: found for found in view.conditions}
    progressing, back = holds.get("Progressing"), holds.get("RolledBack")
    if not view.is_current or progressing is None:
        return view.message
    if back is not None and back.status == "True":
        raise ServeError(f"rolled back: {back.message}")
    if progressing.status == "True":
        return progressing.message
    if progressing.reason != "Settled":
        raise ServeError(f"{progressing.reason}: {progressing.message}")
    return ""


async def _restart(where: Where, name: str, at: str) -> None:
    async with connected(where) as cluster:
        meta = (await cluster.service(name))["metadata"]
        patch = {"metadata": {"uid": meta["uid"], "annotations": {names.RESTART_ANNOTATION: at}}}
        ref = Ref(kind=SERVICE, name=name, namespace=meta["namespace"])
        await cluster.api.merge_patch(ref, patch, manager=MANAGER)


def table_of(view: RolloutView, now: float) -> RenderableType:
    """One row for each revision, then what the rollout waits for."""
    table = grid("#", "REVISION", "STATE", "STARTED", "AVAILABLE", "GROUPS", "CHANGED")
    for row in view.revisions:
        state = Text(row.state or "-", _STYLES[row.state])
        change = "\n".join([*row.changed, *([f"failed: {row.failed}"] if row.failed else [])])
        times = (age(row.started, now), age(row.available, now) or "never")
        table.add_row(str(row.number), row.revision, state, *times, row.groups or "-", Text(change or "-"))
    service = view.service
    line = Text.assemble((service.name, "bold"), f": {service.phase}")
    return Group(line.append(f", {service.message}" if service.message else ""), table)
