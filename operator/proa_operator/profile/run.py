"""Start a worker that measures itself."""

from __future__ import annotations

import itertools
import json
import os
import subprocess
import tempfile
from pathlib import Path
from typing import Any

from proa_operator.api.service import ServiceSpec
from proa_operator.errors import PlanError, StartError
from proa_operator.local.model_folder import resolve
from proa_operator.local.process import Role
from proa_operator.local.programs import installed
from proa_operator.local.refusals import refuse
from proa_operator.local.worker import worker_process
from proa_operator.render.worker_flags import WorkerPorts

LOAD_SECONDS = 3600.0
"""A large checkpoint may load that long before anything is measured."""


def measure(spec: ServiceSpec, *, device: str, seconds: float) -> dict[str, Any]:
    """What `proa-worker --profile` wrote; its progress goes to stderr. UserError for what the user must change."""
    refuse(spec)
    with tempfile.TemporaryDirectory(prefix="proa-profile-") as folder:
        path = Path(folder) / "profile.json"
        process = worker_process(
            spec,
            name="profile",
            role=Role.BOTH,
            program=installed().worker,
            model=resolve(spec.model.uri),
            ports=WorkerPorts.take(itertools.count(50051).__next__),  # it listens nowhere, but its flags name some
            device=device,
            env=() if "OMP_NUM_THREADS" in os.environ else (("OMP_NUM_THREADS", str(_threads())),),
        )
        argv = [*process.argv, f"--profile={path}", f"--profile-seconds={seconds:g}"]
        _run(argv, os.environ | dict(process.env), LOAD_SECONDS + 2 * seconds)
        measured: dict[str, Any] = json.loads(path.read_text(encoding="utf-8"))
    return measured


def _threads() -> int:
    """As for the only worker of `proa up`: one core is left to others."""
    return max(1, (os.cpu_count() or 1) - 1)


def _run(argv: list[str], environ: dict[str, str], seconds: float) -> None:
    try:
        done = subprocess.run(argv, env=environ, timeout=seconds, check=False)
    except subprocess.TimeoutExpired:
        raise StartError(f"the worker did not end within {seconds:.0f} s: give fewer --seconds") from None
    if done.returncode == 2:
        raise PlanError("the worker refused its settings: its line above tells the fix")
    if done.returncode != 0:
        raise StartError(f"the worker ended with status {done.returncode}: its output above tells why")
