"""What local mode starts: processes with their command lines, ports, dependencies and signs of readiness."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from enum import StrEnum
from pathlib import Path

from proa_operator.api.service import DisaggregatedService


class Role(StrEnum):
    """What a process does."""

    PREFILL = "prefill"
    DECODE = "decode"
    BOTH = "both"
    GATEWAY = "gateway"
    METRICS = "metrics"

    @property
    def is_worker(self) -> bool:
        """Whether the gateway sends it requests."""
        return self in (Role.PREFILL, Role.DECODE, Role.BOTH)


@dataclass(frozen=True, slots=True, kw_only=True)
class GrpcServing:
    """Ready when grpc.health.v1 at `address` answers SERVING."""

    address: str


@dataclass(frozen=True, slots=True, kw_only=True)
class GatewayServing:
    """Ready when the gateway at `url` reports at least `num_workers` healthy workers."""

    url: str
    num_workers: int


@dataclass(frozen=True, slots=True, kw_only=True)
class HttpServing:
    """Ready when `url` answers 200."""

    url: str


@dataclass(frozen=True, slots=True, kw_only=True)
class IdleGauge:
    """A Prometheus gauge at `url`; at 0 the process has nothing in flight."""

    url: str
    metric: str


@dataclass(frozen=True, slots=True, kw_only=True)
class Process:
    """One process of a plan."""

    name: str
    role: Role
    argv: tuple[str, ...]
    env: tuple[tuple[str, str], ...]
    """Added to the environment of `proa`."""
    port: int
    """The port that its clients use."""
    metrics_url: str
    ready: GrpcServing | GatewayServing | HttpServing
    needs: tuple[str, ...] = ()
    """Names of processes that must be ready before this one starts; it stops before them."""
    drain_seconds: float
    """Time between SIGTERM and SIGKILL."""
    idle: IdleGauge | None = None
    """When given, a draining process is ended as soon as this gauge is 0."""


@dataclass(frozen=True, slots=True, kw_only=True)
class LocalPlan:
    """All processes of a service on this machine."""

    service: str
    model_name: str
    url: str
    """Where clients reach the OpenAI API, without /v1."""
    state_dir: Path
    """Holds one log file for each process."""
    processes: tuple[Process, ...]
    notes: tuple[str, ...] = ()
    """What the user should know before the start, one line each."""
    scaling: Scaling | None = None
    """Absent: the numbers of workers stay as they are."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Scaling:
    """What it takes to change the numbers of workers at run time."""

    service: DisaggregatedService
    make_worker: Callable[[Role, int], Process]
    """A worker of a role with this number in its name, on free ports."""
    next_port: Callable[[], int]
    control_key: str
    """Lets us add and remove workers at the gateway."""
