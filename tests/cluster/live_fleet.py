"""WorkerAdmin for every played pod at an address of its own: what each worker does is set by the test, by pod."""

from __future__ import annotations

import asyncio
import os
import threading
import time
from collections.abc import AsyncIterator, Coroutine, Iterator, Mapping
from concurrent.futures import Future
from types import TracebackType
from typing import Any, Self, TypeVar

import grpc
import grpc.aio
from proa_operator import names
from proa_operator.names import WORKER_PORTS, Port
from proa_proto.v1 import worker_admin_pb2 as pb
from proa_proto.v1 import worker_admin_pb2_grpc as rpc

from testbed.cluster import Document
from testbed.played import node_manifest

T = TypeVar("T")
SECONDS = 20.0
STEPS_PER_SECOND = 100


class PlayedWorker:
    """The worker in one pod."""

    def __init__(self, pod: str, service: str = "", role: str = "") -> None:
        """Loaded and idle."""
        self.pod, self.service, self.role = pod, service, role
        self.running = self.leases = self.finished = self.failed = 0
        self.is_draining = self.fails_probes = self.is_routed = False


class Address(rpc.WorkerAdminServicer):
    """Answers at one address for whichever pod has it."""

    def __init__(self) -> None:
        """Of no pod yet."""
        self.worker = PlayedWorker("")

    async def Load(self, request: pb.LoadRequest, context: object) -> pb.LoadReply:  # noqa: N802
        found = self.worker
        return pb.LoadReply(
            phase=pb.DRAINING if found.is_draining else pb.SERVING,
            fraction=1.0,
            running=found.running,
            leases=found.leases,
            steps_total=int(time.time() * STEPS_PER_SECOND),
            finished_total=found.finished,
            failed_total=found.failed,
        )

    async def Probe(self, request: pb.ProbeRequest, context: Any) -> pb.ProbeReply:  # noqa: N802
        if self.worker.fails_probes:
            await context.abort(grpc.StatusCode.UNAVAILABLE, "no route to the peer")
        return pb.ProbeReply(transport="tcp", bytes=1, seconds=0.001)

    async def SetRole(self, request: pb.SetRoleRequest, context: object) -> pb.SetRoleReply:  # noqa: N802
        return pb.SetRoleReply(role=request.role)

    async def Drain(  # noqa: N802
        self, request: pb.DrainRequest, context: object
    ) -> AsyncIterator[pb.DrainProgress]:
        worker, deadline = self.worker, time.monotonic() + request.timeout_ms / 1000
        worker.is_draining = True
        while (worker.running or worker.leases) and time.monotonic() < deadline:
            await asyncio.sleep(0.1)
        yield pb.DrainProgress(running=worker.running, leases=worker.leases, is_done=True)


class Fleet:
    """`see_pod` with each event of a pod keeps it up to date; `workers` has who is there, by uid of the pod."""

    def __init__(self) -> None:
        """The loop is not running yet."""
        self.workers: dict[str, PlayedWorker] = {}
        self._addresses: dict[str, Address] = {}
        self._restarts: dict[str, int] = {}
        self._servers: list[grpc.aio.Server] = []
        self._loop = asyncio.new_event_loop()
        self._thread = threading.Thread(target=self._loop.run_forever, daemon=True)

    def __enter__(self) -> Self:
        self._thread.start()
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self.spawn(self._stop()).result(SECONDS)
        self._loop.call_soon_threadsafe(self._loop.stop)
        self._thread.join(SECONDS)
        self._loop.close()

    def spawn(self, work: Coroutine[Any, Any, T]) -> Future[T]:
        """Run it on the fleet's loop."""
        return asyncio.run_coroutine_threadsafe(work, self._loop)

    def after(self, seconds: float, do: Any) -> None:
        """Call it later, on the fleet's loop."""
        self._loop.call_soon_threadsafe(self._loop.call_later, seconds, do)

    def see_pod(self, event: str, body: Document) -> PlayedWorker | None:
        """The pod's worker while it has one. A container that starts again is a new worker."""
        meta, status = body["metadata"], body.get("status", {})
        uid, address = meta["uid"], status.get("podIP", "")
        if event == "DELETED" or names.ROLE_LABEL not in meta["labels"] or not address:
            self._restarts.pop(uid, None)
            self.workers.pop(uid, None)
            return None
        restarts = sum(one["restartCount"] for one in status.get("containerStatuses", ()))
        if uid not in self.workers or restarts != self._restarts[uid]:
            self._restarts[uid] = restarts
            self.workers[uid] = PlayedWorker(
                meta["name"], meta["labels"][names.SERVICE_LABEL], meta["labels"][names.ROLE_LABEL]
            )
            if meta["name"].endswith("-0"):  # only a group's leader answers
                self._listen(address).worker = self.workers[uid]
        return self.workers[uid]

    def _listen(self, address: str) -> Address:
        if address not in self._addresses:
            self._addresses[address] = Address()
            self.spawn(self._serve(address)).result(SECONDS)
        return self._addresses[address]

    async def _serve(self, address: str) -> None:
        server = grpc.aio.server(options=(("grpc.so_reuseport", 0),))
        rpc.add_WorkerAdminServicer_to_server(self._addresses[address], server)
        server.add_insecure_port(f"{address}:{WORKER_PORTS[Port.ADMIN]}")
        await server.start()
        self._servers.append(server)

    async def _stop(self) -> None:
        await asyncio.gather(*(server.stop(0) for server in self._servers))


def addressed_nodes(
    *names_: str, first: int = 0, resources: Mapping[str, int] | None = None, labels: Mapping[str, str] | None = None
) -> Iterator[Document]:
    """Played nodes whose pods get addresses on loopback that nobody else has: 254 for each node, 250 nodes at most."""
    for number, name in enumerate(names_, first):
        node = node_manifest(name, resources=resources or {}, labels=labels or {})
        block = f"127.{200 + os.getpid() % 50}.{number}.0/24"
        node["spec"] = {"podCIDR": block, "podCIDRs": [block]}
        yield node
