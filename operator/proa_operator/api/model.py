"""The model: where its checkpoint is, under which name it is served, and in which number format it computes."""

from __future__ import annotations

from enum import StrEnum
from typing import Annotated

from pydantic import Field

from proa_operator.api.noun import Noun, Quantity
from proa_operator.api.secret import SecretKeyRef


class Dtype(StrEnum):
    """Number format of the weights and activations; `auto` takes the checkpoint's own."""

    AUTO = "auto"
    FLOAT32 = "float32"
    BFLOAT16 = "bfloat16"
    FLOAT16 = "float16"
    FP8 = "fp8"


class ModelCache(Noun):
    """The volume claim that holds downloaded weights, shared by all groups of the service."""

    storage_class: str = ""
    """Storage class of the claim; empty takes the cluster's default."""
    size: Quantity = "100Gi"
    """Size of the claim, such as 800Gi."""


class Model(Noun):
    """The served model. Everything that prefill and decode must share is here, so the pools cannot differ."""

    uri: Annotated[str, Field(min_length=1, max_length=1024)]
    """Checkpoint: hf://ORG/NAME, pvc://CLAIM/PATH, file:///ABSOLUTE/PATH, oci://IMAGE or bundled://NAME."""
    name: Annotated[str, Field(min_length=1, max_length=253)]
    """Name that clients ask for; it cannot change."""
    dtype: Dtype = Dtype.AUTO
    """Number format of weights and activations."""
    cache: ModelCache = ModelCache()
    """Where downloaded weights are kept."""
    token_secret_ref: SecretKeyRef = SecretKeyRef()
    """Token for a gated download."""
