"""The smallest pair of pools that meets both objectives; where there is none, the best one and what stands in the way.

What each pool needs follows from its model alone, so it is searched once; the pairs are then enumerated by prefill
groups, with the decode groups in closed form: within bounds, ratio, GPUs and free nodes, the cheapest one.
"""

from __future__ import annotations

import math
from collections.abc import Callable
from dataclasses import dataclass, replace
from statistics import NormalDist

from proa_operator.autoscale import prefill as prefilling
from proa_operator.autoscale.config import Config, Limits, PoolLimits
from proa_operator.autoscale.decode import Answers, answers_of, itl_at, largest_batch, least_decode, least_staffed
from proa_operator.autoscale.demand import Demand
from proa_operator.autoscale.models import GroupModel
from proa_operator.autoscale.prefill import Prompts, prompts_of, reachable_share, share_within, ttft_at
from proa_operator.autoscale.signals import PoolSignals, Signals

BINDINGS = (
    "autoscaling.prefill.max",
    "autoscaling.decode.max",
    "autoscaling.maxGPUs",
    "autoscaling.ratio",
    "placement",
    "slo.ttftMs",
    "slo.itlMs",
)
"""All that `Solution.binding` may name: fields of the manifest."""
_MOST = 1024
_SWITCHING = 1e-3
_SLACK = 1e-9


@dataclass(frozen=True, slots=True, kw_only=True)
class Need:
    """Groups that the objectives ask for, without bounds; 0 for a service without load."""

    prefill: int
    decode: int
    unmet: str | None = None
    """Objective that no number of groups meets."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Solution:
    """Groups of both pools."""

    prefill: int
    decode: int
    need: Need
    binding: str | None = None
    """Field of the manifest that keeps the service from what it needs; None when nothing does."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Prediction:
    """Latencies with so many groups, at the percentile of the SLO; None for pools that cannot keep up."""

    ttft_seconds: float | None
    itl_seconds: float | None


@dataclass(frozen=True, slots=True, kw_only=True)
class Box:
    """Most groups of each pool now: its bound, or what finds nodes."""

    prefill: int
    decode: int


def solve(demand: Demand, model: GroupModel, config: Config, signals: Signals) -> Solution:
    """Groups for this demand. The present sizes matter only between equally cheap pairs."""
    need = need_of(demand, model, config)
    if config.is_aggregated:
        return _one_pool(need, config, signals)
    limits = config.limits
    box = Box(prefill=_most(limits.prefill, signals.prefill), decode=_most(limits.decode, signals.decode))
    least = Need(prefill=max(need.prefill, limits.prefill.min), decode=max(need.decode, limits.decode.min))
    if least.prefill or least.decode:  # a request needs both pools
        least = Need(prefill=max(1, least.prefill), decode=max(1, least.decode))
    found = _cheapest(least, box, limits, signals)
    if found is not None:
        return Solution(prefill=found[0], decode=found[1], need=need, binding=need.unmet)
    best = _best_effort(least, box, limits)
    return Solution(prefill=best[0], decode=best[1], need=need, binding=_binding(least, box, limits))


def grown_within(wanted: tuple[int, int], present: tuple[int, int], config: Config) -> tuple[int, int]:
    """Prefill and decode groups on the way from `present` up to `wanted`: all of it, or as much as GPUs and ratio bear.

    `present` when no growth fits. A present ratio outside the bounds may stay as it is, but not get worse.
    """
    if is_allowed(wanted, present, config):
        return wanted
    limits = loosened(config.limits, present)
    if config.is_aggregated:
        return present[0], max(present[1], min(wanted[1], _payable_decode(present[0], limits)))
    above = replace(
        limits,
        prefill=replace(limits.prefill, min=present[0]),
        decode=replace(limits.decode, min=present[1]),
    )
    most = Need(prefill=max(1, wanted[0]), decode=max(1, wanted[1]))
    found = _best_effort(most, Box(prefill=wanted[0], decode=wanted[1]), above)
    return found if is_allowed(found, present, config) else present


def is_allowed(pair: tuple[int, int], present: tuple[int, int], config: Config) -> bool:
    """Whether the GPUs suffice and the ratio is within its bounds, or no further outside than that of `present`."""
    limits = config.limits
    if config.is_aggregated:
        return not limits.max_gpus or _gpus(*pair, limits) <= limits.max_gpus
    return _fits(*pair, loosened(limits, present))


def loosened(limits: Limits, present: tuple[int, int]) -> Limits:
    """With the ratio of `present` within them, so that pools that somebody set apart can come back step by step."""
    if not all(present):
        return limits
    ratio = present[0] / present[1]
    return replace(limits, ratio_min=min(ratio, limits.ratio_min), ratio_max=max(ratio, limits.ratio_max))


def need_of(demand: Demand, model: GroupModel, config: Config) -> Need:
    """What the objectives ask for, without bounds."""
    if demand.requests_per_second <= 0.0:
        return Need(prefill=0, decode=0)
    spread = NormalDist().inv_cdf(config.slo.percentile)
    answers = answers_of(demand, model, config.decode)
    batch = largest_batch(answers, config.slo.itl_seconds)
    prompts = prompts_of(demand, model, config.prefill, answers.step(batch.num_seqs), has_wire=not config.is_aggregated)
    seconds = config.slo.ttft_seconds
    reachable = reachable_share(prompts, seconds)
    share = config.slo.percentile * (1.0 if reachable >= config.slo.percentile else reachable) - _SLACK
    unmet = "slo.itlMs" if batch.is_slow else "slo.ttftMs" if reachable < config.slo.percentile else None
    if config.is_aggregated:
        return Need(prefill=0, decode=_least_shared(prompts, answers, share, config), unmet=unmet)
    least = max(least_staffed(answers, batch, spread), _least_for_wire(prompts))
    decode = _least(lambda groups: share_within(prompts, _MOST, groups, seconds) >= share, least)
    prefill = _least(lambda groups: share_within(prompts, groups, decode, seconds) >= share, 1)
    return Need(prefill=prefill, decode=decode, unmet=unmet)


def _least_shared(prompts: Prompts, answers: Answers, share: float, config: Config) -> int:
    """Groups that read and write: what prefill takes of their time stretches their decode steps in the mean."""
    spread, seconds = NormalDist().inv_cdf(config.slo.percentile), config.slo.itl_seconds
    is_hopeless = largest_batch(answers, seconds).is_slow

    def is_enough(groups: int) -> bool:
        left = _left(prompts, groups)
        if left <= 1.0 - prefilling.FULL or share_within(prompts, groups, groups, config.slo.ttft_seconds) < share:
            return False
        batch = largest_batch(answers, seconds * left)
        if batch.is_slow and not is_hopeless:
            return False
        return least_decode(_stretched(answers, left), batch, spread) <= groups

    return _least(is_enough, 1)


def _left(prompts: Prompts, groups: int) -> float:
    """Share of their time that groups which read and write have for decode steps."""
    return 1.0 - prompts.rate * prompts.mean_work / groups


def _stretched(answers: Answers, left: float) -> Answers:
    """Tokens per second of the time that is left."""
    return replace(answers, tokens_per_second=answers.tokens_per_second / left)


def predict(demand: Demand, model: GroupModel, config: Config, num_prefill: int, num_decode: int) -> Prediction:
    """Latencies with these groups; those of an idle service for no demand."""
    if num_decode < 1 or (num_prefill < 1 and not config.is_aggregated):
        return Prediction(ttft_seconds=None, itl_seconds=None)
    answers, spread = answers_of(demand, model, config.decode), NormalDist().inv_cdf(config.slo.percentile)
    prompts = prompts_of(demand, model, config.prefill, config.slo.itl_seconds, has_wire=not config.is_aggregated)
    readers = num_prefill + num_decode if config.is_aggregated else num_prefill
    itl = (
        _itl_shared(prompts, answers, readers, spread) if config.is_aggregated else itl_at(answers, num_decode, spread)
    )
    prompts = replace(prompts, first_decode=itl or config.slo.itl_seconds)
    ttft = ttft_at(prompts, readers, num_decode, config.slo.percentile)
    return Prediction(ttft_seconds=ttft, itl_seconds=itl)


def _itl_shared(prompts: Prompts, answers: Answers, groups: int, spread: float) -> float | None:
    left = _left(prompts, groups)
    found = itl_at(_stretched(answers, left), groups, spread) if left > 1.0 - prefilling.FULL else None
    return None if found is None else found / left


def _least(is_enough: Callable[[int], bool], low: int) -> int:
    """Bisection: what is enough stays so with more groups. `_MOST` when nothing is."""
    high = max(low, _MOST)
    while low < high:
        middle = (low + high) // 2
        if is_enough(middle):
            high = middle
        else:
            low = middle + 1
    return low


def _least_for_wire(prompts: Prompts) -> int:
    """Groups on either side whose wires carry the hand-offs."""
    return math.floor(prompts.rate * prompts.mean_wire / prefilling.WIRE_FULL) + 1


def _most(limits: PoolLimits, pool: PoolSignals) -> int:
    if pool.placeable is None:
        return limits.max
    return min(limits.max, max(limits.min, pool.desired + pool.placeable))


def _cheapest(least: Need, box: Box, limits: Limits, signals: Signals) -> tuple[int, int] | None:
    best: tuple[float, int, int] | None = None
    for prefill in range(least.prefill, box.prefill + 1):
        decode = max(least.decode, math.ceil(prefill / limits.ratio_max - _SLACK))
        if decode > box.decode or not _fits(prefill, decode, limits):
            continue
        switched = abs(prefill - signals.prefill.desired) + abs(decode - signals.decode.desired)
        cost = _gpus(prefill, decode, limits) + _SWITCHING * switched
        if best is None or cost < best[0]:
            best = (cost, prefill, decode)
    return None if best is None else best[1:]


def _fits(prefill: int, decode: int, limits: Limits) -> bool:
    """Ratio and GPUs. Pools that sleep have no ratio."""
    if limits.max_gpus and _gpus(prefill, decode, limits) > limits.max_gpus:
        return False
    if not decode:
        return not prefill
    return limits.ratio_min - _SLACK <= prefill / decode <= limits.ratio_max + _SLACK


def _gpus(prefill: int, decode: int, limits: Limits) -> int:
    return prefill * limits.prefill.gpus_per_group + decode * limits.decode.gpus_per_group


def _best_effort(least: Need, box: Box, limits: Limits) -> tuple[int, int]:
    """The pair that serves the largest share of the need in its scarcer pool; of equal ones the cheaper."""
    lowest = (max(1, limits.prefill.min), max(1, limits.decode.min))
    best: tuple[tuple[float, int], tuple[int, int]] | None = None
    for prefill in range(lowest[0], box.prefill + 1):
        most = math.floor(prefill / limits.ratio_min + _SLACK)
        most = min(most, _payable_decode(prefill, limits))
        balanced = math.ceil(min(1.0, prefill / least.prefill) * least.decode)
        decode = min(box.decode, most, max(lowest[1], balanced, math.ceil(prefill / limits.ratio_max - _SLACK)))
        if decode < lowest[1] or not _fits(prefill, decode, limits):
            continue
        merit = (min(1.0, prefill / least.prefill, decode / least.decode), -_gpus(prefill, decode, limits))
        if best is None or merit > best[0]:
            best = (merit, (prefill, decode))
    return lowest if best is None else best[1]


def _binding(least: Need, box: Box, limits: Limits) -> str:
    """The first bound, in this order, that the need breaks by itself."""
    if least.prefill > limits.prefill.max:
        return "autoscaling.prefill.max"
    if least.decode > limits.decode.max:
        return "autoscaling.decode.max"
    if least.prefill > box.prefill or least.decode > box.decode:
        return "placement"
    if limits.max_gpus and _gpus(least.prefill, least.decode, limits) > limits.max_gpus:
        return "autoscaling.maxGPUs"
    return "autoscaling.ratio"


def _one_pool(need: Need, config: Config, signals: Signals) -> Solution:
    """Every group does both phases. The prefill pool stays as it is, decode takes the rest."""
    limits = config.limits
    present = min(limits.prefill.max, max(limits.prefill.min, signals.prefill.desired))
    wanted = max(limits.decode.min, need.decode - present)
    placed = min(_most(limits.decode, signals.decode), wanted)
    decode = max(limits.decode.min, min(placed, _payable_decode(present, limits)))
    binding = need.unmet
    if decode < wanted:
        binding = "placement" if placed < wanted else "autoscaling.maxGPUs"
    if wanted > limits.decode.max:
        binding = "autoscaling.decode.max"
    return Solution(prefill=present, decode=decode, need=need, binding=binding)


def _payable_decode(prefill: int, limits: Limits) -> int:
    """Most decode groups beside these prefill groups, by GPUs alone."""
    if not limits.max_gpus:
        return limits.decode.max
    return max(0, limits.max_gpus - _gpus(prefill, 0, limits)) // limits.decode.gpus_per_group
