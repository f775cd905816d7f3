"""Options of local mode from the command line and from this machine."""

from __future__ import annotations

import os

from proa_operator.cli.params import Device
from proa_operator.local.gpus import find_gpus
from proa_operator.local.options import Options


def local_options(
    *,
    prefill: int | None,
    decode: int | None,
    aggregated: bool,
    workers: int | None,
    host: str,
    port: int | None,
    device: Device,
) -> Options:
    """The options, with the cores and GPUs of this machine; a given OMP_NUM_THREADS is left to stand."""
    return Options(
        prefill=prefill,
        decode=decode,
        is_aggregated=aggregated,
        workers=workers,
        host=host,
        port=port,
        device=device.value,
        gpus=None if device is Device.CPU else find_gpus(os.environ),
        num_cores=0 if "OMP_NUM_THREADS" in os.environ else _num_cores(),
    )


def _num_cores() -> int:
    """Cores that this process may use, where the system tells; a container may have fewer than the machine."""
    if hasattr(os, "sched_getaffinity"):
        return len(os.sched_getaffinity(0))
    return os.cpu_count() or 1
