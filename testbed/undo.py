"""Undo what a run noted in its journal, newest first; each undo accepts that its thing was never made or is gone."""

from __future__ import annotations

import os
import shutil
import signal
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path

from testbed.errors import BedError
from testbed.journal import noted, owner_of
from testbed.processes import Identity, running_with, stop
from testbed.wait import until

CGROUPS = Path("/sys/fs/cgroup")


def tear_down(run: Path) -> None:
    """Undo everything that `run` notes and remove its folder; safe to call twice, and for a run that is half made."""
    for kind, *words in reversed(noted(run)):
        UNDO[kind](*words)
    shutil.rmtree(run, ignore_errors=True)


def sweep(root: Path) -> None:
    """Tear down the runs below `root` whose owner has died without doing so."""
    for run in sorted(root.glob("*/")):
        owner = owner_of(run)
        if owner is not None and not owner.is_alive():
            print(f"test bed: cleaning up after {run.name}, whose owner has died", file=sys.stderr)
            tear_down(run)


def _process(pid: str, born: str, _name: str) -> None:
    stop(Identity(pid=int(pid), born=int(born)))


def _shims(socket: str) -> None:
    """Containers live on when containerd ends: their shims have its socket in their arguments."""
    for shim in running_with(socket):
        stop(shim, seconds=1.0)


def _cgroup(name: str) -> None:
    """Kill what runs in the pods' control groups and remove them, children first."""
    for root in (*CGROUPS.glob(f"*/{name}"), *CGROUPS.glob(name)):
        until(lambda root=root: not _killed(root), seconds=20, what=f"the processes in {root} to end")  # type: ignore[misc]
        for folder, _, _ in os.walk(root, topdown=False):
            Path(folder).rmdir()


def _killed(root: Path) -> int:
    """Number of processes below `root` that were told to die just now."""
    pids = [int(pid) for tasks in root.rglob("cgroup.procs") for pid in tasks.read_text().split()]
    for pid in pids:
        try:
            os.kill(pid, signal.SIGKILL)
        except ProcessLookupError:
            continue
    return len(pids)


def _mounts(below: str) -> None:
    """Unmount all that is mounted below a folder, newest first."""
    points = [line.split()[1] for line in Path("/proc/self/mounts").read_text().splitlines()]
    for point in reversed([p for p in points if p.startswith(below)]):
        _quietly("umount", "--lazy", point)


def _network(name: str) -> None:
    _quietly("ip", "netns", "del", name)


def _link(name: str) -> None:
    _quietly("ip", "link", "del", name)


def _folder(path: str) -> None:
    shutil.rmtree(path, ignore_errors=True)


def _quietly(*argv: str) -> None:
    done = subprocess.run(argv, capture_output=True, text=True, timeout=30, check=False)
    if done.returncode and not any(words in done.stderr for words in ("No such file", "Cannot find", "not mounted")):
        raise BedError(f"{' '.join(argv)}: {done.stderr.strip()}")


UNDO: dict[str, Callable[..., None]] = {
    "process": _process,
    "shims": _shims,
    "cgroup": _cgroup,
    "mounts": _mounts,
    "network": _network,
    "link": _link,
    "folder": _folder,
}
