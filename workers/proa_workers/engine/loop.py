"""The thread that owns engine, scheduler and block pool: take commands, schedule, step, commit, report.

Everything that touches blocks runs here, so none of it needs a lock. Other threads send commands (`submit`, `abort`,
`fetched`, `unpin`, `flush`) and get one `Report` a turn.

With an engine that looks ahead, the next step is planned and launched before the tokens of the last one are read, so
that all of this happens while the device computes. Meanwhile of commands only those run that queue sequences: all else
waits until no step is on its way.
"""

from __future__ import annotations

import logging
import queue
import threading
import time
from collections.abc import Callable
from collections.abc import Sequence as Seq
from concurrent.futures import Future
from contextlib import suppress
from dataclasses import dataclass, replace
from typing import TypeVar

from proa_workers.core.block_pool import CacheEvent
from proa_workers.core.load import Load
from proa_workers.core.outcome import Finish, Outcome
from proa_workers.core.plan import StepPlan
from proa_workers.core.scheduler import Fetch, Scheduler, Turn
from proa_workers.core.sequence import Phase, Sequence
from proa_workers.engine.base import Engine, Flight, LookAheadEngine
from proa_workers.engine.flight import Landed, Step
from proa_workers.errors import EngineFailed, WorkerError

T = TypeVar("T")
Command = Callable[[], None]
logger = logging.getLogger(__name__)
IDLE_TICK_SECONDS = 0.5


@dataclass(frozen=True, slots=True, kw_only=True)
class Report:
    """What one turn of the loop brought; `failure` is set once, when the engine broke and the loop ended.

    `time` is the end of the turn on the loop's clock, `step_seconds` the time in the engine.
    """

    time: float
    outcomes: tuple[Outcome, ...] = ()
    fetches: tuple[Fetch, ...] = ()
    cache_events: tuple[CacheEvent, ...] = ()
    step_seconds: float = 0.0
    num_step_tokens: int = 0
    failure: str | None = None


@dataclass(frozen=True, slots=True)
class Joining:
    """A command that only queues sequences, whatever is on its way."""

    command: Command

    def __call__(self) -> None:
        self.command()


class EngineLoop:
    """Drives `engine` with `scheduler` in one thread; `on_report` is called there after each turn with news."""

    def __init__(
        self,
        engine: Engine,
        scheduler: Scheduler,
        on_report: Callable[[Report], None],
        clock: Callable[[], float] = time.monotonic,
    ) -> None:
        self.engine = engine
        self.scheduler = scheduler
        self.load = Load.of(scheduler)
        self._looking = engine if isinstance(engine, LookAheadEngine) and engine.looks_ahead else None
        self._on_report = on_report
        self._clock = clock
        self._commands: queue.SimpleQueue[Command] = queue.SimpleQueue()
        self._deferred: Command | None = None  # taken from the queue, waits until no step is on its way
        self._is_stopping = False
        self._has_failed = False
        self._was_idle = True
        self._next: Step | None = None  # launched, its tokens not read
        self._ended_at = 0.0
        self._untold: list[Outcome] = []
        self._thread = threading.Thread(target=self._run, name="engine", daemon=True)

    def start(self) -> None:
        self._thread.start()

    def stop(self, timeout_seconds: float = 30.0) -> None:
        """End the thread after the step in flight; AssertionError when it does not end in time."""
        self._commands.put(self._set_stopping)
        self._thread.join(timeout_seconds)
        assert not self._thread.is_alive(), f"the engine thread did not end within {timeout_seconds} s"

    def submit(self, seqs: Seq[Sequence]) -> Future[None]:
        """Queue the sequences of one request; the future raises what `Scheduler.add` raises."""
        future, command = self._answered(lambda: self.scheduler.add(seqs))
        self._commands.put(Joining(command))
        return future

    def abort(self, request_id: str) -> Future[list[Sequence]]:
        """End a request (idempotent); its sequences get an `abort` outcome."""
        return self._ask(lambda: self._abort(request_id))

    def fetched(self, seq_id: int, *, is_good: bool, may_recompute: bool) -> None:
        """Say that nothing writes into the sequence's reserved blocks any more, and whether they hold its rows."""
        self._tell(lambda: self._fetched(seq_id, is_good, may_recompute))

    def unpin(self, blocks: Seq[int]) -> None:
        """End a lease's hold on blocks."""
        self._tell(lambda: self.scheduler.pool.unpin(blocks))

    def flush(self) -> Future[bool]:
        """Forget the prefix cache; False while requests run (their prefixes would be lost to them)."""
        return self._ask(self._flush)

    def _tell(self, action: Callable[[], None]) -> None:
        """Nobody waits for it; a broken engine needs it no more."""
        self._commands.put(lambda: None if self._has_failed else action())

    def _ask(self, action: Callable[[], T]) -> Future[T]:
        future, command = self._answered(action)
        self._commands.put(command)
        return future

    def _answered(self, action: Callable[[], T]) -> tuple[Future[T], Command]:
        """`action` as a command, and the future that has its result."""
        future: Future[T] = Future()

        def command() -> None:
            """Runs on the engine's thread; what it raises reaches whoever asked, a bug ends the loop as well."""
            if not future.set_running_or_notify_cancel():
                return  # the caller has left
            if self._has_failed:
                future.set_exception(EngineFailed())
                return
            try:
                future.set_result(action())
            except WorkerError as error:
                future.set_exception(error)
            except Exception:  # the loop ends with it; whoever asked must not wait for ever
                future.set_exception(EngineFailed())
                raise

        return future, command

    def _set_stopping(self) -> None:
        self._is_stopping = True

    def _flush(self) -> bool:
        if not self.scheduler.is_idle:
            return False
        self.scheduler.pool.flush()
        return True

    def _abort(self, request_id: str) -> list[Sequence]:
        seqs = self.scheduler.abort(request_id)
        finish = Finish(reason="abort")
        if seqs:
            self._on_report(Report(time=self._clock(), outcomes=tuple(Outcome(seq=seq, finish=finish) for seq in seqs)))
        return seqs

    def _fetched(self, seq_id: int, is_good: bool, may_recompute: bool) -> None:
        outcome = self.scheduler.fetched(seq_id, is_good=is_good, may_recompute=may_recompute)
        if outcome is not None:
            self._on_report(Report(time=self._clock(), outcomes=(outcome,)))

    def _run(self) -> None:
        try:
            while not self._is_stopping:
                self._take_commands()
                if not self._is_stopping:
                    self._turn()
        except Exception as error:  # a thread's main: whatever broke the engine, waiting requests must hear of it
            logger.exception("engine loop failed")
            self._fail(f"{type(error).__name__}: {error}")
            self._refuse()

    def _take_commands(self) -> None:
        """Run queued commands, unless a step is on its way; wait for one when there is nothing to compute."""
        if self._next is not None:
            return
        try:
            if self._deferred is not None:
                self._run_deferred()
            elif self._can_rest():
                self._commands.get(timeout=IDLE_TICK_SECONDS)()
            while True:
                self._commands.get_nowait()()
        except queue.Empty:
            self._check_idle()

    def _run_deferred(self) -> None:
        command, self._deferred = self._deferred, None
        if command is not None:
            command()

    def _must_land(self) -> bool:
        """Run the commands that only queue sequences; whether another one waits."""
        try:
            while self._deferred is None:
                command = self._commands.get_nowait()
                if isinstance(command, Joining):
                    command()
                else:
                    self._deferred = command
        except queue.Empty:
            return False
        return True

    def _can_rest(self) -> bool:
        return not self.scheduler.running and not self.scheduler.waiting

    def _check_idle(self) -> None:
        """Assert the block invariants once whenever the last request is gone."""
        is_idle = self.scheduler.is_idle
        if is_idle and not self._was_idle:
            self.scheduler.pool.check(idle=True)
        self._was_idle = is_idle

    def _turn(self) -> None:
        turn = self.scheduler.schedule() if self._next is None else Turn(plan=None)
        self._untold = outcomes = list(turn.outcomes)
        step = self._next if turn.plan is None else self._take_off(turn.plan, None)
        ahead = self._plan_ahead(step) if step else Turn(plan=None)
        outcomes += ahead.outcomes
        self._next = self._take_off(ahead.plan, step) if ahead.plan else None
        fetches = turn.fetches + ahead.fetches
        seconds = 0.0
        if step is not None:
            outcomes += self.scheduler.commit(step.plan, step.flight.read())
            seconds = self._clock() - max(step.started_at, self._ended_at)
        self._ended_at = self._clock()
        self.load = self.load.after(self.scheduler, outcomes, seconds, is_ahead=step is not None and step.is_ahead)
        events = tuple(self.scheduler.pool.take_events())
        self._untold = []
        if step is not None or outcomes or fetches or events:
            self._on_report(
                Report(
                    time=self._ended_at,
                    outcomes=tuple(outcomes),
                    fetches=fetches,
                    cache_events=events,
                    step_seconds=seconds,
                    num_step_tokens=step.plan.num_tokens if step else 0,
                )
            )
        elif self.scheduler.waiting and not self.scheduler.running:
            self._wait_for_room()

    def _take_off(self, plan: StepPlan, before: Step | None) -> Step:
        """Launch a step; with `before`, ahead of what that one samples."""
        started_at = self._clock()
        for seq in self.scheduler.planned(plan):
            seq.scheduled_at = seq.scheduled_at or started_at
        if self._looking is None:
            flight: Flight = Landed(plan=plan, output=self.engine.step(plan))
        else:
            flight = self._looking.launch(plan, None if before is None else before.flight)
        return Step(flight=flight, started_at=started_at, is_ahead=before is not None)

    def _plan_ahead(self, step: Step) -> Turn:
        """What follows `step`, whose tokens are not read; nothing if it must wait for them."""
        if self._looking is None or self._must_land():
            return Turn(plan=None)
        return self.scheduler.schedule(step.plan)

    def _wait_for_room(self) -> None:
        """Requests wait for blocks that leases or transfers hold: sleep until a command may have freed some."""
        with suppress(queue.Empty):
            self._commands.get(timeout=IDLE_TICK_SECONDS)()

    def _refuse(self) -> None:
        """Answer whoever still asks, until the process has seen the failure and stops."""
        self._run_deferred()
        while not self._is_stopping:
            with suppress(queue.Empty):
                self._commands.get(timeout=IDLE_TICK_SECONDS)()

    def _fail(self, reason: str) -> None:
        self._has_failed, self._next = True, None
        self.load = replace(self.load, errors_total=self.load.errors_total + 1)
        finish = Finish(reason="error")
        everyone = (*self.scheduler.running, *self.scheduler.waiting, *self.scheduler.fetching.values())
        broken = (Outcome(seq=seq, finish=finish) for seq in everyone if seq.phase is not Phase.FINISHED)
        self._on_report(Report(time=self._clock(), outcomes=(*self._untold, *broken), failure=reason))
