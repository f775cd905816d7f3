"""`proa status`."""

from __future__ import annotations

import asyncio
import time
from collections.abc import Sequence
from typing import Annotated, Any

import typer
from rich.console import RenderableType

from proa_operator.cli.cluster import Cluster, connected
from proa_operator.cli.output import Output, show
from proa_operator.cli.status_table import detail, overview
from proa_operator.cli.status_view import ServiceView, view_of
from proa_operator.cli.watching import Watch, follow
from proa_operator.cli.where import AllNamespaces, Context, Format, Kubeconfig, Namespace, Where
from proa_operator.cluster.kinds import SERVICE


def status(
    name: Annotated[str | None, typer.Argument(metavar="NAME", help="One service, in full.")] = None,
    namespace: Namespace = None,
    all_namespaces: AllNamespaces = False,
    watch: Watch = False,
    output: Format = Output.TABLE,
    context: Context = None,
    kubeconfig: Kubeconfig = None,
) -> None:
    """Show services: groups of each pool by revision, phase, conditions with their reasons.

    Ready groups have loaded their weights and passed a probe transfer; of these the gateway uses the routable ones.
    With --watch, JSON and YAML print one document for each change.
    """
    if name is not None and all_namespaces:
        raise typer.BadParameter("a NAME is in one namespace: give --namespace instead of -A")
    where = Where(namespace=namespace, context=context, kubeconfig=kubeconfig)
    asyncio.run(_status(where, name, output, is_everywhere=all_namespaces, is_watched=watch))


async def _status(where: Where, name: str | None, output: Output, *, is_everywhere: bool, is_watched: bool) -> None:
    async with connected(where) as cluster:

        async def read() -> list[ServiceView]:
            return await _views(cluster, name, "" if is_everywhere else cluster.namespace)

        if not is_watched:
            _show(await read(), name, output)
        else:
            await follow(read, output, lambda views: _table(views, name), lambda views: _value(views, name))


async def _views(cluster: Cluster, name: str | None, namespace: str) -> list[ServiceView]:
    bodies = [await cluster.service(name)] if name else await cluster.all(SERVICE, namespace)
    return sorted((view_of(body) for body in bodies), key=lambda view: (view.namespace, view.name))


def _show(views: Sequence[ServiceView], name: str | None, output: Output) -> None:
    if not views and output is Output.TABLE:
        typer.echo("no services here; -A looks in all namespaces", err=True)
        return
    show(_value(views, name), output, lambda: _table(views, name))


def _value(views: Sequence[ServiceView], name: str | None) -> Any:
    return views[0] if name else list(views)


def _table(views: Sequence[ServiceView], name: str | None) -> RenderableType:
    return detail(views[0], time.time()) if name else overview(views, time.time())
