"""A counting line on a terminal while a load runs; nothing when stderr is no terminal."""

from __future__ import annotations

from types import TracebackType
from typing import Self

from rich.console import Console
from rich.progress import BarColumn, MofNCompleteColumn, Progress, TaskID, TextColumn, TimeElapsedColumn

from proa_operator.bench.record import RequestRecord, Status
from proa_operator.bench.settings import Load, Target


class LoadProgress:
    """Shows the running load: requests ended, requests that went wrong."""

    def __init__(self, console: Console) -> None:
        columns = (
            TextColumn("{task.description}", markup=False),
            BarColumn(),
            MofNCompleteColumn(),
            TimeElapsedColumn(),
        )
        # NOTE: two refreshes a second: drawing shares the interpreter with the clock of the measurement.
        self._bar = Progress(*columns, console=console, refresh_per_second=2, disable=not console.is_terminal)
        self._task: TaskID | None = None
        self._name = ""
        self._num_bad = 0

    def __enter__(self) -> Self:
        self._bar.start()
        return self

    def __exit__(self, kind: type[BaseException] | None, error: BaseException | None, at: TracebackType | None) -> None:
        self._bar.stop()

    def start(self, target: Target, load: Load) -> None:
        self._num_bad = 0
        self._name = f"{target.label}, {load}"
        self._task = self._bar.add_task(self._name, total=load.num_requests)

    def end(self, record: RequestRecord) -> None:
        assert self._task is not None, "a request ended before its load began"
        self._num_bad += record.status is not Status.OK
        text = f"{self._name} ({self._num_bad} failed or cut)" if self._num_bad else self._name
        self._bar.update(self._task, advance=1, description=text)
