"""Debian packages that the node needs, installed when they are missing."""

from __future__ import annotations

import os
import shutil
import subprocess
from pathlib import Path

from testbed.errors import BedUnavailable
from testbed.progress import say

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
INSTALL_SECONDS = 300


def missing_packages() -> list[str]:
    """Debian packages whose programs are not there."""
    found = {package for program, package in PROGRAMS.items() if shutil.which(program) is None}
    if not (PLUGINS / "bridge").exists():
        found.add("containernetworking-plugins")
    return sorted(found)


def install_packages() -> None:
    """Install what is missing; raises BedUnavailable with one line when that fails."""
    names = missing_packages()
    if not names:
        return
    say(f"installing {', '.join(names)}")
    wait = ["--option", "DPkg::Lock::Timeout=120"]
    install = ["apt-get", *wait, "install", "--yes", "--no-install-recommends", *names]
    if _quietly(*install) and _quietly("apt-get", *wait, "update") == 0:
        _quietly(*install)
    if still := missing_packages():
        raise BedUnavailable(f"the node needs the Debian packages {' '.join(still)}: apt-get install them")


def _quietly(*argv: str) -> int:
    environment = {**os.environ, "DEBIAN_FRONTEND": "noninteractive"}
    done = subprocess.run(argv, capture_output=True, timeout=INSTALL_SECONDS, env=environment, check=False)
    return done.returncode
