"""`proa plan`."""

from __future__ import annotations

import asyncio
from dataclasses import dataclass
from pathlib import Path
from typing import Annotated

import typer
from rich.console import Group, RenderableType
from rich.text import Text

from proa_operator.api.load import load
from proa_operator.api.service import DisaggregatedService
from proa_operator.cli.cluster import connected
from proa_operator.cli.observed import see
from proa_operator.cli.operator_settings import operator_of
from proa_operator.cli.output import Output, grid, show
from proa_operator.cli.plan_view import ActionRow, rows_of
from proa_operator.cli.where import Context, Format, Kubeconfig, Namespace, Where
from proa_operator.plan.plan import plan as planned
from proa_operator.plan.renderer import ClusterRenderer
from proa_operator.plan.settings import PlanSettings

NO_LOADS = (
    "workers cannot be asked from here: what depends on their load, such as the next step of a drain, is left out"
)


@dataclass(frozen=True, slots=True, kw_only=True)
class PlanView:
    """The next step of the operator."""

    service: str
    revision: str
    """The one that groups are moved to."""
    state: str
    actions: tuple[ActionRow, ...]
    notes: tuple[str, ...]
    """What this command could not see."""


def plan(
    subject: Annotated[
        str, typer.Argument(metavar="FILE|NAME", help="A manifest, or a service as it stands.", show_default=False)
    ],
    namespace: Namespace = None,
    output: Format = Output.TABLE,
    context: Context = None,
    kubeconfig: Kubeconfig = None,
) -> None:
    """Show what the operator would do now for a service, or for a manifest, in order. Changes nothing.

    It is one step: the operator looks again after it. A service at rest has an empty plan.
    """
    manifest = load(Path(subject)) if is_file(subject) else None
    placed = namespace or (manifest.metadata.namespace if manifest else None) or None
    where = Where(namespace=placed, context=context, kubeconfig=kubeconfig)
    view = asyncio.run(_plan(where, manifest.metadata.name if manifest else subject, manifest))
    show(view, output, lambda: table_of(view))


def is_file(subject: str) -> bool:
    """A name of a service has no dot and no slash."""
    return "." in subject or "/" in subject


async def _plan(where: Where, name: str, manifest: DisaggregatedService | None) -> PlanView:
    async with connected(where) as cluster:
        operator = await operator_of(cluster)
        sight = await see(cluster, name, manifest, has_nodes=operator.discovered.sees_nodes)
        step = planned(sight.observed, PlanSettings(), ClusterRenderer(settings=operator.render))
    no_nodes = "nodes are not visible with your rights: groups are planned as if they fit"
    notes = (operator.note, "" if operator.discovered.sees_nodes else no_nodes, "" if sight.is_new else NO_LOADS)
    return PlanView(
        service=name,
        revision=step.status["revision"],
        state="New" if sight.is_new else step.status["columns"]["state"],
        actions=rows_of(step.actions, sight.found.applied()),
        notes=tuple(note for note in notes if note),
    )


def table_of(view: PlanView) -> RenderableType:
    """Actions in order, then what could not be seen."""
    table = grid("#", "ACTION", "ON", "DETAIL")
    for row in view.actions:
        table.add_row(str(row.number), *map(Text, (row.action, row.target, row.detail)))
    title = Text.assemble((view.service, "bold"), f": {view.state}, revision {view.revision}")
    nothing = Text("nothing to do", "green")
    notes = [Text(f"note: {note}", "dim") for note in view.notes]
    return Group(title, table if view.actions else nothing, *notes)
