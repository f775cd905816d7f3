"""What the command line of `proa up` changes about a manifest."""

from __future__ import annotations

from dataclasses import dataclass

from proa_operator.errors import PlanError
from proa_operator.local.gpus import Gpus


@dataclass(frozen=True, slots=True, kw_only=True)
class Options:
    """Absent values leave the manifest as it is. Raises PlanError for numbers that serve nothing."""

    prefill: int | None = None
    """Number of prefill workers."""
    decode: int | None = None
    """Number of decode workers."""
    is_aggregated: bool = False
    """Serve from one pool, whatever the manifest says."""
    workers: int | None = None
    """Number of workers of the one pool."""
    host: str = "127.0.0.1"
    port: int | None = None
    """Port of the gateway."""
    device: str = "auto"
    """auto, cpu or cuda."""
    gpus: Gpus | None = None
    """GPUs of this machine, given to the workers in turn."""
    num_cores: int = 0
    """CPU cores to share among the workers' compute threads; 0 leaves the number of threads to torch."""

    def __post_init__(self) -> None:
        for name in ("prefill", "decode", "workers"):
            number = getattr(self, name)
            if number is not None and number < 1:
                raise PlanError(f"--{name} is {number}: a service needs at least 1")
