"""All processes of a plan: started in the order of their needs, kept alive, stopped in the reverse order."""

from __future__ import annotations

import asyncio
from collections.abc import Callable, Iterable, Sequence
from dataclasses import replace
from pathlib import Path

from proa_operator.errors import PlanError
from proa_operator.local.backoff import Backoff
from proa_operator.local.child import Child
from proa_operator.local.process import LocalPlan, Process


class Supervisor:
    """Runs a plan until `stop` is asked for or a process cannot be started."""

    def __init__(
        self, plan: LocalPlan, on_change: Callable[[Child, str], None], *, backoff: Backoff | None = None
    ) -> None:
        """Raises PlanError when no log file can be written."""
        self._state_dir, self._on_change, self._backoff = plan.state_dir, on_change, backoff
        self.children = {process.name: self._child(process) for process in plan.processes}
        _make_logs(plan.state_dir, [child.log_path for child in self.children.values()])
        self._stop_asked = asyncio.Event()
        self._hurry = asyncio.Event()
        self._lives: dict[str, asyncio.Task[None]] = {}
        self._added: set[str] = set()

    @property
    def is_stopping(self) -> bool:
        """Whether a stop was asked for."""
        return self._stop_asked.is_set()

    def ask_stop(self) -> None:
        """Drain and stop; asked a second time, stop without draining."""
        if self._stop_asked.is_set():
            self._hurry.set()
        self._stop_asked.set()

    def add(self, process: Process, *, needed_by: str = "") -> None:
        """Start one more process, beside those of the plan; it stops after the one that needs it. PlanError: no log.

        When it cannot be started, it is dropped and the others go on: a service that grows loses nothing by trying.
        """
        child = self._child(process)
        _make_logs(self._state_dir, [child.log_path])
        self.children[process.name] = child
        self._added.add(process.name)
        if needed_by:
            other = self.children[needed_by]
            other.process = replace(other.process, needs=(*other.process.needs, process.name))
        self._begin(child)

    async def remove(self, name: str) -> None:
        """Drain and stop one process for good."""
        child, life = self.children[name], self._lives.pop(name)
        await child.stop(self._hurry)
        life.cancel()
        await asyncio.gather(life, return_exceptions=True)
        if not self._stop_asked.is_set():
            self._drop(name)

    def _drop(self, name: str) -> None:
        del self.children[name]
        for other in self.children.values():
            kept = tuple(need for need in other.process.needs if need != name)
            other.process = replace(other.process, needs=kept)

    async def serving(self) -> None:
        """Returns once every process serves."""
        await self._serving(self.children)

    async def _serving(self, names: Iterable[str]) -> None:
        for name in names:
            await self.children[name].is_serving.wait()

    async def _wait_stop(self) -> None:
        await self._stop_asked.wait()

    async def run(self) -> None:
        """Runs everything until a stop is asked for. Raises ProaError of the process that could not be started."""
        for child in self.children.values():
            self._begin(child)
        try:
            await self._stop_asked.wait()
        finally:
            self._stop_asked.set()
            lives = list(self._lives.values())
            for wave in stop_waves([child.process for child in self.children.values()]):
                await asyncio.gather(*(self.children[name].stop(self._hurry) for name in wave))
            results = await asyncio.gather(*lives, return_exceptions=True)
        for failure in results:
            if isinstance(failure, BaseException):
                raise failure

    def _child(self, process: Process) -> Child:
        log_path = self._state_dir / f"{process.name}.log"
        return Child(process, log_path=log_path, on_change=self._on_change, backoff=self._backoff)

    def _begin(self, child: Child) -> None:
        life = asyncio.create_task(self._live(child))
        self._lives[child.process.name] = life
        life.add_done_callback(self._ended)

    def _ended(self, life: asyncio.Task[None]) -> None:
        """A process of the plan that ends while it should live ends all the others."""
        name = next((known for known, own in self._lives.items() if own is life), None)
        if name is None or self._stop_asked.is_set():
            return
        failure = None if life.cancelled() else life.exception()
        if name in self._added and failure is not None:
            del self._lives[name]
            self._on_change(self.children[name], f"is given up: {failure}")
            self._drop(name)
        else:
            self._stop_asked.set()

    async def _live(self, child: Child) -> None:
        needed = asyncio.create_task(self._serving(child.process.needs))
        asked = asyncio.create_task(self._wait_stop())
        await asyncio.wait([needed, asked], return_when=asyncio.FIRST_COMPLETED)
        if not asked.done():
            await child.keep_alive()
        needed.cancel()
        asked.cancel()


def _make_logs(folder: Path, paths: Iterable[Path]) -> None:
    try:
        folder.mkdir(parents=True, exist_ok=True)
        for path in paths:
            path.write_bytes(b"")
    except OSError as error:
        raise PlanError(f"logs cannot be written to {folder} ({error.strerror}): give another --state-dir") from None


def stop_waves(processes: Sequence[Process]) -> list[list[str]]:
    """Names in the order of stopping; those of one wave stop together: what nothing left needs goes first."""
    left = {process.name: process for process in processes}
    waves: list[list[str]] = []
    while left:
        needed = {name for process in left.values() for name in process.needs}
        wave = [name for name in left if name not in needed]
        assert wave, "processes need each other in a circle"
        waves.append(wave)
        left = {name: process for name, process in left.items() if name not in wave}
    return waves
