"""Undo what a run noted in its journal, newest first; each undo accepts that its thing was never made or is gone."""

from __future__ import annotations

import os
import shutil
import signal
import subprocess
from collections.abc import Callable
from functools import partial
from pathlib import Path

from testbed.errors import BedError
from testbed.journal import noted, owner_of
from testbed.processes import Identity, running_with, stop
from testbed.progress import say
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
            say(f"cleaning up after {run.name}, whose owner has died")
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
        until(partial(_is_removed, root), seconds=20, what=f"the processes in {root} to end")


def _is_removed(root: Path) -> bool:
    """A group can be removed once its last process is gone; the runtime may remove some of them meanwhile."""
    if _killed(root):
        return False
    for folder, _, _ in os.walk(root, topdown=False):
        try:
            Path(folder).rmdir()
        except FileNotFoundError:
            continue
        except OSError:
            return False
    return True


def _killed(root: Path) -> int:
    """Number of processes below `root` that were told to die just now."""
    pids = [int(pid) for group, _, _ in os.walk(root) for pid in _words(Path(group, "cgroup.procs"))]
    for pid in pids:
        try:
            os.kill(pid, signal.SIGKILL)
        except ProcessLookupError:
            continue
    return len(pids)


def _words(file: Path) -> list[str]:
    try:
        return file.read_text().split()
    except OSError:
        return []


def _mounts(below: str) -> None:
    """Unmount all that is mounted below a folder, newest first."""
    points = [line.split()[1] for line in Path("/proc/self/mounts").read_text().splitlines()]
    for point in reversed([p for p in points if p.startswith(below)]):
        _quietly("umount", "--lazy", point)


def _network(name: str) -> None:
    _quietly("ip", "netns", "del", name)


def _files(folder: str, about: str) -> None:
    """Files in a shared folder that speak of the run folder."""
    for path in Path(folder).glob("*"):
        if about in path.read_text(errors="replace"):
            path.unlink(missing_ok=True)


def _links(folder: str, below: str) -> None:
    """Links in a shared folder that lead into the run folder."""
    for path in Path(folder).glob("*"):
        if path.is_symlink() and str(path.readlink()).startswith(below):
            path.unlink(missing_ok=True)


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
    "files": _files,
    "links": _links,
}
