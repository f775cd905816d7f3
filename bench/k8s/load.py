"""What the processes of a run take from the machine, from /proc."""

from __future__ import annotations

import os
import time
from dataclasses import dataclass, field
from pathlib import Path

TICKS = os.sysconf("SC_CLK_TCK")


@dataclass(frozen=True, slots=True, kw_only=True)
class Reading:
    """CPU seconds since their start by name of the process, all at one time."""

    at: float
    seconds: dict[str, float]


@dataclass(slots=True, kw_only=True)
class Processes:
    """Processes by name; a name may get another pid when its process was replaced."""

    pids: dict[str, int] = field(default_factory=dict)

    def read(self) -> Reading:
        """Of those that still run."""
        found = {name: cpu_seconds(pid) for name, pid in self.pids.items() if Path(f"/proc/{pid}/stat").exists()}
        return Reading(at=time.monotonic(), seconds=found)

    def since(self, before: Reading) -> dict[str, float]:
        """Cores that each process took on average since `before`; `machine` is the sum of what was measured."""
        now = self.read()
        passed = now.at - before.at
        shares = {
            name: round((seconds - before.seconds.get(name, 0.0)) / passed, 3) for name, seconds in now.seconds.items()
        }
        return {**shares, "all": round(sum(shares.values()), 3)}


def cpu_seconds(pid: int) -> float:
    """User and system time."""
    fields = Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()
    return (int(fields[11]) + int(fields[12])) / TICKS


def rss_mib(pid: int) -> tuple[float, float]:
    """Resident memory now, and the most that it ever was."""
    lines = Path(f"/proc/{pid}/status").read_text().splitlines()
    found = {line.split(":")[0]: float(line.split()[1]) / 1024 for line in lines if line.startswith(("VmRSS", "VmHWM"))}
    return round(found["VmRSS"], 1), round(found["VmHWM"], 1)
