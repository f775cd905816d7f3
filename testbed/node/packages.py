"""Debian packages that the node needs."""

from __future__ import annotations

import shutil
from pathlib import Path

from testbed import debian

PROGRAMS = {
    "containerd": "containerd",
    "ctr": "containerd",
    "runc": "runc",
    "iptables": "iptables",
    "conntrack": "conntrack",
    "busybox": "busybox-static",
    "ip": "iproute2",
    "nsenter": "util-linux",
}
PLUGINS = Path("/usr/lib/cni")


def missing_packages() -> list[str]:
    """Debian packages whose programs are not there."""
    found = {package for program, package in PROGRAMS.items() if shutil.which(program) is None}
    if not (PLUGINS / "bridge").exists():
        found.add("containernetworking-plugins")
    return sorted(found)


def install_packages() -> None:
    """Install what is missing; raises BedUnavailable with one line when that fails."""
    debian.install(missing_packages)
