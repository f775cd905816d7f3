"""The autoscaler of `proa up`: the solver of the operator, on processes of this machine."""

from __future__ import annotations

import asyncio
import contextlib
import time
from collections.abc import AsyncIterator, Iterable
from dataclasses import replace

from prometheus_client import start_http_server
from rich.text import Text

from proa_operator.api.performance_profile import PerformanceProfileSpec
from proa_operator.autoscale import gauges
from proa_operator.autoscale.act import Reason
from proa_operator.autoscale.config import Config, Stance, config_from
from proa_operator.autoscale.decide import Decision, decide
from proa_operator.autoscale.explain import describe
from proa_operator.autoscale.memory import Memory
from proa_operator.autoscale.queries import Windows
from proa_operator.autoscale.readings import MOST_SHORT_ROUNDS, Pools, Readings, is_short, readings_of, signals_of
from proa_operator.autoscale.signals import PoolSignals, Signals
from proa_operator.autoscale.source import Source, Unanswered
from proa_operator.local.autoscale_fleet import Count, Fleet
from proa_operator.local.autoscale_gateway import Gateway
from proa_operator.local.autoscale_prometheus import start_prometheus
from proa_operator.local.autoscale_scrape import Scraper, Target
from proa_operator.local.decision_log import DecisionLog
from proa_operator.local.process import LocalPlan, Process, Role, Scaling
from proa_operator.local.prometheus import NAMESPACE, write_targets
from proa_operator.local.supervise import Supervisor
from proa_operator.local.view import View

_SYNC_SECONDS = 1.0


class Autoscaler:
    """Decides once a period; keeps the gateway's list of workers right in between."""

    def __init__(
        self, plan: LocalPlan, config: Config, fleet: Fleet, source: Source, view: View, records: DecisionLog
    ) -> None:
        self._plan, self._config, self._fleet, self._source, self._view = plan, config, fleet, source, view
        self._records = records
        self._key = (NAMESPACE, plan.service)
        self._memory = Memory()
        self._last: Decision | None = None
        self._short_rounds = 0

    async def run(self) -> None:
        """Until it is cancelled. Decisions missed beside a slow gateway are not made up for."""
        period = self._config.policy.period_seconds
        due = time.monotonic() + period
        while True:
            await asyncio.sleep(min(_SYNC_SECONDS, max(0.0, due - time.monotonic())))
            await self._fleet.sync()
            if time.monotonic() >= due:
                due = time.monotonic() + period
                await self.decide_once(time.time())

    async def decide_once(self, now: float) -> Decision:
        """One decision, carried out unless it is only advice."""
        signals = await self._signals(now)
        started = time.perf_counter()
        decision = decide(signals, self._memory, self._config)
        gauges.export(self._key, signals, self._config, decision, time.perf_counter() - started)
        self._memory = decision.memory
        self._tell(signals, decision)
        if self._config.policy.stance is Stance.ACTIVE:
            self._carry_out(decision)
        return decision

    async def _signals(self, now: float) -> Signals:
        pools = self._pools()
        try:
            readings = readings_of(await self._source.read()).get(self._key, Readings())
        except Unanswered as error:
            return signals_of(Readings(), pools, self._config, now, trouble=str(error))
        self._short_rounds = self._short_rounds + 1 if is_short(readings, pools) else 0
        pools = replace(pools, is_late=self._short_rounds > MOST_SHORT_ROUNDS)
        return signals_of(readings, pools, self._config, now)

    def _pools(self) -> Pools:
        if self._config.is_aggregated:
            return Pools(prefill=PoolSignals(desired=0, ready=0), decode=self._pool(Role.BOTH), num_gateways=1)
        return Pools(prefill=self._pool(Role.PREFILL), decode=self._pool(Role.DECODE), num_gateways=1)

    def _pool(self, role: Role) -> PoolSignals:
        count: Count = self._fleet.count(role)
        return PoolSignals(
            desired=count.wanted,
            ready=count.serving,
            starting=max(0, count.wanted - count.serving),
            draining=count.leaving,
        )

    def _carry_out(self, decision: Decision) -> None:
        targets = decision.targets
        if self._config.is_aggregated:
            self._fleet.want({Role.BOTH: targets.decode})
        else:
            self._fleet.want({Role.PREFILL: targets.prefill, Role.DECODE: targets.decode})
        write_targets(self._plan.state_dir, self._plan.service, self._fleet.processes())

    def _tell(self, signals: Signals, decision: Decision) -> None:
        """Each decision to the file; a line on the screen when it says something new."""
        self._records.add(decision.record)
        if self._last is None or _gist(self._last) != _gist(decision):
            self._view.say(Text(f"{time.strftime('%H:%M:%S')}  autoscaler {describe(signals, decision)}", style="cyan"))
        self._last = decision


def _gist(decision: Decision) -> tuple[object, ...]:
    return decision.targets, decision.outcome.reason is Reason.METRICS_MISSING


async def autoscale(
    plan: LocalPlan, scaling: Scaling, profile: PerformanceProfileSpec | None, supervisor: Supervisor, view: View
) -> None:
    """Until it is cancelled."""
    config = config_of(scaling, profile)
    if profile is None:
        view.say(
            "no --profile FILE with a PerformanceProfile is given: the autoscaler learns how fast the workers are, and "
            "only recommends"
        )
    async with autoscaled(plan, scaling, config, supervisor, view) as autoscaler:
        await autoscaler.run()


@contextlib.asynccontextmanager
async def autoscaled(
    plan: LocalPlan, scaling: Scaling, config: Config, supervisor: Supervisor, view: View
) -> AsyncIterator[Autoscaler]:
    """The parts around an autoscaler, started and ended in order. Raises PlanError for a file that is not writable."""
    fleet = Fleet(supervisor, scaling, Gateway(plan.url, scaling.control_key))
    port = scaling.next_port()
    server, _ = start_http_server(port, addr="127.0.0.1")
    scrape = scrape_seconds_of(config.policy.period_seconds)
    windows = windows_of(config.policy.period_seconds)
    async with contextlib.AsyncExitStack() as stack:
        stack.callback(server.server_close)
        stack.callback(server.shutdown)
        stack.push_async_callback(fleet.close)
        source = await _source(stack, plan, scaling, fleet, supervisor, windows, (scrape, port))
        records = DecisionLog(plan.state_dir, view.say)
        view.say(f"autoscaling ({config.policy.stance.value}); records in {records.path}")
        yield Autoscaler(plan, config, fleet, source, view, records)


async def _source(
    stack: contextlib.AsyncExitStack,
    plan: LocalPlan,
    scaling: Scaling,
    fleet: Fleet,
    supervisor: Supervisor,
    windows: Windows,
    tempo: tuple[float, int],
) -> Source:
    """Debian's Prometheus where it is installed, else a loop of our own."""
    found = await start_prometheus(plan, scaling, supervisor, windows, scrape_seconds=tempo[0], own_port=tempo[1])
    if found is not None:
        stack.push_async_callback(found.close)
        return found
    scraper = Scraper(lambda: targets_of(plan.service, fleet.processes()), windows, tempo[0])
    loop = asyncio.create_task(scraper.run())
    stack.callback(loop.cancel)
    return scraper


def config_of(scaling: Scaling, profile: PerformanceProfileSpec | None) -> Config:
    """Settings of the service, for signals that are read with the windows of its period."""
    service = scaling.service
    windows = windows_of(float(service.spec.autoscaling.behavior.period_seconds))
    return config_from(service.metadata.name, service.spec, profile, spans=windows.spans)


def scrape_seconds_of(period_seconds: float) -> float:
    """At least four times a period."""
    return min(1.0, period_seconds / 4.0)


def windows_of(period_seconds: float) -> Windows:
    """Shorter than a cluster's: scrapes are frequent here, and over two periods a step of the load shows in time."""
    scrape = scrape_seconds_of(period_seconds)
    return Windows(
        quick=min(2.0 * period_seconds, 45.0),
        slow=max(8.0 * scrape, min(4.0 * period_seconds, 60.0)),
        stale=max(5.0 * scrape, 3.0),
    )


def targets_of(service: str, processes: Iterable[Process]) -> list[Target]:
    """With the labels that Prometheus gives them."""
    found = []
    for process in processes:
        labels = {"namespace": NAMESPACE, "service": service, "pod": process.name}
        if process.role.is_worker:
            labels["role"] = (Role.DECODE if process.role is Role.BOTH else process.role).value
        found.append(Target(url=process.metrics_url, labels=labels))
    return found
