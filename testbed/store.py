"""Where the test bed keeps what it built and what it runs."""

from __future__ import annotations

import fcntl
import hashlib
import os
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

from testbed.errors import BedError
from testbed.wait import until

SOURCES = Path(__file__).resolve().parent
CHECKOUT = SOURCES.parent


def cache_root() -> Path:
    """`$PROA_TEST_CACHE`, else `~/.cache/proa-testbed`."""
    return Path(os.environ.get("PROA_TEST_CACHE") or Path.home() / ".cache" / "proa-testbed")


def key_of(*parts: bytes) -> str:
    """16 hex digits over `parts`, in order."""
    return hashlib.sha256(b"\0".join(parts)).hexdigest()[:16]


def runs_root() -> Path:
    """One folder below it per running bed; short, as Unix socket paths end at 107 bytes."""
    return cache_root() / "run"


@contextmanager
def exclusively(path: Path, *, seconds: float, what: str) -> Iterator[None]:
    """Hold an exclusive lock on `path`; raises BedError when another process holds it for longer than `seconds`."""
    path.parent.mkdir(parents=True, exist_ok=True)
    with path.open("w") as handle:
        until(lambda: _locked(handle.fileno()), seconds=seconds, what=what, error=BedError)
        yield


def _locked(descriptor: int) -> bool:
    try:
        fcntl.flock(descriptor, fcntl.LOCK_EX | fcntl.LOCK_NB)
    except BlockingIOError:
        return False
    return True
