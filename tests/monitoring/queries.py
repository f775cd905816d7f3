"""Queries of dashboards, as Grafana would send them."""

from __future__ import annotations

import re
from collections.abc import Iterable

from tools.monitoring.panel import Board

VARIABLES = {"$namespace": ".+", "$service": ".+", "$__rate_interval": "30s"}
_NAME = re.compile(r"\b(?:proa|vllm|smg|gpu|process)[_:][A-Za-z0-9_:]*")


def filled(expr: str, window: str = "30s") -> str:
    """With the variables of a dashboard, and windows short enough for a test."""
    for name, value in VARIABLES.items():
        expr = expr.replace(name, value)
    return re.sub(r"\[(\d+[mh])\]", f"[{window}]", expr)


def of(boards: Iterable[Board]) -> dict[str, str]:
    """`board / panel / number` -> PromQL as it stands in the dashboard."""
    return {
        f"{board.uid} / {panel.title} / {number}": query.expr
        for board in boards
        for section in board.sections
        for panel in section.panels
        for number, query in enumerate(panel.queries)
    }


def metric_names(expr: str) -> set[str]:
    """Names of Proa's, vLLM's, the gateway's and the exporter's series in an expression."""
    return set(_NAME.findall(expr))
