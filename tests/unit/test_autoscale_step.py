"""How soon a load five times as large makes the pools grow, in virtual time, for every moment at which it may begin.

The scrape loop of `proa up` reads the pages of a gateway and of two pools, each decision is made from its answers, as
in `proa up`. Only the clock and the pages are made up.
"""

from __future__ import annotations

from dataclasses import dataclass, field, replace

import pytest
from proa_operator.autoscale.decide import Decision, decide
from proa_operator.autoscale.memory import Memory
from proa_operator.autoscale.queries import SCRAPE_SECONDS, Windows
from proa_operator.autoscale.readings import Pools, Readings, readings_of, signals_of
from proa_operator.autoscale.signals import PoolSignals
from proa_operator.local.autoscale import scrape_seconds_of, windows_of
from proa_operator.local.autoscale_scrape import Scraper, Target

from tests.unit.autoscale_cases import config

PERIOD = 15.0
STEP_AT = 180.0
"""When all windows are filled."""
SLOW, FAST = 3.0, 15.0  # requests a second
BUCKETS = ("1000.0", "+Inf")


def num_requests(at: float, step_at: float) -> int:
    """So many have come by then."""
    return int(SLOW * min(at, step_at) + FAST * max(0.0, at - step_at))


def page_of(role: str, count: int) -> str:
    """500 tokens in and 100 out for each request; nothing waits, so growth is owed to the arrivals alone."""
    if not role:
        return f'smg_tokio_workers 2\nsmg_http_requests_total{{method="POST",path="/v1/completions"}} {count}\n'
    rows = ["num_requests_running 3", "num_requests_waiting 0", "kv_cache_usage_perc 0.2"]
    rows.append(f"prefix_cache_queries_total {500 * count}")
    means = {"request_prompt_tokens": 500.0, "request_generation_tokens": 100.0, "inter_token_latency_seconds": 0.03}
    for name, mean in means.items():
        rows += [f'{name}_bucket{{le="{bound}"}} {count}' for bound in BUCKETS]
        rows += [f"{name}_count {count}", f"{name}_sum {mean * count}"]
    return "".join(f"vllm:{row}\n" for row in rows)


@dataclass(slots=True, kw_only=True)
class Clock:
    """Stands in for the module `time` of the scrape loop."""

    at: float = 0.0

    def time(self) -> float:
        return self.at


@dataclass(slots=True, kw_only=True)
class Trial:
    """One step of the load on a service of one group for each role."""

    clock: Clock
    windows: Windows
    scrape_seconds: float
    scrape_late: float
    """Seconds from a decision to the next scrape."""
    up_window: float
    step_at: float
    """Seconds of the clock; decisions are made at multiples of PERIOD."""
    memory: Memory = field(default_factory=Memory)

    async def growth_seconds(self) -> float:
        """From the step of the load to the first decision with which both pools grow."""
        scraper = Scraper(lambda: (), self.windows, self.scrape_seconds)
        for tick in range(round(self.step_at + 10.0 * PERIOD)):
            self.clock.at = float(tick)
            if (self.clock.at - self.scrape_late) % self.scrape_seconds == 0.0:
                self._scrape(scraper)
            if self.clock.at % PERIOD == 0.0 and self.clock.at > self.windows.slow:
                targets = (await self._decided(scraper)).targets
                if targets.prefill > 1 and targets.decode > 1:
                    return self.clock.at - self.step_at
                assert self.clock.at >= self.step_at or (targets.prefill, targets.decode) == (1, 1)
        raise AssertionError("no growth")

    def _scrape(self, scraper: Scraper) -> None:
        for role in ("", "prefill", "decode"):
            place = {"namespace": "ns", "service": "s", "pod": f"pod-{role}"}
            text = page_of(role, num_requests(self.clock.at, self.step_at))
            scraper.put(Target(url="", labels={**place, "role": role} if role else place), text, self.clock.at)

    async def _decided(self, scraper: Scraper) -> Decision:
        pool = PoolSignals(desired=1, ready=1)
        policy = replace(config().policy, up_window_seconds=self.up_window)
        settings = config(spans=self.windows.spans, policy=policy)
        readings = readings_of(await scraper.read()).get(("ns", "s"), Readings())
        signals = signals_of(readings, Pools(prefill=pool, decode=pool, num_gateways=1), settings, self.clock.at)
        assert signals.is_fresh
        decision = decide(signals, self.memory, settings)
        self.memory = decision.memory
        return decision


@pytest.mark.parametrize("late", range(15))
@pytest.mark.parametrize(
    ("windows", "scrape", "up_periods", "num_periods"),
    [
        (windows_of(PERIOD), (scrape_seconds_of(PERIOD), 0.0), 1, 2),
        (windows_of(PERIOD), (scrape_seconds_of(PERIOD), 0.0), 2, 3),
        (Windows(), (SCRAPE_SECONDS, 1.0), 1, 3),
        (Windows(), (SCRAPE_SECONDS, 1.0), 2, 4),
    ],
    ids=["proa up", "proa up, the usual up window", "a cluster", "a cluster, the usual up window"],
)
async def test_growth_follows_a_step_of_the_load(
    monkeypatch: pytest.MonkeyPatch,
    windows: Windows,
    scrape: tuple[float, float],
    up_periods: int,
    num_periods: int,
    late: int,
) -> None:
    """`late`: seconds after a decision at which the load rises. A cluster's scrapes come as late as they may."""
    clock = Clock()
    monkeypatch.setattr("proa_operator.local.autoscale_scrape.time", clock)
    trial = Trial(
        clock=clock,
        windows=windows,
        scrape_seconds=scrape[0],
        scrape_late=scrape[1],
        up_window=up_periods * PERIOD,
        step_at=STEP_AT + late,
    )
    seconds = await trial.growth_seconds()
    assert seconds <= num_periods * PERIOD
