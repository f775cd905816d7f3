"""The operator as a process against a bed, and a double of WorkerAdmin for pods that kwok plays."""

from __future__ import annotations

import http.client
import itertools
import os
import signal
import subprocess
import sys
import urllib.request
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from types import TracebackType
from typing import Any, Self

import grpc
from proa_proto.v1 import worker_admin_pb2 as pb
from proa_proto.v1 import worker_admin_pb2_grpc as rpc

from testbed.cluster import Cluster, Document
from testbed.ports import free_ports

ADMIN_PORT = 50054
STOP_SECONDS = 60.0
_HOSTS = itertools.count(1, 2)


class Operator:
    """`python -m proa_operator.main` for one namespace, with all rights unless a kubeconfig says less."""

    def __init__(
        self,
        bed: Cluster,
        namespace: str,
        *,
        pod: str = "operator-a",
        kubeconfig: Path | None = None,
        program: tuple[str, ...] = ("-m", "proa_operator.main"),
        **settings: str,
    ) -> None:
        """`settings` are environment variables that differ from the usual ones; `program` is what Python runs."""
        self.program = program
        self.bed, self.pod = bed, pod
        self.health, self.metrics = free_ports(2, "127.0.0.1")
        self.log = bed.run / f"{namespace}-{pod}.log"
        own = {
            "KUBECONFIG": str(kubeconfig or bed.kubeconfig),
            "PROA_OPERATOR_IMAGE": "localhost/proa-operator:test",
            "PROA_ENGINE_IMAGE_SIM": "localhost/proa-sim:test",
            "PROA_OPERATOR_NAMESPACE": namespace,
            "PROA_WATCH_NAMESPACES": namespace,
            "PROA_POD_NAME": pod,
            "PROA_LOG_FORMAT": "text",
            "PROA_HEALTH_PORT": str(self.health),
            "PROA_METRICS_PORT": str(self.metrics),
        }
        inherited = {name: value for name, value in os.environ.items() if not name.startswith("PROA_")}
        self.environment = {**inherited, **own, **settings}
        self.process: subprocess.Popen[bytes] | None = None

    def __enter__(self) -> Self:
        self.start()
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self.stop()
        if error is not None:
            print(self.log.read_text(), file=sys.stderr)

    def start(self) -> None:
        """Returns at once."""
        with self.log.open("ab") as log:
            argv = [sys.executable, *self.program]
            self.process = subprocess.Popen(argv, env=self.environment, stdout=log, stderr=log)

    def stop(self) -> int:
        """SIGTERM; the exit status."""
        assert self.process is not None
        if self.process.poll() is None:
            self.process.send_signal(signal.SIGTERM)
        return self.process.wait(STOP_SECONDS)

    def kill(self) -> None:
        """SIGKILL: it gives nothing back."""
        assert self.process is not None
        self.process.kill()
        self.process.wait(STOP_SECONDS)

    def has_died(self) -> bool:
        """Whether its process has ended."""
        return self.process is None or self.process.poll() is not None

    def samples(self) -> dict[str, float]:
        """Its metrics by name with labels; empty while it does not answer."""
        try:
            with urllib.request.urlopen(f"http://127.0.0.1:{self.metrics}/metrics", timeout=15) as answer:
                lines = answer.read().decode().splitlines()
        except (http.client.HTTPException, OSError):
            return {}
        return {line.rpartition(" ")[0]: float(line.rpartition(" ")[2]) for line in lines if not line.startswith("#")}

    def leads(self) -> bool:
        """Whether it says so itself."""
        return self.samples().get("proa_operator_is_leader") == 1.0


class WorkerDouble(rpc.WorkerAdminServicer):
    """Answers for all played pods of a test: loaded, idle, each probe passes unless `refuses` is set."""

    def __init__(self) -> None:
        """Not listening yet."""
        self.refuses = False
        self.leases = 0
        self.probes: list[str] = []
        self.drains = 0

    def Load(self, request: pb.LoadRequest, context: grpc.ServicerContext) -> pb.LoadReply:  # noqa: N802
        return pb.LoadReply(phase=pb.SERVING, fraction=1.0, leases=self.leases)

    def Probe(self, request: pb.ProbeRequest, context: grpc.ServicerContext) -> pb.ProbeReply:  # noqa: N802
        self.probes.append(request.peer)
        if self.refuses:
            context.abort(grpc.StatusCode.UNAVAILABLE, "no route to the peer")
        return pb.ProbeReply(transport="tcp", bytes=1, seconds=0.001)

    def SetRole(self, request: pb.SetRoleRequest, context: grpc.ServicerContext) -> pb.SetRoleReply:  # noqa: N802
        return pb.SetRoleReply(role=request.role)

    def Drain(  # noqa: N802
        self, request: pb.DrainRequest, context: grpc.ServicerContext
    ) -> Iterator[pb.DrainProgress]:
        self.drains += 1
        yield pb.DrainProgress(leases=self.leases, is_done=not self.leases)


class Doubles:
    """Addresses on loopback that nobody else has, on which a WorkerDouble listens."""

    def __init__(self) -> None:
        """Two addresses, one for each role."""
        base, host = f"127.{100 + os.getpid() // 250 % 100}.{os.getpid() % 250}", next(_HOSTS)
        self.prefill, self.decode = f"{base}.{host}", f"{base}.{host + 1}"
        self.worker = WorkerDouble()
        self._server = grpc.server(ThreadPoolExecutor(4))

    def __enter__(self) -> Self:
        rpc.add_WorkerAdminServicer_to_server(self.worker, self._server)
        for address in (self.prefill, self.decode):
            self._server.add_insecure_port(f"{address}:{ADMIN_PORT}")
        self._server.start()
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self._server.stop(0).wait(5)


def sim_service(doubles: Doubles, *, name: str = "tiny", prefill: int = 1, decode: int = 1, **spec: Any) -> Document:
    """A small service whose played pods have the addresses of the doubles."""

    def pool(replicas: int, address: str) -> Document:
        notes = {"testbed.proa.dev/pod-ip": address}
        return {"replicas": replicas, "podTemplate": {"metadata": {"annotations": notes}}}

    return {
        "apiVersion": "proa.dev/v1alpha1",
        "kind": "DisaggregatedService",
        "metadata": {"name": name},
        "spec": {
            "topology": "Disaggregated",
            "model": {"uri": "bundled://tiny-moe", "name": "tiny-moe"},
            "engine": {"type": "sim"},
            "pools": {"prefill": pool(prefill, doubles.prefill), "decode": pool(decode, doubles.decode)},
            "kvTransfer": {"leaseSeconds": 5},
            "drain": {"timeoutSeconds": 60},
            "gateway": {"replicas": 1, "port": 8000},
            **spec,
        },
    }


def condition(service: Document, kind: str) -> str:
    """Status of one of its conditions; empty while it has none."""
    found = service.get("status", {}).get("conditions", [])
    return next((str(entry["status"]) for entry in found if entry["type"] == kind), "")
