"""What one decision hands to the next: the annotation on the WorkerPool."""

from __future__ import annotations

import json
from dataclasses import dataclass

from proa_operator.autoscale.codec import from_json, to_json
from proa_operator.autoscale.models import GroupModel
from proa_operator.autoscale.signals import LengthBucket
from proa_operator.autoscale.steady import Sample
from proa_operator.errors import UserError


@dataclass(frozen=True, slots=True, kw_only=True)
class Wish:
    """What was solved at one moment."""

    at: float
    prefill: int
    """Groups for the demand."""
    decode: int
    roomy_prefill: int
    """Groups for the demand without its backlog, with the slack that shrinking must leave."""
    roomy_decode: int


@dataclass(frozen=True, slots=True, kw_only=True)
class Memory:
    """Everything; a new one for a service that was not seen before, or whose annotation is lost."""

    since: float | None = None
    """Start of the unbroken row of fresh signals; None while they are missing."""
    wishes: tuple[Wish, ...] = ()
    """Of the down window, oldest first."""
    rates: tuple[Sample, ...] = ()
    """The load lately, oldest first."""
    lengths: tuple[LengthBucket, ...] = ()
    """Last seen lengths, for times without requests."""
    up_at: float | None = None
    """Last step up."""
    prefill_down_at: float | None = None
    """Last step down of the prefill pool."""
    decode_down_at: float | None = None
    model: GroupModel | None = None


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
