"""Debian packages that the bed needs, installed when their programs are missing and this machine lets us."""

from __future__ import annotations

import os
import shutil
import subprocess
from collections.abc import Callable, Iterable, Sequence

from testbed.errors import BedUnavailable
from testbed.progress import say

INSTALL_SECONDS = 300
TOOLS = {"go": "golang-go", "openssl": "openssl"}
"""Program -> package: what both tiers need."""


def can_install() -> bool:
    """Whether this is root on a machine with apt-get."""
    return os.geteuid() == 0 and shutil.which("apt-get") is not None


def missing_tools() -> list[str]:
    """Packages of `TOOLS` whose programs are not there."""
    return [package for program, package in TOOLS.items() if shutil.which(program) is None]


def install(missing: Callable[[], Sequence[str]]) -> None:
    """Install what `missing` names; raises BedUnavailable with one line when it still names something afterwards."""
    names = missing()
    if not names:
        return
    if can_install():
        say(f"installing {', '.join(names)}")
        _install(names)
    if still := missing():
        raise BedUnavailable(f"the test bed needs the Debian packages {' '.join(still)}: apt-get install them")


def _install(names: Iterable[str]) -> None:
    wait = ["--option", "DPkg::Lock::Timeout=120"]
    install = ["apt-get", *wait, "install", "--yes", "--no-install-recommends", *names]
    if _quietly(*install) and _quietly("apt-get", *wait, "update") == 0:
        _quietly(*install)


def _quietly(*argv: str) -> int:
    environment = {**os.environ, "DEBIAN_FRONTEND": "noninteractive"}
    done = subprocess.run(argv, capture_output=True, timeout=INSTALL_SECONDS, env=environment, check=False)
    return done.returncode
