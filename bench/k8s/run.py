"""One run: a bed of its own, all phases on it, and where the numbers come from."""

from __future__ import annotations

import importlib.metadata
import os
import platform
import shlex
import subprocess
import sys
import time
from dataclasses import asdict
from datetime import UTC, datetime
from pathlib import Path

from bench.k8s import phases
from bench.k8s.client import Client
from bench.k8s.load import Processes
from bench.k8s.phases import Row, Stage, operator_for
from bench.k8s.scale import Scale
from testbed.control_plane import ControlPlane
from testbed.journal import noted
from testbed.settings import BedSettings
from tests.cluster.kinds import apply_kinds
from tests.cluster.operator_process import Doubles

ROOT = Path(__file__).resolve().parents[2]
BED = BedSettings(lease_seconds=200, node_grace_seconds=600, client_qps=5000, num_volumes=0)
ETCD = {"ETCD_QUOTA_BACKEND_BYTES": str(8 << 30)}  # the history of 1000 starts is more than the usual 2 GiB


async def measure(scale: Scale, *, seed: int, up_seconds: float) -> Row:
    """All phases; TimeoutError or BedError when the cluster does not come up."""
    os.environ |= ETCD
    with ControlPlane(BED) as bed, Doubles() as doubles:
        apply_kinds(bed)
        bed.kubectl("create", "namespace", "proa-system")
        operator = operator_for(bed, "operator-a")
        operator.start()
        stopwatch = time.monotonic()
        async with Client(bed) as client:
            stage = Stage(
                bed=bed,
                scale=scale,
                client=client,
                doubles=doubles,
                operator=operator,
                processes=_processes(bed),
                up_seconds=up_seconds,
                say=lambda text: print(f"[{time.monotonic() - stopwatch:6.0f} s] {text}", file=sys.stderr, flush=True),
            )
            stage.lead(operator)
            try:
                return {**provenance(scale, seed), **await measure_all(stage, seed)}
            finally:
                stage.operator.stop()


async def measure_all(stage: Stage, seed: int) -> Row:
    """The phases in order; the fleet is as large at the end of each as at its start."""
    rows: Row = {}
    stage.say("bring-up")
    rows["bring_up"] = await phases.bring_up(stage)
    stage.say("rest")
    rows["at_rest"] = await phases.at_rest(stage)
    stage.say("changes")
    rows["changes"] = await phases.under_changes(stage, seed)
    stage.say("cold start")
    rows["cold_start"] = await phases.cold_start(stage)
    stage.say("failover")
    rows["failover"] = await phases.failover(stage, seed + 1)
    return rows


def provenance(scale: Scale, seed: int) -> Row:
    """What was run where."""
    commit = subprocess.run(
        ["git", "-C", str(ROOT), "describe", "--always", "--dirty", "--abbrev=12"],
        capture_output=True,
        text=True,
        check=False,
    )
    return {
        "date": datetime.now(UTC).isoformat(timespec="seconds"),
        "command": shlex.join(["python", "-m", "bench.k8s", *sys.argv[1:]]),
        "commit": commit.stdout.strip() or "unknown",
        "cpu": _cpu_name(),
        "num_cores": os.cpu_count(),
        "python": platform.python_version(),
        "kopf": importlib.metadata.version("kopf"),
        "kubernetes": "1.36.3",
        "seed": seed,
        "scale": {**asdict(scale), "pods": scale.pods},
    }


def _processes(bed: ControlPlane) -> Processes:
    """The bed's programs, by its journal, and this process."""
    programs = {words[3]: int(words[1]) for words in noted(bed.run) if words[0] == "process"}
    return Processes(pids={**programs, "bench and played workers": os.getpid()})


def _cpu_name() -> str:
    lines = Path("/proc/cpuinfo").read_text(encoding="utf-8").splitlines()
    return next((line.split(":", 1)[1].strip() for line in lines if line.startswith("model name")), platform.machine())
