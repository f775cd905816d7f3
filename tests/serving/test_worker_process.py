"""One real `proa-worker` process of the sim engine: every RPC, drain and SIGTERM."""

from __future__ import annotations

import hashlib
import io
import json
import signal
import socket
import subprocess
import sys
import time
import zipfile
from collections.abc import Iterator
from pathlib import Path
from typing import ClassVar

import grpc
import pytest
from grpc_health.v1 import health_pb2, health_pb2_grpc
from grpc_reflection.v1alpha import reflection_pb2, reflection_pb2_grpc
from proa_operator.local.ports import FreePorts
from proa_proto.v1 import worker_admin_pb2 as admin_pb
from proa_proto.v1 import worker_admin_pb2_grpc
from smg_grpc_proto import vllm_engine_pb2 as pb
from smg_grpc_proto import vllm_engine_pb2_grpc
from smg_grpc_proto.generated import common_pb2

MODEL = Path(__file__).resolve().parents[2] / "examples/models/tiny-moe"
TIMEOUT = 20.0
FLAGS = ("port", "kv-port", "kv-data-port", "admin-port", "metrics-port")
next_port = FreePorts("127.0.0.1", 26000)


class WorkerProcess:
    started: ClassVar[list[subprocess.Popen[str]]] = []

    def __init__(self, *args: str, is_awaited: bool = True) -> None:
        self.ports = {flag: next_port() for flag in FLAGS}
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

    def wait_for(self, is_true) -> None:
        deadline = time.monotonic() + TIMEOUT
        while not is_true():
            assert time.monotonic() < deadline
            time.sleep(0.02)

    def generate(self, request_id: str, *ids: int, stream: bool = True, **sampling: object):
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


@pytest.fixture(scope="module", autouse=True)
def _no_process_stays() -> Iterator[None]:
    yield
    for process in WorkerProcess.started:  # of tests that failed
        process.kill()
        process.communicate(timeout=TIMEOUT)


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
    assert worker.load().blocks_owned == 0


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


def test_role_changes_only_at_rest(worker) -> None:
    call = worker.generate("busy", 5, 6, 7, max_tokens=3000)
    next(call)
    with pytest.raises(grpc.RpcError) as caught:
        worker.admin.SetRole(admin_pb.SetRoleRequest(role=admin_pb.PREFILL), timeout=TIMEOUT)
    assert caught.value.code() is grpc.StatusCode.RESOURCE_EXHAUSTED
    call.cancel()
    worker.wait_for(lambda: worker.load().running == 0)
    for role in (admin_pb.PREFILL, admin_pb.BOTH):
        worker.wait_for(lambda role=role: set_role(worker, role))
        assert worker.load().role == role


def set_role(worker: WorkerProcess, role: int) -> bool:
    try:
        worker.admin.SetRole(admin_pb.SetRoleRequest(role=role), timeout=TIMEOUT)
    except grpc.RpcError:
        return False
    return True


def test_hand_off_that_nobody_fetches_holds_its_blocks_only_for_a_while() -> None:
    worker = WorkerProcess("--role", "prefill", "--unclaimed-lease-seconds", "1", "--block-size", "16")
    (reply,) = worker.generate("a", *range(5, 45), max_tokens=1, stream=False)
    params = json.loads(reply.complete.kv_transfer_params_json)
    assert (params["do_remote_prefill"], params["num_tokens"]) == (True, 39)
    load = worker.load()
    assert (load.leases, load.blocks_pinned, load.blocks_owned) == (1, 3, 0)
    worker.wait_for(lambda: worker.load().leases == 0 and worker.load().blocks_free == load.blocks_total)
    assert worker.stop() == 0


def test_prefill_worker_that_is_sent_a_hand_off_decodes_from_it() -> None:
    """It must not offer what it fetches: nothing would be left to compute, and an empty step breaks the engine."""
    one, two = WorkerProcess("--role", "prefill"), WorkerProcess("--role", "prefill")
    (reply,) = one.generate("a", *range(5, 45), max_tokens=1, stream=False)
    request = pb.GenerateRequest(
        request_id="b",
        tokenized=pb.TokenizedInput(input_ids=range(5, 45)),
        sampling_params=pb.SamplingParams(max_tokens=1),
        kv_transfer_params_json=reply.complete.kv_transfer_params_json,
    )
    (reply,) = two.engine.Generate(request, timeout=TIMEOUT)
    assert len(reply.complete.output_ids) == 1
    assert (one.stop(), two.stop()) == (0, 0)


def test_while_the_model_loads_a_drain_is_refused_and_sigterm_ends_at_once(tmp_path) -> None:
    profile = tmp_path / "slow.yaml"
    profile.write_text("provenance: 'simulated: slow start'\nstartup_seconds: 60\n")
    worker = WorkerProcess("--sim-profile", str(profile), is_awaited=False)
    with pytest.raises(grpc.RpcError) as caught:
        list(worker.admin.Drain(admin_pb.DrainRequest(), timeout=TIMEOUT))
    assert caught.value.code() is grpc.StatusCode.UNAVAILABLE
    assert worker.load().phase == admin_pb.LOAD
    start = time.monotonic()
    assert worker.stop() == 0  # at once: it would load for a minute
    assert time.monotonic() - start < TIMEOUT / 2


def test_data_port_that_is_taken_during_the_load_exits_2_with_one_line(tmp_path) -> None:
    profile = tmp_path / "slow.yaml"
    profile.write_text("provenance: 'simulated: slow start'\nstartup_seconds: 2\n")
    worker = WorkerProcess("--sim-profile", str(profile), is_awaited=False)
    with socket.create_server(("127.0.0.1", worker.ports["kv-data-port"])):
        assert worker.process.wait(TIMEOUT) == 2
    errors = worker.process.stderr.read().splitlines()
    assert [line for line in errors if line.startswith("proa-worker: --kv-data-port 127.0.0.1:")]
    assert not any("Traceback" in line for line in errors)


def test_one_token_prompt_needs_no_hand_off() -> None:
    worker = WorkerProcess("--role", "prefill")
    (reply,) = worker.generate("a", 5, max_tokens=1, stream=False)
    assert json.loads(reply.complete.kv_transfer_params_json) == {"do_remote_prefill": False}
    assert worker.load().leases == 0
    assert worker.stop() == 0


def test_probe_moves_bytes_to_a_peer() -> None:
    one, two = WorkerProcess(), WorkerProcess()
    reply = one.admin.Probe(admin_pb.ProbeRequest(peer=f"127.0.0.1:{two.ports['kv-port']}"), timeout=TIMEOUT)
    assert reply.transport == "shm"
    assert reply.bytes > 0
    with pytest.raises(grpc.RpcError) as caught:
        one.admin.Probe(admin_pb.ProbeRequest(peer="127.0.0.1:1"), timeout=TIMEOUT)
    assert caught.value.code() is grpc.StatusCode.UNAVAILABLE
    assert (one.stop(), two.stop()) == (0, 0)


def test_sigterm_lets_running_streams_finish_and_refuses_new_ones() -> None:
    worker = WorkerProcess()
    call = worker.generate("long", 5, 6, 7, max_tokens=200)
    next(call)
    worker.process.send_signal(signal.SIGTERM)
    worker.wait_for(lambda: worker.status() == health_pb2.HealthCheckResponse.NOT_SERVING)
    with pytest.raises(grpc.RpcError) as caught:
        list(worker.generate("late", 5))
    assert caught.value.code() is grpc.StatusCode.UNAVAILABLE
    assert list(call)[-1].complete.completion_tokens == 200
    assert worker.stop() == 0


def test_drain_rpc_reports_until_done() -> None:
    worker = WorkerProcess()
    call = worker.generate("long", 5, 6, 7, max_tokens=300)
    next(call)
    progress = list(worker.admin.Drain(admin_pb.DrainRequest(timeout_ms=15000), timeout=TIMEOUT))
    assert progress[0].running == 1
    assert (progress[-1].is_done, progress[-1].running, progress[-1].leases) == (True, 0, 0)
    assert list(call)[-1].complete.completion_tokens == 300
    assert worker.status() == health_pb2.HealthCheckResponse.NOT_SERVING
    assert set_role(worker, admin_pb.DECODE)  # ends the drain
    assert worker.status() == health_pb2.HealthCheckResponse.SERVING
    assert list(worker.generate("again", 5, 6))[-1].complete.completion_tokens == 4
    assert worker.stop() == 0
