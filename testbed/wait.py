"""The only way the test bed waits: a condition, a deadline and a name for what is awaited."""

from __future__ import annotations

import time
from collections.abc import Callable
from typing import TypeVar

from testbed.errors import BedError

T = TypeVar("T")


def until(
    condition: Callable[[], T | None],
    *,
    seconds: float,
    what: str,
    every: float = 0.1,
    error: type[Exception] = BedError,
) -> T:
    """First true value of `condition`, asked every `every` seconds; raises `error` after `seconds` without one."""
    deadline = time.monotonic() + seconds
    while not (value := condition()):
        if time.monotonic() > deadline:
            raise error(f"{what}: not after {seconds:g} s")
        time.sleep(every)
    return value
