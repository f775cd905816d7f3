"""The records of `proa up`: every decision a line, in one file and at most one older one."""

from __future__ import annotations

import contextlib
import json
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

RECORDS = "decisions.jsonl"
OLDER_RECORDS = "decisions.1.jsonl"
MOST_BYTES = 64 * 2**20
"""Of each file. A decision takes about 10 kB, so it holds a day at the usual period."""


class DecisionLog:
    """Anew with each start, as the log files. A disk that is full costs records, not the service."""

    def __init__(self, folder: Path, say: Callable[[str], None], most_bytes: int = MOST_BYTES) -> None:
        self.path = folder / RECORDS
        self._older = folder / OLDER_RECORDS
        self._say, self._most_bytes = say, most_bytes
        self._is_failing = False
        with self._survived():
            self._older.unlink(missing_ok=True)
            self.path.write_bytes(b"")

    def add(self, record: dict[str, Any]) -> None:
        """One line. Trouble is said once, until a record is written again."""
        line = (json.dumps(record, separators=(",", ":")) + "\n").encode()
        with self._survived():
            if self.path.exists() and self.path.stat().st_size + len(line) > self._most_bytes:
                self.path.replace(self._older)
            with self.path.open("ab") as file:
                file.write(b"\n" + line if self._is_failing else line)  # an unfinished line must not spoil this one
            self._is_failing = False

    @contextlib.contextmanager
    def _survived(self) -> Iterator[None]:
        try:
            yield
        except OSError as error:
            if not self._is_failing:
                self._say(f"decisions are not recorded ({error}): free space or mend the folder; scaling goes on")
            self._is_failing = True
