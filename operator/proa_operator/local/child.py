"""One supervised process: start, watch, start again, stop."""

from __future__ import annotations

import asyncio
import os
import random
import signal
import sys
import time
from collections.abc import Callable
from enum import StrEnum
from pathlib import Path

from proa_operator.errors import ServeError, StartError
from proa_operator.local import leash
from proa_operator.local.backoff import Backoff
from proa_operator.local.process import Process
from proa_operator.local.readiness import is_idle, is_ready

USER_MISTAKE = 2  # exit code of a process that refused its settings; starting it again changes nothing


class State(StrEnum):
    """Where a supervised process is in its life."""

    WAITING = "waiting"
    STARTING = "starting"
    SERVING = "serving"
    BACKOFF = "backoff"
    DRAINING = "draining"
    STOPPED = "stopped"


class Child:
    """Keeps one process alive until it is stopped."""

    def __init__(
        self,
        process: Process,
        *,
        log_path: Path,
        on_change: Callable[[Child, str], None],
        backoff: Backoff | None = None,
        start_seconds: float = 1800.0,
        max_failed_starts: int = 5,
    ) -> None:
        self.process = process
        self.log_path = log_path
        self.state = State.WAITING
        self.pid: int | None = None
        self.num_restarts = 0
        self.is_serving = asyncio.Event()
        self._on_change = on_change
        self._backoff = backoff or Backoff()
        self._start_seconds = start_seconds
        self._max_failed_starts = max_failed_starts
        self._stopping = asyncio.Event()
        self._running: asyncio.subprocess.Process | None = None
        self._log_offset = 0

    async def keep_alive(self) -> None:
        """Runs the process until `stop`.

        Raises StartError when it refuses its settings (exit code 2), ServeError when it failed to start too often.
        """
        num_failures, has_ever_served = 0, False
        while not self._stopping.is_set():
            code, has_served = await self._live()
            if self._stopping.is_set():
                break
            if code == USER_MISTAKE and not has_served:
                raise StartError(f"{self.process.name}: {self.last_words()}")
            has_ever_served = has_ever_served or has_served
            num_failures = 1 if has_served else num_failures + 1
            if num_failures >= self._max_failed_starts and not has_ever_served:
                raise ServeError(
                    f"{self.process.name} ended {num_failures} times before it served, last with {_how(code)} "
                    f"({self.last_words()}): read {self.log_path}"
                )
            await self._pause(num_failures, code)
        self._enter(State.STOPPED)

    async def stop(self, hurry: asyncio.Event) -> None:
        """SIGTERM, then SIGKILL after the drain deadline or once `hurry` is set. Returns when the process is gone."""
        self._stopping.set()
        running = self._running
        if running is None or running.returncode is not None:
            return
        self._enter(State.DRAINING)
        running.send_signal(signal.SIGTERM)
        gone, hurried, idle = (asyncio.create_task(wait) for wait in (running.wait(), hurry.wait(), self._idle()))
        seconds = self.process.drain_seconds
        await asyncio.wait([gone, hurried, idle], timeout=seconds, return_when=asyncio.FIRST_COMPLETED)
        if not gone.done():
            _kill_group(running.pid)
        await gone
        for task in (hurried, idle):
            task.cancel()
        await asyncio.gather(hurried, idle, return_exceptions=True)

    def last_words(self) -> str:
        """The last line that the process wrote since its last start."""
        with self.log_path.open("rb") as log:
            log.seek(self._log_offset)
            lines = log.read()[-4096:].decode(errors="replace").split("\n")
        written = [line.strip() for line in lines if line.strip()]
        return written[-1] if written else "without a word"

    async def _live(self) -> tuple[int, bool]:
        """One life of the process: (exit code, whether it has served)."""
        running = await self._start()
        if self._stopping.is_set():  # asked for while the process was being made, when there was nothing to stop yet
            _kill_group(running.pid)
        watch = asyncio.create_task(self._watch_start(running))
        code = await running.wait()
        watch.cancel()
        await asyncio.gather(watch, return_exceptions=True)
        _kill_group(running.pid)  # what the process itself started ends with it
        has_served = self.is_serving.is_set()
        self.is_serving.clear()
        self.pid = None
        return code, has_served

    async def _start(self) -> asyncio.subprocess.Process:
        self._log_offset = self.log_path.stat().st_size if self.log_path.exists() else 0
        with self.log_path.open("ab") as log:
            running = await asyncio.create_subprocess_exec(
                *(sys.executable, "-I", "-S", leash.__file__, str(os.getpid()), *self.process.argv),
                stdin=asyncio.subprocess.DEVNULL,
                stdout=log,
                stderr=log,
                env={**os.environ, **dict(self.process.env)},
                start_new_session=True,  # Ctrl-C in the terminal is ours to pass on, in order
            )
        self._running = running
        self.pid = running.pid
        self._enter(State.STARTING)
        return running

    async def _watch_start(self, running: asyncio.subprocess.Process) -> None:
        started = time.monotonic()
        while time.monotonic() - started < self._start_seconds:
            if await is_ready(self.process.ready):
                self.is_serving.set()
                self._enter(State.SERVING, f"after {time.monotonic() - started:.1f} s")
                return
            # often at first, for a small model; loading a large one may take an hour
            await asyncio.sleep(min(1.0, 0.05 + (time.monotonic() - started) / 20))
        self._on_change(self, f"did not serve within {self._start_seconds:.0f} s")
        _kill_group(running.pid)

    async def _idle(self) -> None:
        gauge = self.process.idle
        if gauge is None:
            await asyncio.Event().wait()  # never: the deadline and the process decide
            return
        while not await is_idle(gauge):
            await asyncio.sleep(0.1)

    async def _pause(self, num_failures: int, code: int) -> None:
        seconds = self._backoff.seconds(num_failures, random.uniform)
        self.num_restarts += 1
        self._enter(State.BACKOFF, f"ended with {_how(code)}, starts again in {seconds:.1f} s")
        try:
            await asyncio.wait_for(self._stopping.wait(), seconds)
        except TimeoutError:
            return

    def _enter(self, state: State, detail: str = "") -> None:
        self.state = state
        self._on_change(self, detail)


def _kill_group(pid: int) -> None:
    try:
        os.killpg(pid, signal.SIGKILL)
    except ProcessLookupError:
        return


def _how(code: int) -> str:
    return f"signal {signal.Signals(-code).name}" if code < 0 else f"exit code {code}"
