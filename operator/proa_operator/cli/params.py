"""Options that several commands share."""

from __future__ import annotations

from enum import StrEnum
from pathlib import Path
from typing import Annotated

import typer


class Device(StrEnum):
    """Where local workers compute; torch calls AMD GPUs cuda, too."""

    AUTO = "auto"
    CPU = "cpu"
    CUDA = "cuda"


_AS_MANIFEST = "as in the manifest"
_POOLS = "Pools"

File = Annotated[Path, typer.Argument(metavar="FILE.yaml", help="A DisaggregatedService manifest.", show_default=False)]
Prefill = Annotated[
    int | None,
    typer.Option(min=1, help="Number of prefill workers.", show_default=_AS_MANIFEST, rich_help_panel=_POOLS),
]
Decode = Annotated[
    int | None, typer.Option(min=1, help="Number of decode workers.", show_default=_AS_MANIFEST, rich_help_panel=_POOLS)
]
Aggregated = Annotated[
    bool,
    typer.Option(
        "--aggregated", help="One pool: every worker reads prompts and writes answers.", rich_help_panel=_POOLS
    ),
]
Workers = Annotated[
    int | None,
    typer.Option(
        min=1,
        help="Number of workers of the one pool.",
        show_default="prefill + decode",
        rich_help_panel=_POOLS,
    ),
]
Host = Annotated[str, typer.Option(help="Address on which the gateway listens; 0.0.0.0 for all.")]
Port = Annotated[
    int | None, typer.Option(min=1, max=65535, help="Port of the gateway.", show_default="spec.gateway.port, or 8000")
]
DeviceChoice = Annotated[
    Device, typer.Option("--device", help="Where workers compute; auto takes a GPU if there is one.")
]
Profile = Annotated[
    Path | None,
    typer.Option(
        dir_okay=False, help="A PerformanceProfile, for spec.autoscaling; without one the autoscaler only recommends."
    ),
]
StateDir = Annotated[
    Path | None,
    typer.Option(file_okay=False, help="Folder for log files.", show_default="~/.local/state/proa/NAME-PORT"),
]
