"""What the checks of a node may ask the machine: files, sizes, limits, programs. A test plays it with a folder."""

from __future__ import annotations

import os
import resource
import shutil
import subprocess
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path

PROGRAM_SECONDS = 20.0


def run_program(argv: Sequence[str]) -> str | None:
    """Standard output; None when the program is not installed, fails, or takes longer than PROGRAM_SECONDS."""
    path = shutil.which(argv[0])
    if path is None:
        return None
    try:
        done = subprocess.run([path, *argv[1:]], capture_output=True, text=True, timeout=PROGRAM_SECONDS, check=False)
    except (OSError, subprocess.TimeoutExpired, UnicodeDecodeError):
        return None
    return done.stdout if done.returncode == 0 else None


def shm_bytes() -> int | None:
    """Size of /dev/shm; None where there is none."""
    try:
        found = os.statvfs("/dev/shm")
    except OSError:
        return None
    return found.f_blocks * found.f_frsize


def memlock_bytes() -> int | None:
    """Memory that this process may lock; None is unlimited."""
    soft, _ = resource.getrlimit(resource.RLIMIT_MEMLOCK)
    return None if soft == resource.RLIM_INFINITY else soft


@dataclass(frozen=True, slots=True, kw_only=True)
class Machine:
    """This one by default."""

    root: Path = Path("/")
    run: Callable[[Sequence[str]], str | None] = run_program
    shm_bytes: Callable[[], int | None] = shm_bytes
    memlock_bytes: Callable[[], int | None] = memlock_bytes

    def text(self, path: str) -> str | None:
        """Of a file, stripped; None when it cannot be read."""
        try:
            return (self.root / path.lstrip("/")).read_text(errors="replace").strip()
        except OSError:
            return None

    def find(self, pattern: str) -> list[str]:
        """Paths that match, in order; none on a system without that folder."""
        found = self.root.glob(pattern.lstrip("/"))
        return sorted("/" + str(path.relative_to(self.root)) for path in found)
