"""Runs a program that ends when its parent does: `python leash.py PARENT_PID PROGRAM ARGUMENT...`.

A file of its own, started as a script, because the alternative is Python code between fork and exec, which may deadlock
in a process with threads. The kernel keeps the death signal across exec. Not on Linux: the program simply runs.
"""

from __future__ import annotations

import ctypes
import os
import signal
import sys

PR_SET_PDEATHSIG = 1


def main() -> None:
    parent, program = int(sys.argv[1]), sys.argv[2:]
    if sys.platform == "linux":
        ctypes.CDLL(None).prctl(PR_SET_PDEATHSIG, signal.SIGKILL)
        if os.getppid() != parent:  # the parent ended before prctl: no signal will come
            sys.exit(1)
    os.execv(program[0], program)


if __name__ == "__main__":
    main()
