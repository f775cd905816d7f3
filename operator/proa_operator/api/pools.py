"""The two pools: how many groups each has, and the shape of a group."""

from __future__ import annotations

from enum import StrEnum
from typing import Annotated, Any

from pydantic import Field

from proa_operator.api.noun import Groups, Noun, Positive, Size


class Switch(StrEnum):
    """`auto` turns a feature on where it is measured to gain. Quote "on" and "off": YAML reads them as booleans."""

    AUTO = "auto"
    ON = "on"
    OFF = "off"


class FarSkip(StrEnum):
    """`force` also runs checkpoints that were not trained for it. Quote "on" and "off" in YAML."""

    OFF = "off"
    ON = "on"
    FORCE = "force"


class Parallelism(Noun):
    """How a group splits the model over its devices."""

    tp: Size = 1
    """Tensor-parallel size of attention."""
    pp: Size = 1
    """Pipeline-parallel size."""
    cp: Size = 1
    """Context-parallel size, inside the tensor-parallel ranks."""
    dp: Size = 1
    """Data-parallel size of attention."""
    ep: Size = 1
    """Expert-parallel size: 1, or tp*dp."""


class Overlap(Noun):
    """Hiding of communication behind compute."""

    two_batch: Switch = Switch.AUTO
    """Two micro-batches in flight, one computes while the other communicates."""
    prefill_delayer: Switch = Switch.AUTO
    """Hold prefills until enough data-parallel ranks have one."""
    farskip: FarSkip = FarSkip.OFF
    """FarSkip residuals, for checkpoints trained with them."""


class Speculative(Noun):
    """Speculative decoding."""

    mtp: Annotated[int, Field(ge=0, le=8)] = 0
    """Tokens drafted by the checkpoint's multi-token-prediction head in each step; 0 is off."""


class Pool(Noun):
    """One pool of equal groups."""

    replicas: Groups = 1
    """Number of groups."""
    nodes_per_group: Positive = 1
    """Pods of one group, each on its own node."""
    parallelism: Parallelism = Parallelism()
    """How a group splits the model."""
    overlap: Overlap = Overlap()
    """Hiding of communication behind compute."""
    speculative: Speculative = Speculative()
    """Speculative decoding."""
    pod_template: Annotated[dict[str, Any], Field(json_schema_extra={"x-kubernetes-preserve-unknown-fields": True})] = (
        Field(default_factory=dict)
    )
    """Merged strategically over the pod that the operator renders."""


class Pools(Noun):
    """The prefill and the decode pool. In topology Aggregated every group of both serves both phases."""

    prefill: Pool | None = None
    """Groups that read prompts; may be left out in topology Aggregated."""
    decode: Pool
    """Groups that write answers."""
