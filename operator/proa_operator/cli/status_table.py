"""Tables of `proa status`."""

from __future__ import annotations

from collections.abc import Iterable, Sequence

from rich.console import Group, RenderableType
from rich.table import Table
from rich.text import Text

from proa_operator.cli.output import grid
from proa_operator.cli.status_view import ConditionRow, PoolRow, ServiceView, StartingRow, age

_MARKS = {True: ("ok", "green"), False: ("!!", "bold red"), None: ("?", "yellow")}


def overview(views: Sequence[ServiceView], now: float) -> Table:
    """One row for each service."""
    table = grid("NAMESPACE", "NAME", "PREFILL", "DECODE", "STATE", "REVISION", "AGE", "MESSAGE")
    for view in views:
        cells = (view.namespace, view.name, view.prefill or "-", view.decode or "-")
        tail = (view.revision or "-", age(view.created, now), view.message)
        table.add_row(*map(Text, cells), _state(view), *map(Text, tail))
    return table


def detail(view: ServiceView, now: float) -> RenderableType:
    """All of one service."""
    parts: list[RenderableType] = [_headline(view, now)]
    if view.pools:
        parts += [Text(), _pools(view.pools)]
    if view.starting:
        parts += [Text(), _starting(view.starting)]
    if view.conditions:
        parts += [Text(), _conditions(view.conditions, now)]
    return Group(*parts)


def _headline(view: ServiceView, now: float) -> Text:
    line = Text.assemble((view.name, "bold"), f" in {view.namespace}: ", _state(view))
    facts = [view.topology, f"revision {view.revision}" if view.revision else "", age(view.created, now)]
    line.append(f"  ({', '.join(fact for fact in facts if fact)})", "dim")
    if view.message:
        line.append(f"\n{view.message}", "yellow")
    return line


def _state(view: ServiceView) -> Text:
    return Text(view.phase, "green" if view.phase == "Serving" else "yellow")


def _pools(rows: Iterable[PoolRow]) -> Table:
    table = grid("POOL", "REVISION", "DESIRED", "READY", "ROUTABLE", "DRAINING", numbers=4)
    for row in rows:
        is_part = row.desired is None
        revision = Text(row.revision or "all", "" if row.is_target else "dim")
        if is_part and row.is_target:
            revision.append(" (target)", "green")
        counts = ("" if row.desired is None else str(row.desired), *map(str, (row.ready, row.routable, row.draining)))
        table.add_row(Text("" if is_part else row.pool), revision, *counts)
    return table


def _starting(rows: Iterable[StartingRow]) -> Table:
    table = grid("STARTING GROUP", "PHASE")
    for row in rows:
        table.add_row(Text(row.group), Text(row.phase if row.percent is None else f"{row.phase} {row.percent}%"))
    return table


def _conditions(rows: Iterable[ConditionRow], now: float) -> Table:
    table = grid("", "CONDITION", "STATUS", "SINCE", "REASON", "MESSAGE")
    for row in rows:
        mark, style = _MARKS[row.is_good]
        cells = (row.type, row.status, age(row.since, now), row.reason, row.message)
        table.add_row(Text(mark, style), *map(Text, cells))
    return table
