"""Scenarios drawn from ranges by a seed: no preset that anything could be tuned to."""

from __future__ import annotations

from dataclasses import replace
from itertools import pairwise

import numpy as np

from proa_operator.simulate.scenario import Lengths, Scenario, arrivals
from proa_operator.simulate.scenarios import Service
from proa_operator.simulate.traffic import Fault, Floats, Traffic

NUM_SEGMENTS = (3, 7)
REQUESTS_PER_SECOND = (2.0, 14.0)
PROMPT_MEDIAN, PROMPT_SIGMA = (1000.0, 8000.0), (0.2, 0.9)
OUTPUT_MEDIAN, OUTPUT_SIGMA = (120.0, 1000.0), (0.2, 0.8)
HIT_RATE = (0.0, 0.6)
STARTUP_SECONDS = (45.0, 180.0)
RAMP_SHARE = 0.5  # of the changes of rate; the others are steps
FAULT_SHARE = 0.3  # of the scenarios


def generated(service: Service, seconds: int, seed: int) -> Scenario:
    """Segments of random length, rate, lengths and hit rate; steps and ramps; sometimes a lost group."""
    rng = np.random.default_rng([97, seed])
    startup_seconds = float(rng.uniform(*STARTUP_SECONDS))
    service = replace(service, cost=replace(service.cost, startup_seconds=startup_seconds))
    edges = _edges(rng, seconds)
    traffic = _traffic(service.load, rng, seconds, edges)
    faults = [Fault(at_seconds=float(rng.uniform(0.2, 0.8)) * seconds, lost_prefill=1, lost_decode=1)]
    is_faulty = rng.uniform() < FAULT_SHARE
    return service.scenario(f"generated {seed}", traffic, seconds, faults if is_faulty else ())


def _edges(rng: np.random.Generator, seconds: int) -> list[int]:
    """Bounds of the segments, in seconds; each segment has at least half of an equal share."""
    count = int(rng.integers(*NUM_SEGMENTS))
    share = 0.5 / count + 0.5 * rng.dirichlet(np.ones(count))
    return [0, *np.round(np.cumsum(share) * seconds).astype(int).tolist()]


def _traffic(load: float, rng: np.random.Generator, seconds: int, edges: list[int]) -> Traffic:
    times = arrivals(rng, load * _rate(rng, seconds, edges))
    prompts, cached, outputs = (np.zeros(len(times), dtype=np.int64) for _ in range(3))
    for start, end in pairwise(edges):
        first, last = np.searchsorted(times, [start, end])
        count = int(last - first)
        hits = rng.uniform(*HIT_RATE) * rng.uniform(0.5, 1.5, count)
        prompt = Lengths(median=rng.uniform(*PROMPT_MEDIAN), sigma=rng.uniform(*PROMPT_SIGMA), low=16, high=16384)
        output = Lengths(median=rng.uniform(*OUTPUT_MEDIAN), sigma=rng.uniform(*OUTPUT_SIGMA), high=4000)
        prompts[first:last] = prompt.draw(rng, count)
        outputs[first:last] = output.draw(rng, count)
        cached[first:last] = np.minimum(prompts[first:last] * np.minimum(hits, 1.0), prompts[first:last] - 1)
    return Traffic(arrival_seconds=times, prompt_tokens=prompts, cached_tokens=cached, output_tokens=outputs)


def _rate(rng: np.random.Generator, seconds: int, edges: list[int]) -> Floats:
    """Requests a second, [seconds]: each segment keeps its level, or goes to it in a line from the one before."""
    rate = np.empty(seconds)
    level = float(rng.uniform(*REQUESTS_PER_SECOND))
    for start, end in pairwise(edges):
        before, level = level, float(rng.uniform(*REQUESTS_PER_SECOND))
        is_ramp = rng.uniform() < RAMP_SHARE
        rate[start:end] = np.linspace(before, level, end - start) if is_ramp else level
    return rate
