"""proa.v1.WorkerAdmin: what the operator calls."""

from __future__ import annotations

import asyncio
import time
from collections.abc import AsyncIterator
from typing import Any

from proa_proto.v1 import worker_admin_pb2 as pb
from proa_proto.v1 import worker_admin_pb2_grpc

from proa_workers.errors import Draining, InvalidRequest
from proa_workers.serving.worker import Worker
from proa_workers.settings import Role

Context = Any
ROLES: dict[Role, pb.Role.ValueType] = {"prefill": pb.PREFILL, "decode": pb.DECODE, "both": pb.BOTH}
PROGRESS_SECONDS = 0.5


class AdminServicer(worker_admin_pb2_grpc.WorkerAdminServicer):
    def __init__(self, worker: Worker) -> None:
        self._worker = worker

    async def Drain(self, request: pb.DrainRequest, context: Context) -> AsyncIterator[pb.DrainProgress]:
        """Progress until all requests have ended or the timeout is over; raises Draining before the model is loaded."""
        if not self._worker.is_loaded:
            raise Draining("the model still loads: nothing to drain")
        timeout = request.timeout_ms / 1000 or self._worker.settings.drain_timeout_seconds
        drain = asyncio.create_task(self._worker.drain(timeout))
        deadline = time.monotonic() + timeout + PROGRESS_SECONDS
        while not drain.done() and time.monotonic() < deadline:
            yield self._progress(is_done=False)
            await asyncio.wait([drain], timeout=PROGRESS_SECONDS)
        yield self._progress(is_done=await drain)

    async def Load(self, request: pb.LoadRequest, context: Context) -> pb.LoadReply:
        """What the operator probes: phase and totals always, queues and KV blocks once the engine runs."""
        worker = self._worker
        reply = pb.LoadReply(phase=worker.phase, fraction=worker.fraction, role=ROLES[worker.role])
        tally = worker.tally
        reply.finished_total, reply.failed_total = tally.finished, tally.failed
        reply.ttft_seconds_total, reply.ttft_count = tally.ttft_seconds, tally.num_ttft
        if (load := worker.load) is not None:
            reply.running, reply.waiting = load.num_running, load.num_waiting
            reply.leases = worker.holder.num_leases
            reply.steps_total, reply.errors_total = load.steps_total, load.errors_total
            reply.blocks_free, reply.blocks_owned = load.blocks_free, load.blocks_owned
            reply.blocks_pinned, reply.blocks_total = load.blocks_pinned, load.blocks_total
        return reply

    async def Probe(self, request: pb.ProbeRequest, context: Context) -> pb.ProbeReply:
        self._worker.check_open()
        transport, num_bytes, seconds = await self._worker.reader.probe(request.peer)
        return pb.ProbeReply(transport=transport, bytes=num_bytes, seconds=seconds)

    async def SetRole(self, request: pb.SetRoleRequest, context: Context) -> pb.SetRoleReply:
        names = {number: name for name, number in ROLES.items()}
        if request.role not in names:
            raise InvalidRequest("role must be PREFILL, DECODE or BOTH")
        await self._worker.reopen(names[request.role])
        return pb.SetRoleReply(role=request.role)

    def _progress(self, *, is_done: bool) -> pb.DrainProgress:
        load = self._worker.loop.load
        leases = self._worker.holder.num_leases
        return pb.DrainProgress(running=load.num_running, waiting=load.num_waiting, leases=leases, is_done=is_done)
