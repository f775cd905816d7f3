"""Real `proa-worker` processes of the sim engine: roles, hand-offs, drain and SIGTERM."""

from __future__ import annotations

import json
import os
import signal
import socket
from collections.abc import Iterator

import grpc
import pytest
from grpc_health.v1 import health_pb2
from proa_proto.v1 import worker_admin_pb2 as admin_pb
from smg_grpc_proto import vllm_engine_pb2 as pb

from tests.serving.worker_process import TIMEOUT, WorkerProcess


@pytest.fixture(scope="module", autouse=True)
def _no_process_stays() -> Iterator[None]:
    yield
    WorkerProcess.kill_all()  # of tests that failed


def test_role_changes_only_at_rest() -> None:
    worker = WorkerProcess()
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
    assert worker.stop() == 0


def set_role(worker: WorkerProcess, role: int) -> bool:
    try:
        worker.admin.SetRole(admin_pb.SetRoleRequest(role=role), timeout=TIMEOUT)
    except grpc.RpcError:
        return False
    return True


def test_hand_off_that_nobody_fetches_holds_its_blocks_only_for_a_while() -> None:
    worker = WorkerProcess("--role", "prefill", "--unclaimed-lease-seconds", "5", "--block-size", "16")
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
    os.mkfifo(profile := tmp_path / "never.yaml")  # the load waits for what nobody writes
    worker = WorkerProcess("--sim-profile", str(profile), is_awaited=False)
    with pytest.raises(grpc.RpcError) as caught:
        list(worker.admin.Drain(admin_pb.DrainRequest(), timeout=TIMEOUT))
    assert caught.value.code() is grpc.StatusCode.UNAVAILABLE
    assert worker.load().phase == admin_pb.LOAD
    assert worker.stop() == 0


def test_data_port_that_is_taken_during_the_load_exits_2_with_one_line(tmp_path) -> None:
    os.mkfifo(profile := tmp_path / "late.yaml")  # the load waits until it is written
    worker = WorkerProcess("--sim-profile", str(profile), is_awaited=False)
    with socket.create_server(("127.0.0.1", worker.ports["kv-data-port"])):
        profile.write_text("provenance: 'simulated: late'\n")
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
    watch = worker.health.Watch(health_pb2.HealthCheckRequest(), timeout=TIMEOUT)  # keeps what a poll could miss
    assert next(watch).status == health_pb2.HealthCheckResponse.SERVING
    worker.process.send_signal(signal.SIGTERM)
    assert next(watch).status == health_pb2.HealthCheckResponse.NOT_SERVING
    watch.cancel()
    with pytest.raises(grpc.RpcError) as caught:
        list(worker.generate("late", 5))
    assert caught.value.code() is grpc.StatusCode.UNAVAILABLE
    assert list(call)[-1].complete.completion_tokens == 200
    assert worker.stop() == 0


def test_drain_rpc_reports_until_done() -> None:
    worker = WorkerProcess()
    call = worker.generate("long", 5, 6, 7, max_tokens=800)
    next(call)
    progress = list(worker.admin.Drain(admin_pb.DrainRequest(timeout_ms=60000), timeout=TIMEOUT))
    assert progress[0].running == 1
    assert (progress[-1].is_done, progress[-1].running, progress[-1].leases) == (True, 0, 0)
    assert list(call)[-1].complete.completion_tokens == 800
    assert worker.status() == health_pb2.HealthCheckResponse.NOT_SERVING
    assert set_role(worker, admin_pb.DECODE)  # ends the drain
    assert worker.status() == health_pb2.HealthCheckResponse.SERVING
    assert list(worker.generate("again", 5, 6))[-1].complete.completion_tokens == 4
    assert worker.stop() == 0
