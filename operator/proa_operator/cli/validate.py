"""`proa validate`."""

from __future__ import annotations

from typing import Annotated

import typer

from proa_operator import render
from proa_operator.api.load import load
from proa_operator.api.service import DisaggregatedService
from proa_operator.cli import params
from proa_operator.cli.children import NO_UID
from proa_operator.cli.output import Output, as_text
from proa_operator.cli.render_settings import chart_defaults
from proa_operator.cli.where import Format
from proa_operator.local.refusals import refuse
from proa_operator.render import Service


def validate(
    file: params.File,
    local: Annotated[bool, typer.Option("--local", help="Check for `proa up` instead of a cluster.")] = False,
    output: Format = Output.TABLE,
) -> None:
    """Check a manifest as the API server would; each problem is one line with its fix (exit code 2).

    What the operator would refuse of a valid one, with the chart's default values, is named too: `kubectl apply` takes
    it, and nothing starts.
    """
    service = load(file, is_local=local)
    if local:
        refuse(service.spec)
    refused = [] if local else _refused(service)
    name = service.metadata.name
    lines = [f"{file}: {name} is valid", *(f"{file}: the operator would refuse it: {said}" for said in refused)]
    found = {"file": str(file), "service": name, "is_valid": True, "refused": refused}
    typer.echo("\n".join(lines) if output is Output.TABLE else as_text(found, output))


def _refused(manifest: DisaggregatedService) -> list[str]:
    meta = manifest.metadata
    service = Service(name=meta.name, namespace=meta.namespace or "default", uid=NO_UID, spec=manifest.spec)
    return [str(one) for one in render.refusals(service, settings=chart_defaults())]
