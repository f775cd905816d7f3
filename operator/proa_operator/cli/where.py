"""Which cluster and namespace: the options that every command for a cluster has."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path
from typing import Annotated

import typer

from proa_operator.cli.output import Output

_PANEL = "Cluster"

Namespace = Annotated[
    str | None,
    typer.Option("--namespace", "-n", help="Namespace.", show_default="the context's", rich_help_panel=_PANEL),
]
AllNamespaces = Annotated[bool, typer.Option("--all-namespaces", "-A", help="All of them.", rich_help_panel=_PANEL)]
Context = Annotated[
    str | None,
    typer.Option("--context", help="Context of the kubeconfig.", show_default="current", rich_help_panel=_PANEL),
]
Kubeconfig = Annotated[
    Path | None,
    typer.Option(
        "--kubeconfig", help="Kubeconfig file.", show_default="$KUBECONFIG, or ~/.kube/config", rich_help_panel=_PANEL
    ),
]
Format = Annotated[Output, typer.Option("--output", "-o", help="Format.")]
Name = Annotated[str, typer.Argument(metavar="NAME", help="A DisaggregatedService.", show_default=False)]


@dataclass(frozen=True, slots=True, kw_only=True)
class Where:
    """The options together."""

    namespace: str | None = None
    context: str | None = None
    kubeconfig: Path | None = None
