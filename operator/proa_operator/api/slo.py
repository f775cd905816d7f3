"""The latency that the service promises."""

from __future__ import annotations

from typing import Annotated

from pydantic import Field

from proa_operator.api.noun import Noun, Positive


class Slo(Noun):
    """Latency objectives; the autoscaler sizes the pools for them."""

    ttft_ms: Positive = 500
    """Time to the first token, in milliseconds."""
    itl_ms: Positive = 40
    """Time between two tokens, in milliseconds."""
    percentile: Annotated[int, Field(ge=50, le=99)] = 95
    """Percentile at which both must hold."""
