"""vllm.grpc.engine.VllmEngine: what a gateway calls."""

from __future__ import annotations

import asyncio
import json
import time
from collections.abc import AsyncIterator
from contextlib import aclosing
from datetime import UTC, datetime
from importlib.metadata import version
from pathlib import Path
from typing import Any

from smg_grpc_proto import vllm_engine_pb2 as pb
from smg_grpc_proto import vllm_engine_pb2_grpc
from smg_grpc_proto.generated import common_pb2

from proa_workers.core.load import Load
from proa_workers.errors import Draining, Unsupported
from proa_workers.serving.generate import generate
from proa_workers.serving.tokenizer_zip import tokenizer_chunks
from proa_workers.serving.worker import Worker

Context = Any
KV_ROLES = {"prefill": "kv_producer", "decode": "kv_consumer", "both": ""}
FLUSH_POLL_SECONDS = 0.05


class EngineServicer(vllm_engine_pb2_grpc.VllmEngineServicer):  # type: ignore[misc]
    def __init__(self, worker: Worker) -> None:
        self._worker = worker

    async def Generate(self, request: pb.GenerateRequest, context: Context) -> AsyncIterator[pb.GenerateResponse]:
        with self._worker.tally:
            async with aclosing(generate(self._worker, request)) as responses:
                async for response in responses:
                    yield response

    async def Abort(self, request: pb.AbortRequest, context: Context) -> pb.AbortResponse:
        for request_id in request.request_ids:
            self._worker.abort(request_id)
        return pb.AbortResponse()

    async def Embed(self, request: pb.EmbedRequest, context: Context) -> pb.EmbedResponse:
        raise Unsupported("this worker serves generation only, no embeddings")

    async def HealthCheck(self, request: pb.HealthCheckRequest, context: Context) -> pb.HealthCheckResponse:
        try:
            self._worker.check_open()
        except Draining as reason:
            return pb.HealthCheckResponse(healthy=False, message=str(reason))
        return pb.HealthCheckResponse(healthy=True, message="ok")

    async def FlushCache(
        self, request: common_pb2.FlushCacheRequest, context: Context
    ) -> common_pb2.FlushCacheResponse:
        """Drops the prefix cache as soon as nothing runs; success is false when that takes longer than timeout_s."""
        self._loaded()
        deadline = time.monotonic() + request.timeout_s
        while not (is_flushed := await asyncio.wrap_future(self._worker.loop.flush())):
            if time.monotonic() >= deadline:
                break
            await asyncio.sleep(FLUSH_POLL_SECONDS)
        message = "prefix cache flushed" if is_flushed else "requests are running: nothing flushed"
        return common_pb2.FlushCacheResponse(success=is_flushed, message=message)

    async def StartProfile(self, request: Any, context: Context) -> common_pb2.ProfileResponse:
        raise Unsupported("this worker has no profiler RPC")

    async def StopProfile(self, request: Any, context: Context) -> common_pb2.ProfileResponse:
        raise Unsupported("this worker has no profiler RPC")

    async def GetModelInfo(self, request: pb.GetModelInfoRequest, context: Context) -> pb.GetModelInfoResponse:
        """Lengths are in tokens; the gateway reads the tokenizer and the default sampling parameters from it."""
        self._loaded()
        info = self._worker.engine.info
        return pb.GetModelInfoResponse(
            model_path=info.model_path,
            tokenizer_path=info.model_path,
            served_model_name=self._worker.settings.served_model_name,
            is_generation=True,
            max_context_length=info.max_model_len,
            max_req_input_len=info.max_model_len - 1,
            vocab_size=info.vocab_size,
            model_type=info.model_type,
            architectures=[info.architecture],
            eos_token_ids=info.eos_token_ids,
            bos_token_id=info.bos_token_id or 0,
            pad_token_id=info.pad_token_id or 0,
            default_sampling_params_json=_default_sampling(Path(info.model_path)),
        )

    async def GetServerInfo(self, request: pb.GetServerInfoRequest, context: Context) -> pb.GetServerInfoResponse:
        """Role and engine id of the KV hand-off, by which the gateway pairs workers."""
        self._loaded()
        worker = self._worker
        return pb.GetServerInfoResponse(
            active_requests=len(worker.streams),
            uptime_seconds=time.time() - worker.started_at,
            server_type="vllm-grpc",
            kv_connector="ProaConnector",
            kv_role=KV_ROLES[worker.role],
            kv_engine_id=worker.settings.engine_id,
            data_parallel_size=1,
            kv_cache_dtype=worker.engine.kv.layout.dtype,
            block_size=worker.settings.block_size,
            model_dtype=f"torch.{worker.engine.info.dtype}",
            pairing_protocol=worker.settings.pairing_protocol,
            max_num_seqs=worker.settings.max_num_seqs,
            constrained_decoding_start="first_token",
        )

    async def GetLoads(self, request: pb.GetLoadsRequest, context: Context) -> pb.GetLoadsResponse:
        load = self._loaded()
        reply = pb.GetLoadsResponse(timestamp=datetime.now(UTC).isoformat(), version=version("proa"), dp_rank_count=1)
        reply.loads.append(self._wire_load(load))
        return reply

    async def GetTokenizer(
        self, request: common_pb2.GetTokenizerRequest, context: Context
    ) -> AsyncIterator[common_pb2.GetTokenizerChunk]:
        self._loaded()
        for chunk in await asyncio.to_thread(tokenizer_chunks, Path(self._worker.engine.info.model_path)):
            yield chunk

    async def SubscribeKvEvents(
        self, request: common_pb2.SubscribeKvEventsRequest, context: Context
    ) -> AsyncIterator[common_pb2.KvEventBatch]:
        self._loaded()
        async for batch in self._worker.kv_events.follow(request.start_sequence_number):
            yield batch

    def _loaded(self) -> Load:
        load = self._worker.load
        if load is None:
            raise Draining("the model still loads: try again")
        return load

    def _wire_load(self, load: Load) -> pb.SchedulerLoad:
        s = self._worker.settings
        return pb.SchedulerLoad(
            num_running_reqs=load.num_running,
            num_waiting_reqs=load.num_waiting,
            num_total_reqs=load.num_running + load.num_waiting,
            num_used_tokens=(load.blocks_owned + load.blocks_pinned) * s.block_size,
            max_total_num_tokens=load.blocks_total * s.block_size,
            token_usage=load.kv_usage,
            gen_throughput=load.tokens_per_second,
            utilization=load.num_running / s.max_num_seqs,
            max_running_requests=s.max_num_seqs,
            num_waiting_uncached_tokens=load.num_waiting_tokens,
        )


def _default_sampling(model: Path) -> str:
    """The checkpoint's own sampling defaults, which gateways apply; empty when it has none."""
    path = model / "generation_config.json"
    if not path.is_file():
        return ""
    kept = ("temperature", "top_p", "top_k", "min_p", "repetition_penalty")
    chosen = {key: value for key, value in json.loads(path.read_text()).items() if key in kept and value is not None}
    return json.dumps(chosen) if chosen else ""
