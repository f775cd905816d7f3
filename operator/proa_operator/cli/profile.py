"""`proa profile`."""

from __future__ import annotations

import json
from datetime import UTC, datetime
from pathlib import Path
from typing import Annotated

import typer
import yaml
from rich.console import Console

from proa_operator.api.load import load
from proa_operator.api.performance_profile import PerformanceProfile
from proa_operator.cli import params
from proa_operator.cli.params import Device
from proa_operator.errors import ServeError
from proa_operator.names import Role
from proa_operator.profile.document import document
from proa_operator.profile.run import measure


def profile(
    file: params.File,
    pool: Annotated[Role, typer.Option("--pool", help="Pool whose parallelism the profile names.")] = Role.DECODE,
    name: Annotated[str | None, typer.Option(help="Name of the object.", show_default="SERVICE-POOL")] = None,
    out: Annotated[
        Path | None, typer.Option("--out", "-o", dir_okay=False, help="File to write.", show_default="standard output")
    ] = None,
    seconds: Annotated[float, typer.Option(min=1.0, help="Time to measure, after the load of the model.")] = 120.0,
    device: params.DeviceChoice = Device.AUTO,
) -> None:
    """Measure one worker of a manifest on this machine; write a PerformanceProfile with the error of its fit.

    The worker times steps over batches and contexts, and a cost model is fitted to them: what `proa size`, the
    autoscaler and the simulated engine start from.
    """
    service = load(file, is_local=True)
    found = service.spec.pools.prefill if pool is Role.PREFILL else service.spec.pools.decode
    measured = measure(service.spec, device=device.value, seconds=seconds)
    made = document(
        service.spec,
        found or service.spec.pools.decode,
        measured,
        name=name or f"{service.metadata.name}-{pool.value}",
        date=datetime.now(UTC).strftime("%Y-%m-%d"),
    )
    _write(made, out)
    told = made.spec.provenance
    Console(stderr=True, soft_wrap=True, highlight=False).print(
        f"{told.samples} steps, mean relative error of the fit {float(told.fit_error):.1%}, {told.source}"
    )


def _write(made: PerformanceProfile, out: Path | None) -> None:
    text = yaml.safe_dump(json.loads(made.model_dump_json(by_alias=True, exclude_defaults=True)), sort_keys=False)
    if out is None:
        typer.echo(text, nl=False)
        return
    try:
        out.write_text(text, encoding="utf-8")
    except OSError as error:
        raise ServeError(f"{out} cannot be written: {error.strerror}") from None
