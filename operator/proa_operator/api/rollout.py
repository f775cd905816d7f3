"""How a new revision replaces the old one, and when it is taken back."""

from __future__ import annotations

from enum import StrEnum
from typing import Annotated

from pydantic import Field

from proa_operator.api.noun import Count, Decimal, Noun, Positive


class OnFailure(StrEnum):
    """A rollout without progress or with bad numbers is taken back, or stays as it is."""

    ROLLBACK = "Rollback"
    PAUSE = "Pause"


class Analysis(Noun):
    """Numbers that a new revision must keep."""

    max_error_rate: Decimal = "0.02"
    """Largest share of failed requests, from "0" to "1"."""
    max_ttft_ratio: Annotated[Decimal, Field(alias="maxTTFTRatio")] = "1.5"
    """Largest time to first token, as a multiple of the old revision's; at least "1"."""


class Rollout(Noun):
    """Pairs of prefill and decode groups of one revision come and go together."""

    max_surge_groups: Count = 1
    """Groups of each pool that may exist beyond its replicas."""
    max_unavailable_groups: Count = 0
    """Groups of each pool that may be missing."""
    no_progress_seconds: Positive = 1800
    """Time without any progress after which the rollout has failed; loading counts as progress."""
    on_failure: OnFailure = OnFailure.ROLLBACK
    """A failed rollout is taken back, or stays as it is."""
    analysis: Analysis = Analysis()
    """Numbers that a new revision must keep."""
