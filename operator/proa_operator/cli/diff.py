"""`proa diff`."""

from __future__ import annotations

import asyncio
from typing import Annotated

import typer
from rich.console import Group, RenderableType
from rich.text import Text

from proa_operator.api.load import load
from proa_operator.api.service import DisaggregatedService
from proa_operator.cli import params
from proa_operator.cli.cluster import connected
from proa_operator.cli.diff_view import Change, Difference
from proa_operator.cli.differences import DiffView, differences
from proa_operator.cli.observed import see
from proa_operator.cli.operator_settings import operator_of
from proa_operator.cli.output import Output, show
from proa_operator.cli.where import Context, Format, Kubeconfig, Namespace, Where

_STYLES = {Change.ADDED: "green", Change.CHANGED: "yellow", Change.REMOVED: "red"}
_LINE_STYLES = {"@@": "cyan", "---": "bold", "+++": "bold", "-": "red", "+": "green"}


def diff(
    file: params.File,
    brief: Annotated[bool, typer.Option("--brief", help="Name what differs, without the lines.")] = False,
    exit_code: Annotated[bool, typer.Option("--exit-code", help="Exit code 1 when something differs.")] = False,
    namespace: Namespace = None,
    output: Format = Output.TABLE,
    context: Context = None,
    kubeconfig: Kubeconfig = None,
) -> None:
    """Show how the objects of a manifest differ from those in the cluster. Changes nothing.

    Compares what the operator has applied with what it would apply; what others have set in an object stays out. Of a
    new revision one group of each pool is shown, beside the group that it replaces. `proa plan FILE` tells the order.
    """
    manifest = load(file)
    where = Where(namespace=namespace or manifest.metadata.namespace or None, context=context, kubeconfig=kubeconfig)
    view = asyncio.run(_diff(where, manifest))
    show(view, output, lambda: text_of(view, is_brief=brief))
    if exit_code and view.differences:
        raise typer.Exit(1)


async def _diff(where: Where, manifest: DisaggregatedService) -> DiffView:
    async with connected(where) as cluster:
        operator = await operator_of(cluster)
        sight = await see(cluster, manifest.metadata.name, manifest, has_nodes=False)
    return differences(sight, operator.render, (operator.note,) if operator.note else ())


def text_of(view: DiffView, *, is_brief: bool = False) -> RenderableType:
    """Every difference, then one line that sums up."""
    parts: list[Text] = []
    for found in view.differences:
        parts.append(_heading(found))
        parts += [] if is_brief else [_coloured(line) for line in found.lines]
    return Group(*parts, _sum(view), *(Text(f"note: {note}", "dim") for note in view.notes))


def _heading(found: Difference) -> Text:
    note = f" ({found.note})" if found.note else ""
    return Text(f"{found.change.value}: {found.kind} {found.name}{note}", f"bold {_STYLES[found.change]}")


def _coloured(line: str) -> Text:
    style = next((style for start, style in _LINE_STYLES.items() if line.startswith(start)), "")
    return Text(line, style)


def _sum(view: DiffView) -> Text:
    if not view.differences:
        return Text(f"{view.service}: nothing differs", "green")
    counts = {change: sum(found.change is change for found in view.differences) for change in Change}
    text = ", ".join(f"{number} {change.value}" for change, number in counts.items() if number)
    if view.replaces:
        return Text(f"{view.service}: {text}; revision {view.replaces} rolls to {view.revision}", "bold")
    return Text(f"{view.service}: {text}; no group of revision {view.revision} is replaced", "bold")
