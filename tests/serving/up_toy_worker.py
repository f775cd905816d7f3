"""A double of proa-worker for tests of supervision and of the gateway's retries: it echoes the prompt, nothing more.

It takes the same command line. The file TOY_FAULTS/<engine id> holds the name of the gRPC status with which every
request fails. TOY_FAULTS/<engine id>.calls gets one character for each request that arrives.
"""

from __future__ import annotations

import argparse
import asyncio
import json
import os
import signal
import sys
from collections.abc import AsyncIterator
from pathlib import Path

import grpc
from grpc_health.v1 import health, health_pb2, health_pb2_grpc
from prometheus_client import Gauge, start_http_server
from smg_grpc_proto import vllm_engine_pb2 as pb
from smg_grpc_proto import vllm_engine_pb2_grpc

RUNNING = Gauge("vllm:num_requests_running", "Requests in the batch.")
WAITING = Gauge("vllm:num_requests_waiting", "Requests in the queue.")
KV_USAGE = Gauge("vllm:kv_cache_usage_perc", "Share of KV blocks in use.")
KV_ROLE = {"prefill": "kv_producer", "decode": "kv_consumer", "both": ""}


class Echo(vllm_engine_pb2_grpc.VllmEngineServicer):
    def __init__(self, options: argparse.Namespace) -> None:
        self._options = options
        self._folder = Path(os.environ["TOY_FAULTS"])

    async def Generate(  # noqa: N802
        self, request: pb.GenerateRequest, context: grpc.aio.ServicerContext
    ) -> AsyncIterator[pb.GenerateResponse]:
        name = self._options.engine_id
        with (self._folder / f"{name}.calls").open("a") as calls:
            calls.write(".")
        if (self._folder / name).exists():
            await context.abort(grpc.StatusCode[(self._folder / name).read_text()], "planted fault")
        ids = list(request.tokenized.input_ids)
        wanted = request.sampling_params.max_tokens or 16
        with RUNNING.track_inprogress():
            if request.stream:
                for idx in range(wanted):
                    await asyncio.sleep(0.01)
                    chunk = pb.GenerateStreamChunk(token_ids=[ids[idx % len(ids)]], prompt_tokens=len(ids))
                    yield pb.GenerateResponse(chunk=chunk)
        yield pb.GenerateResponse(complete=self._complete(ids, wanted))

    def _complete(self, ids: list[int], wanted: int) -> pb.GenerateComplete:
        output = (ids * wanted)[:wanted]
        done = pb.GenerateComplete(
            prompt_tokens=len(ids), completion_tokens=wanted, finish_reason="length", output_ids=output
        )
        if self._options.role == "prefill":
            done.kv_transfer_params_json = json.dumps({"engine_id": self._options.engine_id})
        return done

    async def Abort(self, request: pb.AbortRequest, context: grpc.aio.ServicerContext) -> pb.AbortResponse:  # noqa: N802
        return pb.AbortResponse()

    async def HealthCheck(  # noqa: N802
        self, request: pb.HealthCheckRequest, context: grpc.aio.ServicerContext
    ) -> pb.HealthCheckResponse:
        return pb.HealthCheckResponse(healthy=True)

    async def GetModelInfo(  # noqa: N802
        self, request: pb.GetModelInfoRequest, context: grpc.aio.ServicerContext
    ) -> pb.GetModelInfoResponse:
        return pb.GetModelInfoResponse(
            model_path=self._options.model,
            tokenizer_path=self._options.model,
            is_generation=True,
            max_context_length=1024,
            max_req_input_len=1023,
            vocab_size=512,
            served_model_name=self._options.served_model_name,
            model_type="deepseek_v3",
            architectures=["DeepseekV3ForCausalLM"],
            eos_token_ids=[0],
        )

    async def GetServerInfo(  # noqa: N802
        self, request: pb.GetServerInfoRequest, context: grpc.aio.ServicerContext
    ) -> pb.GetServerInfoResponse:
        return pb.GetServerInfoResponse(
            server_type="vllm-grpc",
            kv_connector="Toy",
            kv_role=KV_ROLE[self._options.role],
            kv_engine_id=self._options.engine_id,
            data_parallel_size=1,
            block_size=16,
            max_num_seqs=64,
        )

    async def GetLoads(  # noqa: N802
        self, request: pb.GetLoadsRequest, context: grpc.aio.ServicerContext
    ) -> pb.GetLoadsResponse:
        return pb.GetLoadsResponse(dp_rank_count=1, loads=[pb.SchedulerLoad(max_running_requests=64)])


def parse(argv: list[str]) -> argparse.Namespace:
    parser = argparse.ArgumentParser()
    for flag in ("role", "model", "served-model-name", "engine-id"):
        parser.add_argument(f"--{flag}", required=True)
    for flag in ("port", "metrics-port"):
        parser.add_argument(f"--{flag}", required=True, type=int)
    parser.add_argument("--refuse-settings", action="store_true")
    return parser.parse_known_args(argv)[0]


async def main(options: argparse.Namespace) -> None:
    server = grpc.aio.server()
    vllm_engine_pb2_grpc.add_VllmEngineServicer_to_server(Echo(options), server)
    checker = health.aio.HealthServicer()
    await checker.set("", health_pb2.HealthCheckResponse.SERVING)
    health_pb2_grpc.add_HealthServicer_to_server(checker, server)
    server.add_insecure_port(f"127.0.0.1:{options.port}")
    start_http_server(options.metrics_port, addr="127.0.0.1")
    await server.start()
    stop = asyncio.Event()
    asyncio.get_running_loop().add_signal_handler(signal.SIGTERM, stop.set)
    await stop.wait()
    await server.stop(grace=10)


if __name__ == "__main__":
    settings = parse(sys.argv[1:])
    if settings.refuse_settings:
        print("noise before", file=sys.stderr)
        print("--refuse-settings: is not a setting; remove it", file=sys.stderr)
        sys.exit(2)
    asyncio.run(main(settings))
