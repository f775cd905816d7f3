"""Which way a pool went last, and whether it may turn: a turn has a price, going on has none.

A pool whose need lies between two numbers of groups would go up and down with every breath of the load. So a pool that
grew shrinks only once its idle groups weigh as much as a turn: each second adds their square over the size, as in a
chi-squared statistic, of which noise makes little and a fall of the load much. A pool three times too large turns as
soon as the down window lets it, and one with one group of twelve too many waits for 24 minutes. Each turn of the last
hour multiplies the price: a load that comes and goes soon comes again. Growing is never delayed.
"""

from __future__ import annotations

from dataclasses import dataclass, replace

PRICE_WINDOWS = 0.1
"""Of a turn, in down windows: group seconds."""
LATELY_WINDOWS = 12.0
"""How long a turn counts; an hour for the usual window."""
PRICE_FACTOR = 10.0
"""For each turn lately."""
_ROUNDING = 0.5
"""Of the groups that seem idle: what is needed is rounded up."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Course:
    """Of one pool."""

    is_shrinking: bool = False
    """The last step went down."""
    weight: float = 0.0
    """Of the idle groups, in group seconds; 0 once all are needed."""
    turned_at: tuple[float, ...] = ()
    """Turns lately, oldest first."""


def weighed(course: Course, present: int, needed: int, seconds: float) -> Course:
    """After `seconds` in which `needed` of `present` groups would have done."""
    if needed >= present:
        return replace(course, weight=0.0)
    num_idle = present - needed - _ROUNDING
    return replace(course, weight=course.weight + seconds * num_idle * num_idle / present)


def may_shrink(course: Course, now: float, window_seconds: float) -> bool:
    """`window_seconds`: the down window, the measure of all times here."""
    num_turns = len(_lately(course, now, window_seconds))
    price = PRICE_WINDOWS * window_seconds * PRICE_FACTOR**num_turns
    return course.is_shrinking or course.weight >= price


def moved(course: Course, step: int, now: float, window_seconds: float) -> Course:
    """After a step of so many groups; 0 changes nothing."""
    if not step:
        return course
    turned_at = _lately(course, now, window_seconds)
    if (step < 0) != course.is_shrinking:
        turned_at = (*turned_at, now)
    return Course(is_shrinking=step < 0, turned_at=turned_at)


def _lately(course: Course, now: float, window_seconds: float) -> tuple[float, ...]:
    return tuple(at for at in course.turned_at if now - at < LATELY_WINDOWS * window_seconds)
