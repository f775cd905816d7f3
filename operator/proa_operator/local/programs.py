"""Where the two programs are that local mode starts: beside the Python that runs `proa`."""

from __future__ import annotations

import sys
from dataclasses import dataclass
from importlib.util import find_spec
from pathlib import Path

from proa_operator.errors import PlanError


@dataclass(frozen=True, slots=True, kw_only=True)
class Programs:
    """First words of the command lines."""

    worker: tuple[str, ...]
    gateway: tuple[str, ...]


def installed() -> Programs:
    """The programs of this installation. Raises PlanError with the command that installs a missing one."""
    gateway = Path(sys.executable).with_name("smg")
    if not gateway.exists():
        raise PlanError("the gateway smg is not installed: pip install 'proa[operator]'")
    if find_spec("proa_workers") is None or find_spec("smg_grpc_proto") is None:
        raise PlanError("the workers are not installed: pip install 'proa[workers]'")
    return Programs(worker=(sys.executable, "-m", "proa_workers.main"), gateway=(str(gateway), "launch"))
