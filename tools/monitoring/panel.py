"""What a dashboard is made of, and how it becomes Grafana's JSON."""

from __future__ import annotations

from dataclasses import dataclass

from grafana_foundation_sdk.builders import common, dashboard, prometheus, stat, timeseries
from grafana_foundation_sdk.builders.dashboard import Dashboard, DatasourceVariable, QueryVariable, Row
from grafana_foundation_sdk.cog.encoder import JSONEncoder
from grafana_foundation_sdk.models.common import (
    BigValueGraphMode,
    LegendDisplayMode,
    LegendPlacement,
    TooltipDisplayMode,
)
from grafana_foundation_sdk.models.dashboard import (
    DashboardCursorSync,
    DataSourceRef,
    VariableRefresh,
)

SOURCE = DataSourceRef(type_val="prometheus", uid="${datasource}")
WIDTH, HEIGHT = 8, 8
"""Grafana's grid has 24 columns: three panels a row."""

MINE = 'namespace=~"$namespace",service=~"$service"'
"""Selector of the chosen services."""


def per_second(counter: str, by: str) -> str:
    """PromQL: how fast a counter of the chosen services rises, summed by labels."""
    return f"sum by ({by}) (rate({counter}{{{MINE}}}[$__rate_interval]))"


@dataclass(frozen=True, slots=True)
class Query:
    """PromQL with `$namespace` and `$service`, and the legend of each series."""

    expr: str
    legend: str


@dataclass(frozen=True, slots=True, kw_only=True)
class Graph:
    """Lines over time. `unit` is Grafana's name of it; `text` says what to make of the panel."""

    title: str
    text: str
    unit: str
    queries: tuple[Query, ...]
    is_stacked: bool = False


@dataclass(frozen=True, slots=True, kw_only=True)
class Number:
    """One number now."""

    title: str
    text: str
    unit: str
    queries: tuple[Query, ...]


def graph(title: str, text: str, unit: str, expr: str, legend: str, *, is_stacked: bool = False) -> Graph:
    """A graph of one query."""
    return Graph(title=title, text=text, unit=unit, queries=(Query(expr, legend),), is_stacked=is_stacked)


def number(title: str, text: str, unit: str, expr: str) -> Number:
    """A number of one series."""
    return Number(title=title, text=text, unit=unit, queries=(Query(expr, ""),))


@dataclass(frozen=True, slots=True, kw_only=True)
class Section:
    """Panels under a heading."""

    title: str
    panels: tuple[Graph | Number, ...]


@dataclass(frozen=True, slots=True, kw_only=True)
class Board:
    """One dashboard; `uid` is also its file's name."""

    uid: str
    title: str
    text: str
    sections: tuple[Section, ...]
    has_service: bool = True
    """Whether it asks for a namespace and a service."""


def rendered(board: Board) -> str:
    """The JSON of a board, the same bytes for the same board."""
    built = dashboard.Dashboard(board.title).uid(board.uid).description(board.text).tags(["proa"])
    built = built.readonly().refresh("30s").time("now-1h", "now").tooltip(DashboardCursorSync.CROSSHAIR)
    built = built.with_variable(DatasourceVariable("datasource").label("Prometheus").type("prometheus"))
    for variable in _variables() if board.has_service else ():
        built = built.with_variable(variable)
    for section in board.sections:
        built = _with_section(built, section)
    return JSONEncoder(sort_keys=True, indent=1).encode(built.build()) + "\n"


def _variables() -> tuple[QueryVariable, QueryVariable]:
    wanted = {"namespace": "proa:requests_running:sum", "service": 'proa:requests_running:sum{namespace=~"$namespace"}'}
    namespace, service = (
        QueryVariable(name)
        .label(name.capitalize())
        .query(f"label_values({series}, {name})")
        .datasource(SOURCE)
        .refresh(VariableRefresh.ON_TIME_RANGE_CHANGED)
        .include_all(True)
        .multi(True)
        for name, series in wanted.items()
    )
    return namespace, service


def _with_section(built: Dashboard, section: Section) -> Dashboard:
    built = built.with_row(Row(section.title))
    for panel in section.panels:
        built = built.with_panel(_graph(panel) if isinstance(panel, Graph) else _number(panel))
    return built


def _graph(panel: Graph) -> timeseries.Panel:
    made = timeseries.Panel().title(panel.title).description(panel.text).unit(panel.unit).datasource(SOURCE)
    made = made.span(WIDTH).height(HEIGHT).min(0).line_width(1).fill_opacity(20 if panel.is_stacked else 0)
    made = made.tooltip(common.VizTooltipOptions().mode(TooltipDisplayMode.MULTI)).legend(
        common.VizLegendOptions()
        .display_mode(LegendDisplayMode.LIST)
        .placement(LegendPlacement.BOTTOM)
        .show_legend(True)
    )
    for target in _targets(panel.queries):
        made = made.with_target(target)
    return made


def _number(panel: Number) -> stat.Panel:
    made = stat.Panel().title(panel.title).description(panel.text).unit(panel.unit).datasource(SOURCE)
    made = made.span(WIDTH // 2).height(HEIGHT // 2).graph_mode(BigValueGraphMode.AREA)
    for target in _targets(panel.queries):
        made = made.with_target(target)
    return made


def _targets(queries: tuple[Query, ...]) -> list[prometheus.Dataquery]:
    """Named A, B, C in their order."""
    return [
        prometheus.Dataquery().expr(query.expr).legend_format(query.legend).ref_id(chr(ord("A") + number))
        for number, query in enumerate(queries)
    ]
