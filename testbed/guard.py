"""`python -m testbed.guard RUN`: tear RUN down once standard input ends, which happens however the test run dies."""

from __future__ import annotations

import subprocess
import sys
from pathlib import Path

from testbed.store import CHECKOUT
from testbed.undo import tear_down


class Guard:
    """A process that outlives this one by as long as it takes to clean up after it."""

    def __init__(self, run: Path) -> None:
        """Start watching; nothing is torn down while this process lives and keeps the guard."""
        argv = [sys.executable, "-m", "testbed.guard", str(run)]
        self._process = subprocess.Popen(argv, stdin=subprocess.PIPE, cwd=CHECKOUT, start_new_session=True)

    def release(self) -> None:
        """Let the guard go: it tears down what is left, which is nothing after a clean stop."""
        self._process.communicate(timeout=120)


def main() -> None:
    """Wait for the end of standard input, then clean up."""
    sys.stdin.buffer.read()
    tear_down(Path(sys.argv[1]))


if __name__ == "__main__":
    main()
