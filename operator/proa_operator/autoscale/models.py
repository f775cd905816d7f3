"""How fast the groups really are: ratios to the profile, tracked by a Kalman filter for each role.

The seen time of a step is linear in two ratios: of what every step costs, and of the work in it. A measurement that the
filter finds too unlikely (normalised innovation squared above the gate, 97.5 % of chi-squared with one degree) is left
out, unless four follow each other: then the speed has changed, and the filter opens.
"""

from __future__ import annotations

import math
from dataclasses import dataclass, replace

from proa_operator.autoscale.config import Config, Speed
from proa_operator.autoscale.cost import decode_seconds, fixed_seconds, kv_bytes, prompt_seconds
from proa_operator.autoscale.demand import Demand
from proa_operator.autoscale.signals import Signals

GATE = 5.024
_OPENS_AFTER = 4
_PRIOR_VARIANCE = 0.04
_LEARNED_VARIANCE = 4.0
_DRIFT = 2e-6
_NOISE_SHARE = 0.1
_LOW_UTILISATION = 0.2
_BATCHED_UTILISATION = 0.75
_WIRE_BOUNDS = (1.0 / 64.0, 2.0)
_WIRE_GAIN = 0.3


@dataclass(frozen=True, slots=True, kw_only=True)
class Track:
    """Two ratios with the covariance of their error."""

    fixed: float = 1.0
    work: float = 1.0
    var_fixed: float = _PRIOR_VARIANCE
    var_work: float = _PRIOR_VARIANCE
    covar: float = 0.0
    rejected: int = 0
    """Measurements in a row that the gate left out."""
    samples: int = 0
    """Measurements that counted."""


@dataclass(frozen=True, slots=True, kw_only=True)
class GroupModel:
    """Of a group of each role, and of the wire between them."""

    prefill: Track = Track()
    decode: Track = Track()
    wire: float = 1.0
    """Ratio of the seen transfer speed to the profile's."""


def prior(config: Config) -> GroupModel:
    """Before anything was seen. Without a profile it holds little."""
    if config.has_profile:
        return GroupModel()
    wide = Track(var_fixed=_LEARNED_VARIANCE, var_work=_LEARNED_VARIANCE)
    return GroupModel(prefill=wide, decode=wide)


def update(model: GroupModel, signals: Signals, demand: Demand, config: Config) -> GroupModel:
    """The model after these signals; the same one while they tell nothing: idle, starting, in a rollout."""
    if signals.is_rolling or not signals.is_fresh:
        return model
    bounds = (0.5, 2.0) if config.has_profile else (1.0 / 32.0, 32.0)
    if config.is_aggregated:
        return _shared(model, signals, demand, config, bounds)
    return replace(
        model,
        prefill=_prefill(model.prefill, signals, demand, config, bounds),
        decode=_decode(model.decode, signals, demand, config, bounds),
        wire=_wire(model.wire, signals, demand, config),
    )


def _prefill(track: Track, signals: Signals, demand: Demand, config: Config, bounds: tuple[float, float]) -> Track:
    """The time of a step, when most have one prompt: at higher use a prompt's time holds its batch-mates' work too."""
    pool, seen, speed = signals.prefill, signals.prefill_mean, config.prefill
    if seen is None or seen <= 0.0 or pool.ready == 0 or pool.starting > 0:
        return track
    each = signals.arrivals_per_second / pool.ready
    new = demand.mean_prompt * (1.0 - demand.hit_rate)
    work = mean_prompt_seconds(speed, demand)
    if not _LOW_UTILISATION <= each * seen <= _BATCHED_UTILISATION or pool.waiting > pool.ready:
        return track
    return _measured(track, seen, fixed_seconds(speed, new), work, bounds)


def _decode(track: Track, signals: Signals, demand: Demand, config: Config, bounds: tuple[float, float]) -> Track:
    pool, seen, speed = signals.decode, signals.itl_mean, config.decode
    if seen is None or seen <= 0.0 or pool.ready == 0 or pool.starting > 0:
        return track
    num_seqs = pool.running / pool.ready
    if num_seqs < 1.0 or num_seqs / speed.max_num_seqs < _LOW_UTILISATION / 10.0:
        return track
    work = decode_seconds(speed, num_seqs, demand.mean_context)
    return _measured(track, seen, fixed_seconds(speed, num_seqs), work, bounds)


def _shared(
    model: GroupModel, signals: Signals, demand: Demand, config: Config, bounds: tuple[float, float]
) -> GroupModel:
    """Of groups that read and write: a step holds the work of both, and is seen as time between tokens.

    Prompts that come at a rate r and take w seconds each make a step longer by r*w of itself, so what is left without
    them is the decode step. A prompt is read in a step of its own work, that of the others that came during the step
    before, and a decode step; what a step costs in any case is one ratio for both.
    """
    pools, speed = (signals.prefill, signals.decode), config.decode
    itl, read = signals.itl_mean, signals.prefill_mean
    if not itl or not read or not signals.decode.ready or any(pool.starting for pool in pools):
        return model
    each = signals.arrivals_per_second / sum(pool.ready for pool in pools)
    num_seqs = signals.decode.running / signals.decode.ready - each * read  # Little's law: those that are being read
    prompt = mean_prompt_seconds(speed, demand)
    share = each * model.prefill.work * prompt
    is_crowded = each * read > _BATCHED_UTILISATION or any(pool.waiting > pool.ready for pool in pools)
    if num_seqs < 1.0 or share > _BATCHED_UTILISATION or is_crowded:
        return model
    num_seqs += 1.0  # a sequence sees itself besides as many others as there are in the mean
    new = demand.mean_prompt * (1.0 - demand.hit_rate)
    fixed = fixed_seconds(speed, num_seqs + each * new * itl)
    work = decode_seconds(speed, num_seqs, demand.mean_context)
    decode = _measured(model.decode, itl * (1.0 - share), fixed, work, bounds)
    own = read - math.ceil(new / speed.max_step_tokens) * (decode.fixed * fixed + decode.work * work)
    prefill = replace(model.prefill, fixed=decode.fixed)
    if own > 0.0:
        prefill = _measured(prefill, own, 0.0, prompt * (1.0 + each * itl), bounds)
    return replace(model, decode=decode, prefill=prefill)


def _measured(track: Track, seen: float, fixed: float, work: float, bounds: tuple[float, float]) -> Track:
    """One step of the filter for the measurement seen = ratio_fixed * fixed + ratio_work * work + noise."""
    is_open = track.rejected + 1 >= _OPENS_AFTER
    if is_open:
        track = replace(track, var_fixed=track.var_fixed + _PRIOR_VARIANCE, var_work=track.var_work + _PRIOR_VARIANCE)
    innovation = seen - track.fixed * fixed - track.work * work
    gain_fixed = track.var_fixed * fixed + track.covar * work
    gain_work = track.covar * fixed + track.var_work * work
    variance = fixed * gain_fixed + work * gain_work + (_NOISE_SHARE * seen) ** 2
    if innovation * innovation / variance > GATE and not is_open:
        return replace(track, rejected=track.rejected + 1)
    return Track(
        fixed=_within(track.fixed + gain_fixed / variance * innovation, bounds),
        work=_within(track.work + gain_work / variance * innovation, bounds),
        var_fixed=track.var_fixed - gain_fixed * gain_fixed / variance + _DRIFT,
        var_work=track.var_work - gain_work * gain_work / variance + _DRIFT,
        covar=track.covar - gain_fixed * gain_work / variance,
        samples=track.samples + 1,
    )


def _wire(wire: float, signals: Signals, demand: Demand, config: Config) -> float:
    """The alone-on-the-wire speed from the seen mean time, which holds the waiting of a processor-sharing queue."""
    speed = config.prefill
    if signals.transfers_per_second <= 0.0 or signals.transfer_bytes <= 0.0 or signals.transfer_seconds <= 0.0:
        return wire
    each = signals.transfers_per_second / max(1, min(signals.prefill.ready, signals.decode.ready))
    mean = signals.transfer_seconds / signals.transfers_per_second - speed.transfer_latency
    size = signals.transfer_bytes / signals.transfers_per_second
    if mean <= 0.0:
        return _within(wire + _WIRE_GAIN * (_WIRE_BOUNDS[1] - wire), _WIRE_BOUNDS)
    alone = mean / (1.0 + each * mean)
    seen = _within(size / alone / speed.transfer_bytes_per_second, _WIRE_BOUNDS)
    return wire + _WIRE_GAIN * (seen - wire)


def mean_prompt_seconds(speed: Speed, demand: Demand) -> float:
    """Work of a prompt in the mean over the lengths."""
    return sum(
        bucket.weight * prompt_seconds(speed, bucket.prompt_tokens, demand.hit_rate) for bucket in demand.lengths
    )


def mean_transfer_bytes(speed: Speed, demand: Demand) -> float:
    """KV of a prompt in the mean."""
    return kv_bytes(speed, demand.mean_prompt)


def _within(value: float, bounds: tuple[float, float]) -> float:
    return min(bounds[1], max(bounds[0], value))
