"""Measures every (load, endpoint) pair of one `proa bench` call, one after the other."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from dataclasses import dataclass, replace
from itertools import islice

from proa_operator.bench.client import Endpoint, open_client
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
            turn = self.pairs if load_idx % 2 == 0 else self.pairs[::-1]
            for pair_idx, (target, endpoint) in enumerate(turn):
                text_seed = self.text_seed + TEXT_SEED_STEP * (2 * load_idx + pair_idx)
                results.append(await self._measure_one(target, endpoint, load, text_seed))
        return results

    async def _measure_one(self, target: Target, endpoint: Endpoint, load: Load, text_seed: int) -> Measured:
        async with open_client(endpoint) as client:
            first = next(plans(load, self.seed))
            density = await measure_density(client, endpoint, first.input_tokens, text_seed)
            self.on_start(target, load)
            driver = Driver(
                client=client,
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
