"""A control group of the bed's own, below which the kubelet puts its pods."""

from __future__ import annotations

from pathlib import Path

from testbed.journal import note
from testbed.undo import CGROUPS


def make_cgroup(run: Path, name: str) -> str:
    """Make the group `name` in every hierarchy and return it as the kubelet wants it."""
    note(run, "cgroup", name)
    if (CGROUPS / "cgroup.controllers").exists():
        controllers = (CGROUPS / "cgroup.controllers").read_text().split()
        (CGROUPS / name).mkdir(exist_ok=True)
        for folder in (CGROUPS, CGROUPS / name):
            (folder / "cgroup.subtree_control").write_text(" ".join(f"+{word}" for word in controllers))
        return f"/{name}"
    for hierarchy in CGROUPS.glob("*/cgroup.procs"):
        folder = hierarchy.parent / name
        folder.mkdir(exist_ok=True)
        _inherit_cpus(folder)
    return f"/{name}"


def _inherit_cpus(folder: Path) -> None:
    """A new cpuset has no processor and no memory node, and nothing can be put into it or its children."""
    for file in ("cpuset.cpus", "cpuset.mems"):
        if (folder / file).exists():
            (folder / file).write_text((folder.parent / file).read_text())
    if (folder / "cgroup.clone_children").exists():
        (folder / "cgroup.clone_children").write_text("1")
