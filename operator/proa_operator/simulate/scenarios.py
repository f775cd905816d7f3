"""The named scenarios of the suite. Each is a function of its length and seed; the constants are requests a second."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace
from pathlib import Path

import numpy as np

from proa_operator.api.performance_profile import PerformanceProfileSpec
from proa_operator.simulate import defaults
from proa_operator.simulate.cost import Cost, cost_from
from proa_operator.simulate.errors import SimulateError
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
    load: float = 1.0
    """Factor of all rates of requests."""

    def traffic(
        self, rng: np.random.Generator, rate: Floats, prompt: Lengths, output: Lengths, hit_rate: Floats | float
    ) -> Traffic:
        return traffic_of(rng, self.load * rate, prompt, output, hit_rate)

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


def service_for(profile: PerformanceProfileSpec, slo: Slo) -> Service:
    """Groups as fast as the profile says, and so much load that they are as many as those of the built-in service.

    SimulateError when a group that is all idle misses the objectives with a usual request.
    """
    cost = cost_from(profile)
    usual = cost_from(defaults.PROFILE)
    prompt, context = PROMPT.mean, PROMPT.mean + OUTPUT.mean / 2
    ttft = cost.prefill_seconds(cost.own_seconds(round(prompt), 0), round(prompt))
    itl = cost.decode_seconds(1, context)
    if ttft > slo.ttft_seconds:
        raise SimulateError(f"a prompt of {prompt:.0f} tokens takes {ttft * 1000:.0f} ms on this profile: raise --ttft")
    if itl > slo.itl_seconds:
        raise SimulateError(f"a token takes {itl * 1000:.1f} ms on this profile: raise --itl")
    load = _seconds_of_request(usual, defaults.SLO) / _seconds_of_request(cost, slo)
    return Service(cost=cost, slo=slo, load=load, fabric_bytes_per_second=4 * cost.link_bytes_per_second)


def _seconds_of_request(cost: Cost, slo: Slo) -> float:
    """Of groups, prefill and decode, for a request of mean lengths in full batches."""
    prompt, output = round(PROMPT.mean), OUTPUT.mean
    batch = cost.best_batch(slo.itl_seconds, prompt + output / 2)
    steps = cost.decode_seconds(batch, batch * (prompt + output / 2)) / batch * output
    return cost.prefill_seconds(cost.own_seconds(prompt, 0), prompt) + steps


def _plain(service: Service, rng: np.random.Generator, rate: Floats) -> Traffic:
    return service.traffic(rng, rate, PROMPT, OUTPUT, HIT_RATE)


def _between(seconds: int, start: float, end: float, inside: float, outside: float) -> Floats:
    """`inside` between two shares of the time, else `outside`."""
    share = np.arange(seconds) / seconds
    return np.where((share >= start) & (share < end), inside, outside)


def step(service: Service, seconds: int, rng: np.random.Generator) -> Scenario:
    """Load x4 for a third of the time."""
    return service.scenario("step", _plain(service, rng, _between(seconds, 0.3, 0.65, 12.0, 3.0)), seconds)


def burst(service: Service, seconds: int, rng: np.random.Generator) -> Scenario:
    """Five minutes of about twice of what the largest pools can serve."""
    end = 0.4 + 300 / seconds
    return service.scenario(
        "burst over capacity", _plain(service, rng, _between(seconds, 0.4, end, 40.0, 4.0)), seconds
    )


def sawtooth(service: Service, seconds: int, rng: np.random.Generator) -> Scenario:
    """Slow rise and sudden fall, one tooth an hour."""
    phase = (np.arange(seconds) % 3600) / 3600
    return service.scenario("sawtooth", _plain(service, rng, 2.0 + 10.0 * phase), seconds)


def bimodal(service: Service, seconds: int, rng: np.random.Generator) -> Scenario:
    """Nine short prompts, one long one: the mean describes neither."""
    rate = _between(seconds, 0.4, 0.8, 14.0, 6.0)
    short = Lengths(median=1000, sigma=0.3, low=16, high=4000)
    traffic = service.traffic(rng, rate, short, OUTPUT, HIT_RATE)
    is_long = rng.uniform(size=len(traffic)) < 0.1
    prompts = np.where(is_long, LONG_PROMPT.draw(rng, len(traffic)), traffic.prompt_tokens)
    return service.scenario("bimodal prompts", replace(traffic, prompt_tokens=prompts), seconds)


def prefill_heavy(service: Service, seconds: int, rng: np.random.Generator) -> Scenario:
    """Long prompts, short answers: only prefill has to grow."""
    traffic = service.traffic(rng, _between(seconds, 0.3, 0.7, 7.0, 2.0), LONG_PROMPT, SHORT_OUTPUT, 0.1)
    return service.scenario("prefill-heavy", traffic, seconds)


def diurnal(service: Service, seconds: int, rng: np.random.Generator) -> Scenario:
    """One day, compressed."""
    phase = 2 * np.pi * np.arange(seconds) / seconds
    return service.scenario("diurnal", _plain(service, rng, 7.0 - 5.4 * np.cos(phase)), seconds)


def hit_rate_collapse(service: Service, seconds: int, rng: np.random.Generator) -> Scenario:
    """Same arrivals, but the prefix cache holds nothing for a third of the time."""
    hits = _between(seconds, 0.35, 0.7, 0.05, 0.65)
    traffic = service.traffic(rng, np.full(seconds, 8.0), PROMPT, OUTPUT, hits)
    return service.scenario("hit-rate collapse", traffic, seconds)


def slow_fabric(service: Service, seconds: int, rng: np.random.Generator) -> Scenario:
    """The fabric keeps 6 % of its speed for a third of the time."""
    traffic = _plain(service, rng, _between(seconds, 0.3, 0.7, 8.0, 5.0))
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
    return service.scenario("failures", _plain(service, rng, np.full(seconds, 8.0)), seconds, faults)


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
