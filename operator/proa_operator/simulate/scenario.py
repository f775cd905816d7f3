"""A scenario: traffic, faults, objectives and bounds; what an autoscaler is judged on."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from math import exp

import numpy as np

from proa_operator.simulate.cost import Cost
from proa_operator.simulate.policies.policy import Limits, Slo
from proa_operator.simulate.traffic import Fault, Floats, Ints, Traffic


@dataclass(frozen=True, slots=True, kw_only=True)
class Scenario:
    """One experiment before an autoscaler is chosen."""

    name: str
    traffic: Traffic
    cost: Cost
    slo: Slo
    limits: Limits
    end_seconds: float
    fabric_bytes_per_second: float
    faults: Sequence[Fault] = ()

    @property
    def mean_context_tokens(self) -> float:
        """Of a sequence that decodes, weighted with the steps that it takes."""
        prompt, output = self.traffic.prompt_tokens, self.traffic.output_tokens
        total = float(output.sum())
        return float(((prompt + output / 2) * output).sum()) / total if total else 1.0

    @property
    def best_batch(self) -> int:
        return self.cost.best_batch(self.slo.itl_seconds, self.mean_context_tokens)


@dataclass(frozen=True, slots=True, kw_only=True)
class Lengths:
    """Log-normal token counts, clipped to [low, high]."""

    median: float
    sigma: float
    low: int = 2
    high: int

    @property
    def mean(self) -> float:
        """Without the clipping."""
        return self.median * exp(self.sigma**2 / 2)

    def draw(self, rng: np.random.Generator, count: int) -> Ints:
        values = self.median * np.exp(self.sigma * rng.standard_normal(count))
        return np.clip(values, self.low, self.high).astype(np.int64)


def arrivals(rng: np.random.Generator, rate: Floats) -> Floats:
    """Times of a Poisson process whose rate per second is `rate[second]`, in order."""
    expected = np.concatenate([[0.0], np.cumsum(rate)])
    count = rng.poisson(expected[-1])
    return np.sort(np.interp(rng.uniform(0, expected[-1], count), expected, np.arange(len(expected))))


def traffic_of(
    rng: np.random.Generator, rate: Floats, prompt: Lengths, output: Lengths, hit_rate: Floats | float
) -> Traffic:
    """Poisson arrivals; each prompt's cached share is uniform around `hit_rate`, which may change by the second."""
    times = arrivals(rng, rate)
    prompts = prompt.draw(rng, len(times))
    hits = np.broadcast_to(np.asarray(hit_rate, dtype=np.float64), rate.shape)[times.astype(np.int64)]
    share = np.clip(hits * rng.uniform(0.5, 1.5, len(times)), 0, 1)
    cached = np.minimum((prompts * share).astype(np.int64), prompts - 1)
    return Traffic(
        arrival_seconds=times,
        prompt_tokens=prompts,
        cached_tokens=cached,
        output_tokens=output.draw(rng, len(times)),
    )
