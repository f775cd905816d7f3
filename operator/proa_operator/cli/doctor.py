"""`proa doctor`."""

from __future__ import annotations

from typing import Annotated

import typer
from rich import box
from rich.table import Table
from rich.text import Text

from proa_operator.cli.output import Output, show
from proa_operator.doctor.finding import Finding, Level, has_failed
from proa_operator.doctor.machine import Machine
from proa_operator.doctor.node import node_findings

STYLES = {Level.OK: "green", Level.WARN: "yellow", Level.FAIL: "bold red", Level.SKIP: "dim"}


def doctor(
    output: Annotated[Output, typer.Option("--output", "-o", help="Format.")] = Output.TABLE,
) -> None:
    """Check the cluster and this machine for what Proa needs; each finding with its fix.

    Exit code 1 when a check fails.
    """
    findings = node_findings(Machine())
    show(findings, output, lambda: table_of(findings))
    if has_failed(findings):
        raise typer.Exit(1)


def table_of(findings: list[Finding]) -> Table:
    """One row for each check."""
    table = Table(box=box.SIMPLE_HEAD, pad_edge=False)
    for name in ("", "check", "found", "fix"):
        table.add_column(name, overflow="fold")
    for finding in findings:
        mark = Text(finding.level.value, style=STYLES[finding.level])
        table.add_row(mark, Text(finding.check), Text(finding.found), Text(finding.fix))
    return table
