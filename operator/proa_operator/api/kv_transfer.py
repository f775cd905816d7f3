"""The hand-off of KV blocks from prefill to decode."""

from __future__ import annotations

from enum import StrEnum

from proa_operator.api.noun import Noun, Positive


class Backend(StrEnum):
    """What moves the blocks; `auto` takes the fastest that both sides have. `shm` works on one machine only."""

    AUTO = "auto"
    SHM = "shm"
    TCP = "tcp"
    NIXL = "nixl"
    MORI = "mori"


class FailurePolicy(StrEnum):
    """After a failed hand-off the decode worker computes the prompt itself, or fails the request."""

    RECOMPUTE = "recompute"
    FAIL = "fail"


class KvTransfer(Noun):
    """How KV blocks travel and for how long a prefill worker keeps them."""

    backend: Backend = Backend.AUTO
    """What moves the blocks; auto takes the fastest that both sides have, shm works with `proa up` only."""
    lease_seconds: Positive = 30
    """Time without progress after which a hand-off is given up and its blocks are freed."""
    failure_policy: FailurePolicy = FailurePolicy.RECOMPUTE
    """After a failed hand-off the decode worker computes the prompt itself, or the request fails."""
