"""Runs a plan from the first process to the last signal."""

from __future__ import annotations

import asyncio
import signal
from collections.abc import Awaitable, Callable, Iterator
from contextlib import contextmanager

from proa_operator.local import prometheus
from proa_operator.local.process import LocalPlan
from proa_operator.local.supervise import Supervisor
from proa_operator.local.view import View


async def serve(plan: LocalPlan, view: View, while_serving: Callable[[Supervisor], Awaitable[None]]) -> None:
    """Starts all processes, awaits `while_serving` once all serve, then stops; SIGINT and SIGTERM stop at any time.

    Raises ProaError of a process that could not be started, and whatever `while_serving` raises.
    """
    supervisor = Supervisor(plan, view.changed)
    prometheus.write_config(plan.state_dir)
    prometheus.write_targets(plan.state_dir, plan.service, plan.processes)
    follow = asyncio.create_task(view.follow(supervisor.children.values()))
    run = asyncio.create_task(supervisor.run())
    visit = asyncio.create_task(_visit(supervisor, while_serving))
    with _signals(lambda: _stop(supervisor, view)):
        try:
            await asyncio.wait([run, visit], return_when=asyncio.FIRST_COMPLETED)
            if not run.done():
                supervisor.ask_stop()
            await run
        finally:
            for task in (visit, follow):
                task.cancel()
            ends = await asyncio.gather(visit, follow, return_exceptions=True)
    for end in ends:
        if isinstance(end, BaseException) and not isinstance(end, asyncio.CancelledError):
            raise end


async def _visit(supervisor: Supervisor, while_serving: Callable[[Supervisor], Awaitable[None]]) -> None:
    await supervisor.serving()
    await while_serving(supervisor)


def _stop(supervisor: Supervisor, view: View) -> None:
    if not supervisor.is_stopping:
        view.say("stopping: running requests may finish; Ctrl-C again ends them")
    supervisor.ask_stop()


@contextmanager
def _signals(act: Callable[[], None]) -> Iterator[None]:
    loop = asyncio.get_running_loop()
    signals = (signal.SIGINT, signal.SIGTERM)
    for number in signals:
        loop.add_signal_handler(number, act)
    try:
        yield
    finally:
        for number in signals:
            loop.remove_signal_handler(number)
