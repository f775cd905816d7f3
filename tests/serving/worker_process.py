"""A `proa-worker` process of the sim engine with stubs for its services."""

from __future__ import annotations

import signal
import subprocess
import sys
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any, ClassVar

import grpc
from grpc_health.v1 import health_pb2, health_pb2_grpc
from grpc_reflection.v1alpha import reflection_pb2_grpc
from proa_operator.local.ports import FreePorts
from proa_proto.v1 import worker_admin_pb2 as admin_pb
from proa_proto.v1 import worker_admin_pb2_grpc
from smg_grpc_proto import vllm_engine_pb2 as pb
from smg_grpc_proto import vllm_engine_pb2_grpc

MODEL = Path(__file__).resolve().parents[2] / "examples/models/tiny-moe"
TIMEOUT = 60.0
FLAGS = ("port", "kv-port", "kv-data-port", "admin-port", "metrics-port")


_next_port = FreePorts("127.0.0.1", 26000)


class WorkerProcess:
    started: ClassVar[list[subprocess.Popen[str]]] = []

    def __init__(self, *args: str, is_awaited: bool = True) -> None:
        self.ports = {flag: _next_port() for flag in FLAGS}
        flags = [word for flag, port in self.ports.items() for word in (f"--{flag}", str(port))]
        command = [sys.executable, "-m", "proa_workers.main", "--model", str(MODEL), "--engine", "sim", *flags, *args]
        self.process = subprocess.Popen(command, stderr=subprocess.PIPE, text=True)
        self.started.append(self.process)
        channel = grpc.insecure_channel(f"127.0.0.1:{self.ports['port']}")
        grpc.channel_ready_future(channel).result(TIMEOUT)
        self.engine = vllm_engine_pb2_grpc.VllmEngineStub(channel)
        self.health = health_pb2_grpc.HealthStub(channel)
        self.reflection = reflection_pb2_grpc.ServerReflectionStub(channel)
        self.admin = worker_admin_pb2_grpc.WorkerAdminStub(
            grpc.insecure_channel(f"127.0.0.1:{self.ports['admin-port']}")
        )
        if is_awaited:
            self.wait_for(lambda: self.status() == health_pb2.HealthCheckResponse.SERVING)

    def status(self) -> int:
        return self.health.Check(health_pb2.HealthCheckRequest(), timeout=TIMEOUT).status

    def wait_for(self, is_true: Callable[[], bool]) -> None:
        deadline = time.monotonic() + TIMEOUT
        while not is_true():
            assert time.monotonic() < deadline
            time.sleep(0.02)

    def generate(self, request_id: str, *ids: int, stream: bool = True, **sampling: object) -> Any:
        sampling = {"max_tokens": 4, "ignore_eos": True, **sampling}
        request = pb.GenerateRequest(
            request_id=request_id,
            tokenized=pb.TokenizedInput(input_ids=ids),
            sampling_params=pb.SamplingParams(**sampling),
            stream=stream,
        )
        return self.engine.Generate(request, timeout=TIMEOUT)

    def load(self) -> admin_pb.LoadReply:
        return self.admin.Load(admin_pb.LoadRequest(), timeout=TIMEOUT)

    def stop(self) -> int:
        if self.process.poll() is None:
            self.process.send_signal(signal.SIGTERM)
        code = self.process.wait(TIMEOUT)
        assert self.process.stderr is not None
        self.process.stderr.close()
        return code

    @classmethod
    def kill_all(cls) -> None:
        for process in cls.started:
            process.kill()
            process.communicate(timeout=TIMEOUT)
