"""The named scenarios of the suite. Each is a function of its length and seed; the constants are requests a second."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace
from pathlib import Path

import numpy as np

from proa_operator.simulate import defaults
from proa_operator.simulate.cost import Cost
from proa_operator.simulate.policies.policy import Limits, Slo
from proa_operator.simulate.scenario import Lengths, Scenario, traffic_of
from proa_operator.simulate.trace import trace_traffic
from proa_operator.simulate.traffic import Fault, Floats, Traffic

PROMPT = Lengths(median=4800, sigma=0.6, low=16, high=16384)
OUTPUT = Lengths(median=560, sigma=0.6, high=4000)
LONG_PROMPT = Lengths(median=13000, sigma=0.2, low=16, high=16384)
SHORT_OUTPUT = Lengths(median=120, sigma=0.5, high=800)
HIT_RATE = 0.2
COOL_DOWN_SECONDS = 120.0  # after the last arrival, for answers to end


@dataclass(frozen=True, slots=True, kw_only=True)
class Service:
    """What scenarios have in common."""

    cost: Cost
    slo: Slo = defaults.SLO
    limits: Limits = defaults.LIMITS
    fabric_bytes_per_second: float = defaults.FABRIC_BYTES_PER_SECOND

    def scenario(self, name: str, traffic: Traffic, seconds: float, faults: Sequence[Fault] = ()) -> Scenario:
        return Scenario(
            name=name,
            traffic=traffic,
            cost=self.cost,
            slo=self.slo,
            limits=self.limits,
            end_seconds=seconds + COOL_DOWN_SECONDS,
            fabric_bytes_per_second=self.fabric_bytes_per_second,
            faults=faults,
        )


Build = Callable[[Service, int, np.random.Generator], Scenario]


def _plain(rng: np.random.Generator, rate: Floats) -> Traffic:
    return traffic_of(rng, rate, PROMPT, OUTPUT, HIT_RATE)


def _between(seconds: int, start: float, end: float, inside: float, outside: float) -> Floats:
    """`inside` between two shares of the time, else `outside`."""
    share = np.arange(seconds) / seconds
    return np.where((share >= start) & (share < end), inside, outside)


def step(service: Service, seconds: int, rng: np.random.Generator) -> Scenario:
    """Load x4 for a third of the time."""
    return service.scenario("step", _plain(rng, _between(seconds, 0.3, 0.65, 12.0, 3.0)), seconds)


def burst(service: Service, seconds: int, rng: np.random.Generator) -> Scenario:
    """Five minutes of about twice of what the largest pools can serve."""
    end = 0.4 + 300 / seconds
    return service.scenario("burst over capacity", _plain(rng, _between(seconds, 0.4, end, 40.0, 4.0)), seconds)


def sawtooth(service: Service, seconds: int, rng: np.random.Generator) -> Scenario:
    """Slow rise and sudden fall, one tooth an hour."""
    phase = (np.arange(seconds) % 3600) / 3600
    return service.scenario("sawtooth", _plain(rng, 2.0 + 10.0 * phase), seconds)


def bimodal(service: Service, seconds: int, rng: np.random.Generator) -> Scenario:
    """Nine short prompts, one long one: the mean describes neither."""
    rate = _between(seconds, 0.4, 0.8, 14.0, 6.0)
    short = Lengths(median=1000, sigma=0.3, low=16, high=4000)
    traffic = traffic_of(rng, rate, short, OUTPUT, HIT_RATE)
    is_long = rng.uniform(size=len(traffic)) < 0.1
    prompts = np.where(is_long, LONG_PROMPT.draw(rng, len(traffic)), traffic.prompt_tokens)
    return service.scenario("bimodal prompts", replace(traffic, prompt_tokens=prompts), seconds)


def prefill_heavy(service: Service, seconds: int, rng: np.random.Generator) -> Scenario:
    """Long prompts, short answers: only prefill has to grow."""
    traffic = traffic_of(rng, _between(seconds, 0.3, 0.7, 7.0, 2.0), LONG_PROMPT, SHORT_OUTPUT, 0.1)
    return service.scenario("prefill-heavy", traffic, seconds)


def diurnal(service: Service, seconds: int, rng: np.random.Generator) -> Scenario:
    """One day, compressed."""
    phase = 2 * np.pi * np.arange(seconds) / seconds
    return service.scenario("diurnal", _plain(rng, 7.0 - 5.4 * np.cos(phase)), seconds)


def hit_rate_collapse(service: Service, seconds: int, rng: np.random.Generator) -> Scenario:
    """Same arrivals, but the prefix cache holds nothing for a third of the time."""
    hits = _between(seconds, 0.35, 0.7, 0.05, 0.65)
    traffic = traffic_of(rng, np.full(seconds, 8.0), PROMPT, OUTPUT, hits)
    return service.scenario("hit-rate collapse", traffic, seconds)


def slow_fabric(service: Service, seconds: int, rng: np.random.Generator) -> Scenario:
    """The fabric keeps 6 % of its speed for a third of the time."""
    traffic = _plain(rng, _between(seconds, 0.3, 0.7, 8.0, 5.0))
    faults = (
        Fault(at_seconds=0.4 * seconds, fabric_factor=0.06),
        Fault(at_seconds=0.75 * seconds, fabric_factor=1.0),
    )
    return service.scenario("slow fabric", traffic, seconds, faults)


def failures(service: Service, seconds: int, rng: np.random.Generator) -> Scenario:
    """Groups die, first one of each pool, later two prefill groups at once."""
    faults = (
        Fault(at_seconds=0.3 * seconds, lost_prefill=1, lost_decode=1),
        Fault(at_seconds=0.6 * seconds, lost_prefill=2),
    )
    return service.scenario("failures", _plain(rng, np.full(seconds, 8.0)), seconds, faults)


SCENARIOS: tuple[Build, ...] = (
    step,
    burst,
    sawtooth,
    bimodal,
    prefill_heavy,
    diurnal,
    hit_rate_collapse,
    slow_fabric,
    failures,
)


def recorded(service: Service, path: Path, seconds: int) -> Scenario:
    """The first `seconds` of a recorded trace; lengths and times as they are, hits of a cache of bounded size."""
    traffic = trace_traffic(path, seconds)
    return service.scenario("trace", traffic, min(seconds, float(traffic.arrival_seconds[-1]) + 1))
