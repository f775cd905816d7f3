"""Measures every (load, endpoint) pair of one `proa bench` call, one after the other."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from dataclasses import dataclass, replace
from itertools import islice

from proa_operator.bench.client import Endpoint
from proa_operator.bench.connections import Connections
from proa_operator.bench.drive import Driver, Run, poisson_times
from proa_operator.bench.measure import Slo, Summary, summarize
from proa_operator.bench.probe import measure_density
from proa_operator.bench.prompt import TokenDensity
from proa_operator.bench.record import RequestRecord
from proa_operator.bench.settings import Load, Target
from proa_operator.bench.workload import RequestPlan

TEXT_SEED_STEP = 1009  # words of different (load, endpoint) pairs differ: none finds the other's prefixes cached


@dataclass(frozen=True, slots=True, kw_only=True)
class Measured:
    """One load at one endpoint."""

    target: Target
    load: Load
    density: TokenDensity
    summary: Summary
    records: tuple[RequestRecord, ...]

    @property
    def output_tokens_per_second_per_worker(self) -> float:
        return self.summary.output_tokens_per_second / self.target.num_workers


@dataclass(frozen=True, slots=True, kw_only=True)
class Session:
    """`seed` draws lengths and arrival times, the same for every endpoint; `text_seed` draws words.

    `on_start` is called before each pair with its number of requests if known, `on_end` after each request.
    """

    pairs: tuple[tuple[Target, Endpoint], ...]
    loads: tuple[Load, ...]
    slo: Slo
    seed: int
    text_seed: int
    on_start: Callable[[Target, Load], None]
    on_end: Callable[[RequestRecord], None]

    async def measure(self) -> list[Measured]:
        """All loads in order; within a load the endpoints take turns in beginning, so that drift hits both.

        Raises EndpointError when an endpoint fails its probe.
        """
        results = []
        for load_idx, load in enumerate(self.loads):
            both = [await self._measure_one(pair_idx, load_idx, load) for pair_idx in self._turns(load_idx)]
            results += sorted(both, key=lambda measured: self._position(measured.target))
        return results

    def _turns(self, load_idx: int) -> list[int]:
        turns = list(range(len(self.pairs)))
        return turns if load_idx % 2 == 0 else turns[::-1]

    def _position(self, target: Target) -> int:
        return [pair[0] for pair in self.pairs].index(target)

    async def _measure_one(self, pair_idx: int, load_idx: int, load: Load) -> Measured:
        target, endpoint = self.pairs[pair_idx]
        text_seed = self.text_seed + TEXT_SEED_STEP * (len(self.pairs) * load_idx + pair_idx)
        async with Connections(endpoint) as connections:
            first = next(plans(load, self.seed))
            density = await measure_density(connections, endpoint, first.input_tokens, text_seed)
            self.on_start(target, load)
            driver = Driver(
                connections=connections,
                endpoint=endpoint,
                density=density,
                seed=text_seed,
                seconds=load.seconds,
                on_end=self.on_end,
            )
            run = await _drive(driver, load, self.seed)
        summary = summarize(run.records, duration_seconds=run.duration_seconds, slo=self.slo)
        return Measured(target=target, load=load, density=density, summary=summary, records=run.records)


async def _drive(driver: Driver, load: Load, seed: int) -> Run:
    if load.concurrency is not None:
        return await driver.closed_loop(plans(load, seed), load.concurrency)
    return await driver.open_loop(plans(load, seed))


def plans(load: Load, seed: int) -> Iterator[RequestPlan]:
    """The requests of `load`; Poisson due times for a synthetic workload with a rate."""
    source = islice(load.workload.plans(seed), load.num_requests)
    if load.rate is None or load.workload.name == "trace":
        return source
    timed = zip(source, poisson_times(load.rate, seed), strict=False)
    return (replace(plan, due_seconds=due) for plan, due in timed)
