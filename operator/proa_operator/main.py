"""The operator process: `python -m proa_operator.main`. Settings come from the environment, see `settings.py`."""

from __future__ import annotations

import asyncio
import gc
import importlib.metadata
import os
import sys
from collections.abc import Mapping

import kopf

from proa_operator import metrics
from proa_operator.cluster.reconcile import Planner
from proa_operator.cluster.runtime import PlannerFor, Runtime
from proa_operator.cluster.streams import quiet_kopf, registry_for, settings_for
from proa_operator.errors import ProaError, ServeError
from proa_operator.logs import log_to_stderr
from proa_operator.plan.plan import plan
from proa_operator.plan.renderer import ClusterRenderer
from proa_operator.plan.settings import PlanSettings
from proa_operator.render import RenderSettings
from proa_operator.settings import Settings


def main(environment: Mapping[str, str] = os.environ) -> int:
    """Exit status: 0 after a clean end, 2 for bad settings, 1 otherwise."""
    try:
        settings = Settings.from_environment(environment)
        log_to_stderr(settings.log_format)
        asyncio.run(operate(settings, planner_for))
    except ProaError as error:
        print(f"error: {error}", file=sys.stderr)
        return error.exit_code
    return 0


def planner_for(render: RenderSettings) -> Planner:
    """The real planner with the real renderer."""
    settings, renderer = PlanSettings(), ClusterRenderer(settings=render)
    return lambda observed: plan(observed, settings, renderer)


async def operate(settings: Settings, planner: PlannerFor) -> None:
    """Until a signal or a failure. ServeError for the latter."""
    metrics.BUILD.info({"version": importlib.metadata.version("proa")})
    stop = asyncio.Event()
    failed = asyncio.Event()

    def fail() -> None:
        failed.set()
        stop.set()

    runtime = Runtime(settings, planner, fail)
    _collect_rarely()
    try:
        await runtime.start()
        gc.freeze()
        await _watch(runtime, settings, stop)
    finally:
        await runtime.stop()
    if failed.is_set():
        raise ServeError("a part of the operator has ended, see the log above")


def _collect_rarely() -> None:
    """A full collection stops every service for 0.2 s per 100,000 objects, and the cache has no cycles."""
    gc.set_threshold(20_000, 20, 100)


async def _watch(runtime: Runtime, settings: Settings, stop: asyncio.Event) -> None:
    """kopf handles signals. At its end it waits for its own waiter on the flag, unless that is set."""

    async def end() -> None:
        await runtime.stop()
        stop.set()

    quiet_kopf()
    await kopf.operator(
        registry=registry_for(runtime.on_event, end, sees_events=runtime.sees_events),
        settings=settings_for(),
        standalone=True,
        clusterwide=not settings.namespaces,
        namespaces=settings.namespaces,
        stop_flag=stop,
    )


if __name__ == "__main__":
    sys.exit(main())
