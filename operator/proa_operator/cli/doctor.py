"""`proa doctor`."""

from __future__ import annotations

import asyncio
from dataclasses import dataclass
from enum import StrEnum
from typing import Annotated

import typer
from rich.console import Group, RenderableType
from rich.text import Text

from proa_operator.cli.errors import KubeconfigError
from proa_operator.cli.output import Output, grid, show
from proa_operator.cli.where import Context, Format, Kubeconfig, Namespace, Where
from proa_operator.doctor.cluster_facts import ClusterFacts
from proa_operator.doctor.finding import Finding, Level, fail, has_failed, skip
from proa_operator.doctor.machine import Machine
from proa_operator.doctor.node import node_findings
from proa_operator.errors import ProaError

STYLES = {Level.OK: "green", Level.WARN: "yellow", Level.FAIL: "bold red", Level.SKIP: "dim"}
READ_SECONDS = 60.0


class Part(StrEnum):
    """What to check."""

    ALL = "all"
    CLUSTER = "cluster"
    NODE = "node"


@dataclass(frozen=True, slots=True, kw_only=True)
class Report:
    """Findings of both parts; a part that was not asked for is empty."""

    cluster: tuple[Finding, ...] = ()
    node: tuple[Finding, ...] = ()


def doctor(
    part: Annotated[Part, typer.Argument(help="The cluster, this machine (run it on a node), or both.")] = Part.ALL,
    namespace: Namespace = None,
    output: Format = Output.TABLE,
    context: Context = None,
    kubeconfig: Kubeconfig = None,
) -> None:
    """Check the cluster and this machine for what Proa needs; each finding with its fix.

    Exit code 1 when a check fails. A warning means slower, or not for everything.
    """
    where = Where(namespace=namespace, context=context, kubeconfig=kubeconfig)
    report = Report(
        cluster=() if part is Part.NODE else tuple(_cluster(where, is_required=part is Part.CLUSTER)),
        node=() if part is Part.CLUSTER else tuple(node_findings(Machine())),
    )
    show(report, output, lambda: table_of(report))
    if has_failed([*report.cluster, *report.node]):
        raise typer.Exit(1)


def _cluster(where: Where, *, is_required: bool) -> list[Finding]:
    """A cluster that cannot be reached is a finding, too: the machine can still be checked."""
    from proa_operator.doctor.cluster import cluster_findings  # NOTE: for kopf behind it costs a check of a node 0.4 s

    try:
        return cluster_findings(asyncio.run(_facts(where)))
    except KubeconfigError as error:
        missing = fail("Cluster", "no kubeconfig that can be used", str(error))
        return [missing if is_required else skip("Cluster", str(error))]
    except ProaError as error:
        return [fail("Cluster", "cannot be read", str(error))]
    except TimeoutError:
        fix = "check the network and the load of the API server"
        return [fail("Cluster", f"no answer within {READ_SECONDS:g} s", fix)]


async def _facts(where: Where) -> ClusterFacts:
    from proa_operator.cli.cluster import connected
    from proa_operator.doctor.read_cluster import read_facts

    async with connected(where) as cluster, asyncio.timeout(READ_SECONDS):
        return await read_facts(cluster)


def table_of(report: Report) -> RenderableType:
    """One row for each check."""
    parts: list[RenderableType] = []
    for heading, findings in (("CLUSTER", report.cluster), ("THIS MACHINE", report.node)):
        if findings:
            parts += [_table(heading, findings), Text()]
    return Group(*parts[:-1])


def _table(heading: str, findings: tuple[Finding, ...]) -> RenderableType:
    table = grid("", heading, "FOUND", "FIX")
    for finding in findings:
        mark = Text(finding.level.value, style=STYLES[finding.level])
        table.add_row(mark, Text(finding.check), Text(finding.found), Text(finding.fix))
    return table
