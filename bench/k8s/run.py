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
from testbed.processes import running_with
from testbed.settings import BedSettings
from tests.cluster.kinds import apply_kinds
from tests.cluster.operator_process import Doubles

ROOT = Path(__file__).resolve().parents[2]
PROGRAMS = ("etcd", "kube-apiserver", "kube-controller-manager", "kube-scheduler", "kwok")


async def measure(scale: Scale, *, seed: int, up_seconds: float) -> Row:
    """All phases; TimeoutError or BedError when the cluster does not come up."""
    with ControlPlane(bed_settings(scale)) as bed, Doubles() as doubles:
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


def bed_settings(scale: Scale) -> BedSettings:
    """Leases of played nodes live as long as at 2000 nodes, clients hold nothing back, and each claim has a volume."""
    return BedSettings(lease_seconds=200, node_grace_seconds=600, client_qps=5000, num_volumes=scale.services)


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
    pids = {name: _pid(bed, name) for name in PROGRAMS}
    return Processes(pids={**pids, "bench and played workers": os.getpid()})


def _pid(bed: ControlPlane, name: str) -> int:
    """Other beds run the same programs: this one's are the children of this process."""
    own = [found.pid for found in running_with(str(bed.programs / name)) if _parent(found.pid) == os.getpid()]
    (pid,) = own
    return pid


def _parent(pid: int) -> int:
    return int(Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()[1])


def _cpu_name() -> str:
    lines = Path("/proc/cpuinfo").read_text(encoding="utf-8").splitlines()
    return next((line.split(":", 1)[1].strip() for line in lines if line.startswith("model name")), platform.machine())
