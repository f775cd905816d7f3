"""The engine that runs the model inside a worker."""

from __future__ import annotations

from enum import StrEnum
from typing import Annotated

from pydantic import Field

from proa_operator.api.noun import Noun


class EngineType(StrEnum):
    """`vllm` for production, `native` is Proa's own torch engine, `sim` a cost model with deterministic tokens."""

    VLLM = "vllm"
    NATIVE = "native"
    SIM = "sim"


class EnvVar(Noun):
    """One environment variable of the worker."""

    name: Annotated[str, Field(pattern=r"^[A-Za-z_][A-Za-z0-9_]*$")]
    """Name of the variable."""
    value: str = ""
    """Its value."""


class Engine(Noun):
    """Which engine runs, from which image, with which extra arguments."""

    type: EngineType = EngineType.VLLM
    """vllm in production; native is Proa's own torch engine, sim a cost model with deterministic tokens."""
    image: str = ""
    """Container image, by digest; empty takes the chart's."""
    args: tuple[str, ...] = ()
    """Arguments appended to the worker's command line."""
    env: tuple[EnvVar, ...] = ()
    """Environment variables added to the worker's."""
