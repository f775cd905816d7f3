"""PerformanceProfile: how fast one group of workers is, for the autoscaler, `proa size` and the simulated engine.

The numbers are those of the cost model of the simulated engine: a step takes
    base + experts * (1 - (1 - expertShare)**tokens) + token * prefill tokens + pair * attended pairs
    + sequence * decoding sequences + contextToken * context of the decoding sequences.
They are text, because Kubernetes APIs hold no floating-point fields.
"""

from __future__ import annotations

from enum import StrEnum
from fractions import Fraction
from typing import Annotated, Literal

from pydantic import Field

from proa_operator.api.accelerator import Accelerator
from proa_operator.api.engine import EngineType
from proa_operator.api.model import Dtype
from proa_operator.api.noun import Count, Noun, Positive
from proa_operator.api.pools import Parallelism
from proa_operator.api.rule import Rule, TransitionRule
from proa_operator.api.service import Metadata

COEFFICIENT = "^[0-9]+([.][0-9]+)?(e-?[0-9]{1,2})?$"
Coefficient = Annotated[str, Field(pattern=COEFFICIENT, max_length=24)]
"""A number of 0 or more as text, such as "11.1e-6"."""

Large = Annotated[int, Field(ge=1, le=2**53)]
"""Bytes or tokens; JSON readers that know only floating-point numbers keep it exact."""


class Origin(StrEnum):
    """Whether somebody measured it."""

    MEASURED = "measured"
    SIMULATED = "simulated"


class Provenance(Noun):
    """Where the numbers come from."""

    origin: Origin
    """measured on this hardware, or simulated."""
    date: Annotated[str, Field(pattern=r"^[0-9]{4}-[0-9]{2}-[0-9]{2}$", max_length=10)]
    """Day of the measurement, as 2026-01-31."""
    source: Annotated[str, Field(max_length=1024)] = ""
    """Program and version that measured, or what the simulation was fitted to."""
    samples: Count = 0
    """Steps that the fit saw."""
    fit_error: Coefficient = "0"
    """Mean relative error of the fit; "0.05" is 5 %."""


class StepCost(Noun):
    """What every step costs, whatever is in it."""

    base_seconds: Coefficient = "0"
    """Fixed time of a step."""
    experts_seconds: Coefficient = "0"
    """Reading the weights of all routed experts once."""
    expert_share: Coefficient = "0"
    """Experts per token over all experts, from "0" (a dense model) to "1"."""


class PrefillCost(Noun):
    """What reading a prompt adds to a step."""

    token_seconds: Coefficient
    """Each new token."""
    pair_seconds: Coefficient = "0"
    """Each pair of a new token and an earlier one that it attends to."""


class DecodeCost(Noun):
    """What writing adds to a step."""

    sequence_seconds: Coefficient
    """Each sequence that decodes."""
    context_token_seconds: Coefficient = "0"
    """Each token of their contexts."""


class TransferCost(Noun):
    """Hand-off of a prompt's KV blocks, alone on the wire."""

    latency_seconds: Coefficient = "0"
    """Time before the first byte."""
    bytes_per_second: Large
    """Speed from then on."""


class PerformanceProfileSpec(Noun):
    """What was measured, and the result."""

    model: Annotated[str, Field(min_length=1, max_length=1024)]
    """Checkpoint, as in spec.model.uri of a service."""
    dtype: Dtype = Dtype.AUTO
    """Number format, as in spec.model.dtype of a service."""
    engine: EngineType
    """Engine that ran it."""
    accelerator: Accelerator | None = None
    """GPUs of each pod; absent is CPUs."""
    nodes_per_group: Positive = 1
    """Pods of the group."""
    parallelism: Parallelism = Parallelism()
    """How the group split the model."""
    step: StepCost = StepCost()
    """What every step costs, whatever is in it."""
    prefill: PrefillCost
    """What reading a prompt adds to a step."""
    decode: DecodeCost
    """What writing adds to a step."""
    transfer: TransferCost | None = None
    """Hand-off of KV blocks; absent where it was not measured."""
    kv_bytes_per_token: Large
    """KV cache of one token, in bytes, over the whole group."""
    kv_cache_tokens: Large
    """Tokens that the KV cache of the group holds."""
    startup_seconds: Count = 0
    """From the creation of a group to its first token."""
    provenance: Provenance
    """Where the numbers come from."""


class PerformanceProfile(Noun):
    """How fast one group of workers is: for a model, an engine, a GPU and a parallelism. `proa profile` writes one."""

    api_version: Literal["proa.dev/v1alpha1"]
    """Group and version of the API."""
    kind: Literal["PerformanceProfile"]
    """Kind of the object."""
    metadata: Metadata
    """Name and labels."""
    spec: PerformanceProfileSpec
    """What was measured, and the result."""


PERFORMANCE_PROFILE_RULES: tuple[Rule | TransitionRule, ...] = (
    Rule(
        path="spec.step",
        field="expertShare",
        cel=f"!self.expertShare.matches('{COEFFICIENT}') || double(self.expertShare) <= 1.0",
        holds=lambda step: Fraction(step.expert_share) <= 1,
        message='a token cannot go to more experts than there are: set expertShare between "0" and "1"',
    ),
)
