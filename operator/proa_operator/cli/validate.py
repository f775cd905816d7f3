"""`proa validate`."""

from __future__ import annotations

from typing import Annotated

import typer

from proa_operator.api.load import load
from proa_operator.cli import params
from proa_operator.cli.output import Output, show
from proa_operator.cli.where import Format
from proa_operator.local.refusals import refuse


def validate(
    file: params.File,
    local: Annotated[bool, typer.Option("--local", help="Check for `proa up` instead of a cluster.")] = False,
    output: Format = Output.TABLE,
) -> None:
    """Check a manifest as the API server would; each problem is one line with its fix (exit code 2)."""
    service = load(file, is_local=local)
    if local:
        refuse(service.spec)
    found = {"file": str(file), "service": service.metadata.name, "is_valid": True}
    show(found, output, lambda: f"{file}: {service.metadata.name} is valid")
