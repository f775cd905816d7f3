"""The Go that builds the bed: the one on PATH, or the one that go.mod names, from the Go module proxy.

Go fetches the release that a go.mod asks for by itself since 1.21. An older one, as Debian 12 has it, can still fetch
that release as a module, with the same check against the public checksum database.
"""

from __future__ import annotations

import json
import platform
import re
import shutil
import subprocess
from pathlib import Path

from testbed.errors import BedError, BedUnavailable
from testbed.progress import say
from testbed.store import SOURCES

FIRST_THAT_SWITCHES = (1, 21)
FETCH_SECONDS = 300
ARCHITECTURES = {"x86_64": "amd64", "aarch64": "arm64"}


def go() -> str:
    """Path of a Go that can build the bed; raises BedError when the one on PATH cannot."""
    found = shutil.which("go") or "go"
    return found if version_of(found) >= FIRST_THAT_SWITCHES else fetch(found, pinned())


def version_of(program: str) -> tuple[int, int]:
    """Major and minor version of a Go."""
    said = _run(program, "version")
    numbers = re.search(r"go(\d+)\.(\d+)", said)
    if numbers is None:
        raise BedUnavailable(f"{program} says {said.strip()!r}: install Go 1.21 or newer")
    return int(numbers[1]), int(numbers[2])


def pinned() -> str:
    """The release that go.mod asks for, as "1.26.0"."""
    (release,) = re.findall(r"^go (\S+)$", (SOURCES / "go.mod").read_text(), re.MULTILINE)
    return str(release)


def fetch(old: str, release: str) -> str:
    """Path of that release of Go, downloaded with an `old` one into its module cache."""
    machine = ARCHITECTURES.get(platform.machine())
    if machine is None:
        raise BedUnavailable(f"no Go {release} for {platform.machine()}: install Go 1.21 or newer")
    say(f"fetching Go {release}")
    module = f"golang.org/toolchain@v0.0.1-go{release}.linux-{machine}"
    folder = Path(json.loads(_run(old, "mod", "download", "-json", module))["Dir"])
    for program in (*(folder / "bin").iterdir(), *(folder / "pkg" / "tool").rglob("*")):  # modules hold no modes
        if program.is_file():
            program.chmod(0o555)
    return str(folder / "bin" / "go")


def _run(*argv: str) -> str:
    done = subprocess.run(argv, capture_output=True, text=True, timeout=FETCH_SECONDS, cwd="/", check=False)
    if done.returncode:
        raise BedError(f"{' '.join(argv)}: {done.stderr.strip() or done.stdout.strip()}")
    return done.stdout
