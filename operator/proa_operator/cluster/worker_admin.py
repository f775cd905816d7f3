"""WorkerAdmin of one worker, each call with a deadline and a connection of its own: no state to go stale."""

from __future__ import annotations

from collections.abc import AsyncIterator, Callable
from contextlib import asynccontextmanager
from dataclasses import dataclass

import grpc
from proa_proto.v1 import worker_admin_pb2 as pb
from proa_proto.v1 import worker_admin_pb2_grpc as rpc

from proa_operator import metrics
from proa_operator.cluster.errors import ClusterError
from proa_operator.names import WORKER_PORTS, Port
from proa_operator.plan.state import StartPhase

LOAD_SECONDS = 2.0
PROBE_SECONDS = 30.0
_DRAIN_GRACE_SECONDS = 10.0
_OPTIONS = (("grpc.enable_retries", 0), ("grpc.use_local_subchannel_pool", 1), ("grpc.enable_http_proxy", 0))
_PHASES = {
    pb.DOWNLOAD: StartPhase.DOWNLOAD,
    pb.LOAD: StartPhase.LOAD,
    pb.COMPILE: StartPhase.COMPILE,
    pb.GRAPHS: StartPhase.GRAPHS,
    pb.SERVING: StartPhase.SERVING,
    pb.DRAINING: StartPhase.DRAINING,
}


class NoAnswer(ClusterError):
    """A worker did not answer, or refused."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Reading:
    """Answer of `Load`."""

    phase: StartPhase
    fraction: float
    running: int
    waiting: int
    leases: int
    steps_total: int
    finished_total: int
    """Requests that ended, failed ones included."""
    failed_total: int
    ttft_seconds_total: float
    ttft_count: int


class WorkerAdmin:
    """Talks to workers by the address of their pods. All methods raise NoAnswer."""

    def __init__(self, port: int = WORKER_PORTS[Port.ADMIN], kv_port: int = WORKER_PORTS[Port.KV]) -> None:
        self._port, self._kv_port = port, kv_port

    async def load(self, ip: str) -> Reading:
        """What the worker does now."""
        async with self._stub(ip, "Load") as stub:
            found = await stub.Load(pb.LoadRequest(), timeout=LOAD_SECONDS)
        return Reading(
            phase=_PHASES.get(found.phase, StartPhase.LOAD),
            fraction=round(found.fraction, 2),
            running=found.running,
            waiting=found.waiting,
            leases=found.leases,
            steps_total=found.steps_total,
            finished_total=found.finished_total,
            failed_total=found.failed_total,
            ttft_seconds_total=found.ttft_seconds_total,
            ttft_count=found.ttft_count,
        )

    async def probe(self, ip: str, peer: str) -> None:
        """A transfer from the worker at `ip` to the one at `peer`."""
        async with self._stub(ip, "Probe") as stub:
            await stub.Probe(pb.ProbeRequest(peer=f"{_bracketed(peer)}:{self._kv_port}"), timeout=PROBE_SECONDS)

    async def drain(self, ip: str, timeout_seconds: float, is_over: Callable[[], None]) -> None:
        """Take nothing new; returns when nothing runs and no lease is left, or at the timeout."""
        async with self._stub(ip, "Drain") as stub:
            request = pb.DrainRequest(timeout_ms=int(timeout_seconds * 1000))
            async for progress in stub.Drain(request, timeout=timeout_seconds + _DRAIN_GRACE_SECONDS):
                if progress.is_done:
                    is_over()

    @asynccontextmanager
    async def _stub(self, ip: str, method: str) -> AsyncIterator[rpc.WorkerAdminAsyncStub]:
        outcome = "failed"
        try:
            async with grpc.aio.insecure_channel(f"{_bracketed(ip)}:{self._port}", options=_OPTIONS) as channel:
                yield rpc.WorkerAdminStub(channel)
            outcome = "done"
        except grpc.aio.AioRpcError as error:
            raise NoAnswer(f"{method} of the worker at {ip}: {error.code().name}: {error.details()}") from None
        finally:
            metrics.WORKER_CALLS.labels(method=method, outcome=outcome).inc()


def _bracketed(ip: str) -> str:
    return f"[{ip}]" if ":" in ip else ip
