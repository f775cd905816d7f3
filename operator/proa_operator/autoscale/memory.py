"""What one decision hands to the next: the annotation on the WorkerPool."""

from __future__ import annotations

import json
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from itertools import groupby

from proa_operator.autoscale.codec import from_json, to_json
from proa_operator.autoscale.config import Policy
from proa_operator.autoscale.course import Course
from proa_operator.autoscale.models import GroupModel
from proa_operator.autoscale.signals import LengthBucket
from proa_operator.autoscale.steady import Sample
from proa_operator.errors import UserError

MOST_EXACT = 100
"""Wishes of the up window, and as many before it, that are kept one by one: an annotation holds 256 KiB at most."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Wish:
    """What was solved at one moment."""

    at: float
    prefill: int
    """Groups for the demand."""
    decode: int
    sure_prefill: int
    """Groups that the demand asks for even when its estimate is too high by its error."""
    sure_decode: int
    roomy_prefill: int
    """Groups for the demand without its backlog, and for the error of its estimate."""
    roomy_decode: int


@dataclass(frozen=True, slots=True, kw_only=True)
class Memory:
    """Everything; a new one for a service that was not seen before, or whose annotation is lost."""

    since: float | None = None
    """Start of the unbroken row of fresh signals; None while they are missing."""
    wishes: tuple[Wish, ...] = ()
    """Of the down window, oldest first; thinned by `remembered`."""
    rates: tuple[Sample, ...] = ()
    """The load lately, oldest first."""
    lengths: tuple[LengthBucket, ...] = ()
    """Last seen lengths, for times without requests."""
    up_at: float | None = None
    """Last step up."""
    prefill_down_at: float | None = None
    """Last step down of the prefill pool."""
    decode_down_at: float | None = None
    prefill_course: Course = field(default_factory=Course)
    decode_course: Course = field(default_factory=Course)
    model: GroupModel | None = None


def remembered(before: Sequence[Wish], wish: Wish, policy: Policy) -> tuple[Wish, ...]:
    """Wishes of the down window with the newest, about 2 x MOST_EXACT at most.

    Too many are taken together slot by slot: by the largest numbers for the down window, by the least needs for the up
    window, so that a thinned window is at most a slot (1 % of it) slower and never hastier. A clock that was set back
    would leave wishes of the future: they go too.
    """
    kept = [old for old in before if wish.at - policy.down_window_seconds < old.at < wish.at]
    recent_from = wish.at - policy.up_window_seconds
    older = [old for old in kept if old.at <= recent_from]
    recent = [old for old in kept if old.at > recent_from]
    return (
        *_thinned(older, policy.down_window_seconds / MOST_EXACT, max),
        *_thinned(recent, policy.up_window_seconds / MOST_EXACT, min),
        wish,
    )


def _thinned(wishes: list[Wish], slot_seconds: float, need_of: Callable[[list[int]], int]) -> list[Wish]:
    """One wish for each slot, at the time of its last one, so that a slot leaves the window as a whole."""
    if len(wishes) <= MOST_EXACT:
        return wishes
    slots = groupby(wishes, key=lambda wish: wish.at // slot_seconds)
    return [_together(list(slot), need_of) for _, slot in slots]


def _together(slot: list[Wish], need_of: Callable[[list[int]], int]) -> Wish:
    return Wish(
        at=slot[-1].at,
        prefill=need_of([wish.prefill for wish in slot]),
        decode=need_of([wish.decode for wish in slot]),
        sure_prefill=need_of([wish.sure_prefill for wish in slot]),
        sure_decode=need_of([wish.sure_decode for wish in slot]),
        roomy_prefill=max(wish.roomy_prefill for wish in slot),
        roomy_decode=max(wish.roomy_decode for wish in slot),
    )


def to_text(memory: Memory) -> str:
    """For an annotation."""
    return json.dumps(to_json(memory), separators=(",", ":"))


def from_text(text: str) -> Memory:
    """UserError for one that was edited by hand, or written by another version: it is as good as lost."""
    try:
        found = json.loads(text)
    except ValueError:
        raise UserError("the autoscaler's memory is not JSON") from None
    return from_json(Memory, found, "memory")
