"""One real `proa-worker` process of the sim engine: every RPC."""

from __future__ import annotations

import hashlib
import io
import zipfile
from collections.abc import Iterator

import grpc
import pytest
from grpc_health.v1 import health_pb2
from grpc_reflection.v1alpha import reflection_pb2
from smg_grpc_proto import vllm_engine_pb2 as pb
from smg_grpc_proto.generated import common_pb2

from tests.serving.worker_process import TIMEOUT, WorkerProcess


@pytest.fixture(scope="module", autouse=True)
def _no_process_stays() -> Iterator[None]:
    yield
    WorkerProcess.kill_all()  # of tests that failed


@pytest.fixture(scope="module")
def worker() -> Iterator[WorkerProcess]:
    process = WorkerProcess("--max-num-waiting", "4", "--max-num-seqs", "2")
    yield process
    assert process.stop() == 0


def test_stream_sends_chunks_then_the_whole(worker) -> None:
    replies = list(worker.generate("a", 5, 6, 7, max_tokens=3))
    assert [reply.WhichOneof("response") for reply in replies][-1] == "complete"
    chunks = [token for reply in replies[:-1] for token in reply.chunk.token_ids]
    assert chunks == list(replies[-1].complete.output_ids)
    assert (replies[-1].complete.prompt_tokens, replies[-1].complete.completion_tokens) == (3, 3)


def test_unary_sends_the_whole_only(worker) -> None:
    (reply,) = worker.generate("b", 5, 6, 7, stream=False)
    assert len(reply.complete.output_ids) == 4


def test_n_outputs_carry_their_index(worker) -> None:
    replies = list(worker.generate("c", 5, 6, 7, stream=False, n=3))
    assert sorted(reply.complete.index for reply in replies) == [0, 1, 2]


@pytest.mark.parametrize(
    ("ids", "sampling", "code", "message"),
    [
        ((), {}, "INVALID_ARGUMENT", "prompt is empty"),
        ((5, 10**6), {}, "INVALID_ARGUMENT", "outside the vocabulary"),
        ((5,), {"max_tokens": 0}, "INVALID_ARGUMENT", "max_tokens must be at least 1"),
        ((5,), {"json_schema": '{"type": "nope"}'}, "INVALID_ARGUMENT", "nope"),
        ((5,) * 5000, {}, "INVALID_ARGUMENT", "5000 tokens, this worker takes at most"),
        ((5,), {"logit_bias": {10**6: 1.0}}, "INVALID_ARGUMENT", "logit_bias has token id 1000000"),
        ((5,), {"prompt_logprobs": 1}, "UNIMPLEMENTED", "prompt_logprobs"),
    ],
)
def test_bad_requests_get_a_status_and_a_reason(worker, ids, sampling, code, message) -> None:
    with pytest.raises(grpc.RpcError) as caught:
        list(worker.generate("bad", *ids, **sampling))
    assert caught.value.code() is grpc.StatusCode[code]
    assert message in caught.value.details()


def test_bad_hand_off_is_refused(worker) -> None:
    request = pb.GenerateRequest(
        request_id="x", tokenized=pb.TokenizedInput(input_ids=[5, 6]), sampling_params=pb.SamplingParams(max_tokens=1)
    )
    request.kv_transfer_params_json = '{"do_remote_prefill": true}'
    with pytest.raises(grpc.RpcError) as caught:
        list(worker.engine.Generate(request, timeout=TIMEOUT))
    assert caught.value.code() is grpc.StatusCode.INVALID_ARGUMENT


def test_full_queue_is_resource_exhausted_and_abort_ends_all(worker) -> None:
    calls = [worker.generate(f"q{i}", 5, 6, 7, max_tokens=3000) for i in range(2)]
    worker.wait_for(lambda: worker.load().running == 2)
    calls += [worker.generate(f"q{i}", 5, 6, 7, max_tokens=3000) for i in range(2, 6)]
    worker.wait_for(lambda: worker.load().waiting == 4)
    with pytest.raises(grpc.RpcError) as caught:
        list(worker.generate("one-too-many", 5, 6, 7))
    assert caught.value.code() is grpc.StatusCode.RESOURCE_EXHAUSTED
    ids = [f"q{i}" for i in range(6)]
    for _ in range(2):  # idempotent
        worker.engine.Abort(pb.AbortRequest(request_ids=[*ids, "unknown"]), timeout=TIMEOUT)
    assert {list(call)[-1].complete.finish_reason for call in calls} == {"abort"}
    worker.wait_for(lambda: worker.load().blocks_owned == 0)


def test_cancelled_call_frees_its_blocks(worker) -> None:
    call = worker.generate("gone", 5, 6, 7, max_tokens=3000)
    next(call)
    call.cancel()
    worker.wait_for(lambda: worker.load().running == 0 and worker.load().blocks_owned == 0)


def test_model_and_server_info(worker) -> None:
    model = worker.engine.GetModelInfo(pb.GetModelInfoRequest(), timeout=TIMEOUT)
    assert (model.served_model_name, model.model_type, model.is_generation) == ("tiny-moe", "deepseek_v3", True)
    assert model.max_req_input_len == model.max_context_length - 1
    server = worker.engine.GetServerInfo(pb.GetServerInfoRequest(), timeout=TIMEOUT)
    assert (server.kv_connector, server.kv_role, server.max_num_seqs) == ("ProaConnector", "", 2)


def test_loads_count_tokens(worker) -> None:
    (load,) = worker.engine.GetLoads(pb.GetLoadsRequest(), timeout=TIMEOUT).loads
    assert load.max_total_num_tokens > 0
    assert load.num_running_reqs == 0


def test_tokenizer_zip_has_a_fingerprint(worker) -> None:
    chunks = list(worker.engine.GetTokenizer(common_pb2.GetTokenizerRequest(), timeout=TIMEOUT))
    blob = b"".join(chunk.data for chunk in chunks)
    assert hashlib.sha256(blob).hexdigest() == chunks[-1].sha256
    assert "tokenizer.json" in zipfile.ZipFile(io.BytesIO(blob)).namelist()


def test_kv_events_report_blocks_and_the_flush(worker) -> None:
    request = common_pb2.SubscribeKvEventsRequest(start_sequence_number=1)
    batches = worker.engine.SubscribeKvEvents(request, timeout=TIMEOUT)
    prompt = list(range(100, 140))
    list(worker.generate("ev", *prompt, max_tokens=1))
    blocks = (block for batch in batches for event in batch.events for block in event.stored.blocks)
    assert next(block for block in blocks if block.token_ids[0] == 100).token_ids == prompt[:16]
    assert worker.engine.FlushCache(common_pb2.FlushCacheRequest(timeout_s=5), timeout=TIMEOUT).success
    assert any(event.HasField("cleared") for batch in batches for event in batch.events)
    batches.cancel()


def test_unserved_rpcs_say_so(worker) -> None:
    with pytest.raises(grpc.RpcError) as caught:
        worker.engine.Embed(pb.EmbedRequest(), timeout=TIMEOUT)
    assert caught.value.code() is grpc.StatusCode.UNIMPLEMENTED


def test_reflection_lists_the_engine(worker) -> None:
    request = reflection_pb2.ServerReflectionRequest(list_services="")
    (reply,) = worker.reflection.ServerReflectionInfo(iter([request]), timeout=TIMEOUT)
    names = {service.name for service in reply.list_services_response.service}
    assert {"vllm.grpc.engine.VllmEngine", "grpc.health.v1.Health"} <= names


def test_health_can_be_watched(worker) -> None:
    watch = worker.health.Watch(health_pb2.HealthCheckRequest(), timeout=TIMEOUT)
    assert next(watch).status == health_pb2.HealthCheckResponse.SERVING
    watch.cancel()
