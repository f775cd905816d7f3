"""The bed's long-running programs: each has a log file and a line in the journal."""

from __future__ import annotations

import subprocess
from collections.abc import Callable, Sequence
from pathlib import Path

from testbed.errors import BedError
from testbed.journal import note
from testbed.processes import Identity
from testbed.wait import until


class Daemons:
    """Starts programs, optionally through `prefix` (as `nsenter`), in the folder of one run."""

    def __init__(self, run: Path, prefix: Sequence[str] = ()) -> None:
        """Logs go below `run`/log."""
        self.run = run
        self.prefix = tuple(prefix)
        self._started: dict[str, subprocess.Popen[bytes]] = {}
        (run / "log").mkdir(exist_ok=True)

    def start(self, name: str, argv: Sequence[str | Path]) -> None:
        """Start `argv` in a session of its own, as an interrupt at the terminal must not reach it first."""
        command = [*self.prefix, *map(str, argv)]
        with self.log(name).open("ab") as log:
            started = subprocess.Popen(
                command, stdin=subprocess.DEVNULL, stdout=log, stderr=log, cwd=self.run, start_new_session=True
            )
        identity = Identity.of(started.pid)
        note(self.run, "process", identity.pid, identity.born, name)
        self._started[name] = started

    def log(self, name: str) -> Path:
        """The log file of the program `name`."""
        return self.run / "log" / f"{name}.log"

    def await_ready(self, name: str, is_ready: Callable[[], bool], *, seconds: float) -> None:
        """Return once `is_ready`; raises BedError with the log's last lines when it ends first or is too slow."""

        def ready_or_dead() -> bool:
            if self._started[name].poll() is not None:
                raise BedError(f"{name} ended at its start: {self._last_lines(name)}")
            return is_ready()

        until(ready_or_dead, seconds=seconds, what=f"{name} to be ready, see {self.log(name)}")

    def reap(self) -> None:
        """Collect the exit statuses of programs that were stopped by their pid."""
        for started in self._started.values():
            started.wait(5)

    def _last_lines(self, name: str) -> str:
        return " | ".join(self.log(name).read_text(errors="replace").splitlines()[-4:])
