"""Progress lines on standard error: what the bed has done and after how long."""

from __future__ import annotations

import sys
import time

STARTED = time.monotonic()


def say(line: str) -> None:
    """One line with the seconds since this process started."""
    print(f"test bed: {time.monotonic() - STARTED:5.1f} s  {line}", file=sys.stderr, flush=True)
