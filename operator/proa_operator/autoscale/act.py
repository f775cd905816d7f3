"""From what was solved to what is done now: windows, pauses, and reasons to hold.

Up takes the least wish of a short window and may jump any number of groups; a wish within the error of the estimate has
to last for the long window. Down takes the largest roomy wish of the long window, in small steps with pauses, one pool
at a time, and turning from growth has a price (`course.py`). Both windows must be filled with fresh signals since the
last gap, so neither a restart nor the end of an outage makes a jump.
"""

from __future__ import annotations

import math
from dataclasses import dataclass, replace
from enum import StrEnum

from proa_operator.autoscale.config import Config, PoolLimits
from proa_operator.autoscale.course import may_shrink, moved, weighed
from proa_operator.autoscale.memory import Memory, Wish
from proa_operator.autoscale.signals import PoolSignals, Signals
from proa_operator.autoscale.solve import grown_within, is_allowed, loosened


class Reason(StrEnum):
    """Why the targets are what they are."""

    STEADY = "Steady"
    UP = "ScaleUp"
    DOWN = "ScaleDown"
    WAKE = "WakeUp"
    SLEEP = "Sleep"
    BOUNDS = "Bounds"
    METRICS_MISSING = "MetricsMissing"
    WARMING = "WindowNotFilled"
    SETTLING = "SettlingAfterUp"
    PAUSED = "PauseBetweenSteps"
    ROLLING = "RolloutInProgress"
    TRANSFERS_FAIL = "TransfersFail"
    NOT_SERVING = "NoGroupServes"
    PINNED = "PinnedByHand"
    LEARNING = "LearningWithoutProfile"


@dataclass(frozen=True, slots=True, kw_only=True)
class Targets:
    """Groups of each pool."""

    prefill: int
    decode: int


def act(memory: Memory, signals: Signals, config: Config) -> tuple[Targets, Memory, Reason]:
    """`memory` holds the wish of this moment already, unless the signals are missing."""
    present = Targets(prefill=signals.prefill.desired, decode=signals.decode.desired)
    memory = _weighed(memory, config, present)
    wanted, reason = _wanted(memory, signals, config, present)
    held = _respecting_pins(wanted, present, signals, config)
    if held != wanted:
        wanted, reason = held, reason if held != present else Reason.PINNED
    if reason in (Reason.UP, Reason.WAKE):
        memory = replace(memory, up_at=signals.now)
    elif reason in (Reason.DOWN, Reason.SLEEP):
        memory = replace(
            memory,
            prefill_down_at=signals.now if wanted.prefill < present.prefill else memory.prefill_down_at,
            decode_down_at=signals.now if wanted.decode < present.decode else memory.decode_down_at,
        )
    steps = Targets(prefill=wanted.prefill - present.prefill, decode=wanted.decode - present.decode)
    return wanted, _moved(memory, steps, signals.now, config), reason


def _weighed(memory: Memory, config: Config, present: Targets) -> Memory:
    """With what this moment says about the idle groups of both pools; a gap in the signals takes it back."""
    now = memory.wishes[-1] if memory.wishes else None
    prefill = max(now.prefill, now.roomy_prefill) if now else present.prefill
    decode = max(now.decode, now.roomy_decode) if now else present.decode
    period = config.policy.period_seconds
    return replace(
        memory,
        prefill_course=weighed(memory.prefill_course, present.prefill, prefill, period),
        decode_course=weighed(memory.decode_course, present.decode, decode, period),
    )


def _moved(memory: Memory, steps: Targets, now: float, config: Config) -> Memory:
    window = config.policy.down_window_seconds
    return replace(
        memory,
        prefill_course=moved(memory.prefill_course, steps.prefill, now, window),
        decode_course=moved(memory.decode_course, steps.decode, now, window),
    )


def _wanted(memory: Memory, signals: Signals, config: Config, present: Targets) -> tuple[Targets, Reason]:
    bounded = _bounded(present, config)
    if bounded != present:
        return bounded, Reason.BOUNDS
    if not signals.is_fresh or memory.since is None:
        return present, Reason.METRICS_MISSING
    if not config.has_profile and not _has_learned(memory, config):
        return present, Reason.LEARNING
    asked = _up(memory, signals, config, present)
    up = _within_limits(asked, present, config)
    if up != present:
        return up, Reason.WAKE if not present.decode else Reason.UP
    is_short = asked != present or not _is_within_limits(present, config)
    down, is_paused = _down(memory, signals, config, present, is_short=is_short)
    if down == present and not is_paused:
        return present, _why_not_up(memory, signals, config, present)
    obstacle = _obstacle_to_shrink(memory, signals, config)
    if obstacle is not None:
        return present, obstacle
    if down == present:
        return present, Reason.PAUSED
    return down, Reason.SLEEP if not down.decode else Reason.DOWN


def _up(memory: Memory, signals: Signals, config: Config, present: Targets) -> Targets:
    """A sleeping service wakes at once; another one grows when the whole window asks for it."""
    now = memory.wishes[-1]
    if not present.decode:
        return Targets(prefill=max(present.prefill, now.prefill), decode=now.decode)
    window = config.policy.up_window_seconds
    if not _is_filled(memory, signals.now, window, config):
        return present
    recent = _within(memory.wishes, signals.now - window + _tolerance(config))
    lasting = memory.wishes if _is_filled(memory, signals.now, config.policy.down_window_seconds, config) else ()
    return Targets(
        prefill=_grown(
            present.prefill,
            [(wish.prefill, wish.sure_prefill) for wish in recent],
            [wish.prefill for wish in lasting],
        ),
        decode=_grown(
            present.decode,
            [(wish.decode, wish.sure_decode) for wish in recent],
            [wish.decode for wish in lasting],
        ),
    )


def _grown(present: int, recent: list[tuple[int, int]], lasting: list[int]) -> int:
    """What the up window asks for surely, or the whole down window at all."""
    asked = min(wish for wish, _ in recent) if min(sure for _, sure in recent) > present else present
    return max(present, asked, min(lasting, default=present))


def _within_limits(asked: Targets, present: Targets, config: Config) -> Targets:
    """Each pool grows to its own wish, so both together may ask for more than the GPUs and the ratio bear."""
    prefill, decode = grown_within((asked.prefill, asked.decode), (present.prefill, present.decode), config)
    return Targets(prefill=prefill, decode=decode)


def _is_within_limits(present: Targets, config: Config) -> bool:
    pair = (present.prefill, present.decode)
    return is_allowed(pair, pair, config)


def _why_not_up(memory: Memory, signals: Signals, config: Config, present: Targets) -> Reason:
    now = memory.wishes[-1]
    is_short = now.prefill > present.prefill or now.decode > present.decode
    is_warming = is_short and not _is_filled(memory, signals.now, config.policy.up_window_seconds, config)
    return Reason.WARMING if is_warming else Reason.STEADY


def _down(
    memory: Memory, signals: Signals, config: Config, present: Targets, *, is_short: bool
) -> tuple[Targets, bool]:
    """One step of one pool: the one with more to spare whose pause is over. To sleep, both pools go together.

    `is_short`: there are too many GPUs, or the other pool waits for what this one frees. The flag: a pool could shrink,
    but for its pause.
    """
    prefill, decode = _enough(memory, present, is_short=is_short)
    if not decode and not prefill:
        asleep = Targets(prefill=0, decode=0)
        return asleep if _respecting_pins(asleep, present, signals, config) == asleep else present, False
    prefill, decode = max(prefill, min(1, present.prefill)), max(1, decode)
    fewer = (
        replace(present, prefill=_stepped(present.prefill, prefill, config)),
        replace(present, decode=_stepped(present.decode, decode, config)),
    )
    spares = (1.0 - prefill / max(1, present.prefill), 1.0 - decode / max(1, present.decode))
    courses = (memory.prefill_course, memory.decode_course)
    steps = zip(spares, courses, fewer, (memory.prefill_down_at, memory.decode_down_at), strict=True)
    pause = config.policy.down_pause_fraction * config.policy.down_window_seconds
    is_paused = False
    for _, course, step, at in sorted(steps, key=lambda candidate: -candidate[0]):
        is_pinned = _respecting_pins(step, present, signals, config) == present
        if step == present or is_pinned or not _keeps_ratio(step, present, config):
            continue
        if not is_short and not may_shrink(course, signals.now, config.policy.down_window_seconds):
            is_paused = True
            continue
        if at is None or signals.now - at >= pause:
            return step, False
        is_paused = True
    return present, is_paused


def _enough(memory: Memory, present: Targets, *, is_short: bool) -> tuple[int, int]:
    """Groups that the down window asked for. Room is a luxury while GPUs are short."""
    now = memory.wishes[-1]
    if is_short:
        prefill = max(wish.prefill for wish in memory.wishes)
        decode = max(wish.decode for wish in memory.wishes)
    else:
        prefill = max(now.prefill, *(wish.roomy_prefill for wish in memory.wishes))
        decode = max(now.decode, *(wish.roomy_decode for wish in memory.wishes))
    return min(present.prefill, prefill), min(present.decode, decode)


def _stepped(present: int, wanted: int, config: Config) -> int:
    return max(wanted, present - max(1, math.floor(present * config.policy.down_share)))


def _keeps_ratio(step: Targets, present: Targets, config: Config) -> bool:
    if config.is_aggregated:
        return True
    limits = loosened(config.limits, (present.prefill, present.decode))
    return limits.ratio_min - 1e-9 <= step.prefill / step.decode <= limits.ratio_max + 1e-9


def _obstacle_to_shrink(memory: Memory, signals: Signals, config: Config) -> Reason | None:
    policy, now = config.policy, signals.now
    if not _is_filled(memory, now, policy.down_window_seconds, config):
        return Reason.WARMING
    if any(pool.desired and not pool.ready for pool in (signals.prefill, signals.decode)):
        return Reason.NOT_SERVING
    if signals.is_rolling:
        return Reason.ROLLING
    if signals.transfer_failures > 0.0:
        return Reason.TRANSFERS_FAIL
    startup = max(config.prefill.startup, config.decode.startup)
    if memory.up_at is not None and now - memory.up_at < policy.settle_startups * startup:
        return Reason.SETTLING
    return None


def _respecting_pins(wanted: Targets, present: Targets, signals: Signals, config: Config) -> Targets:
    """A number that somebody set by hand stays for a while, even outside the bounds."""
    return Targets(
        prefill=present.prefill if _is_pinned(signals.prefill, signals.now, config) else wanted.prefill,
        decode=present.decode if _is_pinned(signals.decode, signals.now, config) else wanted.decode,
    )


def _is_pinned(pool: PoolSignals, now: float, config: Config) -> bool:
    return pool.manual_at is not None and now - pool.manual_at < config.policy.pin_seconds


def _bounded(present: Targets, config: Config) -> Targets:
    """Within minimum and maximum; a sleeping service stays asleep."""
    limits = config.limits
    return Targets(prefill=_clip(present.prefill, limits.prefill), decode=_clip(present.decode, limits.decode))


def _clip(number: int, limits: PoolLimits) -> int:
    return min(limits.max, max(limits.min, number))


def _has_learned(memory: Memory, config: Config) -> bool:
    if memory.model is None:
        return False
    fewest = min(memory.model.prefill.samples, memory.model.decode.samples)
    return fewest >= config.policy.min_samples


def _is_filled(memory: Memory, now: float, window: float, config: Config) -> bool:
    return memory.since is not None and now - memory.since >= window - _tolerance(config)


def _tolerance(config: Config) -> float:
    """Half a period: ticks come a little early or late."""
    return config.policy.period_seconds / 2.0


def _within(wishes: tuple[Wish, ...], after: float) -> list[Wish]:
    """Those of the window, and always the last one."""
    return [wish for wish in wishes if wish.at > after] or [wishes[-1]]
