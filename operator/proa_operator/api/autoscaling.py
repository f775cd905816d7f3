"""The autoscaler: one decision for both pools, within these bounds."""

from __future__ import annotations

from enum import StrEnum
from typing import Annotated

from pydantic import Field

from proa_operator.api.noun import Count, Groups, Noun, Positive, Ratio


class Mode(StrEnum):
    """`Advisory` only recommends. Not "Off" for the third: YAML reads that word as a boolean."""

    ACTIVE = "Active"
    ADVISORY = "Advisory"
    DISABLED = "Disabled"


class Bounds(Noun):
    """Fewest and most groups of a pool."""

    min: Groups = 1
    """Fewest groups; 0 lets the service sleep."""
    max: Groups = 1
    """Most groups."""


class RatioBounds(Noun):
    """Bounds of prefill groups to decode groups."""

    min: Ratio = "1:8"
    """Fewest prefill groups for each decode group, such as "1:4"."""
    max: Ratio = "8:1"
    """Most prefill groups for each decode group, such as "4:1"."""


class Behavior(Noun):
    """How fast the autoscaler acts."""

    period_seconds: Positive = 15
    """Time between two decisions."""
    up_window_seconds: Count = 30
    """The need must hold this long before the service grows."""
    down_window_seconds: Count = 300
    """The need must be gone this long before the service shrinks."""
    pin_seconds: Count = 600
    """A manual `kubectl scale` is left alone for this long."""


class Autoscaling(Noun):
    """Bounds and tempo of the autoscaler."""

    mode: Mode = Mode.DISABLED
    """Active scales, Advisory only recommends."""
    prefill: Bounds = Bounds()
    """Bounds of the prefill pool."""
    decode: Bounds = Bounds()
    """Bounds of the decode pool."""
    ratio: RatioBounds = RatioBounds()
    """Bounds of prefill groups to decode groups."""
    max_gpus: Annotated[Count, Field(alias="maxGPUs")] = 0
    """Most GPUs of the service; 0 sets no limit."""
    behavior: Behavior = Behavior()
    """Windows and pauses."""
