"""A real worker that fails requests: what it tells, what the operator reads, and the rollback that follows."""

from __future__ import annotations

import asyncio
import json
import time
from collections.abc import Iterator
from contextlib import suppress

import grpc
import pytest
from proa_operator.cluster.worker_admin import WorkerAdmin
from proa_operator.cluster.workers import Worker, Workers
from proa_operator.names import Role
from proa_operator.plan.state import WorkerLoad
from smg_grpc_proto import vllm_engine_pb2 as pb

from tests.serving.worker_process import TIMEOUT, WorkerProcess
from tests.unit.plan_fakes import service
from tests.unit.plan_world import Pod, Set, World, is_settled, settled_at

ONE, TWO = "bundled://one", "bundled://two"
PROMPT = range(5, 45)


@pytest.fixture(scope="module", autouse=True)
def _no_process_stays() -> Iterator[None]:
    yield
    WorkerProcess.kill_all()


def loads_around(worker: WorkerProcess, serve) -> WorkerLoad:
    """What the operator knows after it asked before and after `serve()`."""

    async def ask() -> WorkerLoad:
        workers = Workers(WorkerAdmin(port=worker.ports["admin-port"]), time.time, lambda key: None)
        leader = Worker(uid="u", name="w", ip="127.0.0.1", service=("n", "s"), loaded_since="1")
        await workers.read_load(leader)
        await asyncio.to_thread(serve)
        await workers.read_load(leader)
        return workers.loads["u"]

    return asyncio.run(ask())


def decode(worker: WorkerProcess, offer: str, number: int) -> list[grpc.StatusCode]:
    """Status of each of `number` requests that are to fetch their prompt's blocks."""
    codes = []
    for index in range(number):
        request = pb.GenerateRequest(
            request_id=f"r{index}",
            tokenized=pb.TokenizedInput(input_ids=PROMPT),
            sampling_params=pb.SamplingParams(max_tokens=2, ignore_eos=True),
            kv_transfer_params_json=offer,
        )
        call = worker.engine.Generate(request, timeout=TIMEOUT)
        with suppress(grpc.RpcError):
            list(call)
        codes.append(call.code())
    return codes


def test_failed_hand_offs_roll_a_rollout_back() -> None:
    """The peer that made the offer is gone, and the policy says to fail."""
    holder, worker = WorkerProcess("--role", "prefill"), WorkerProcess("--kv-failure-policy", "fail")
    (reply,) = holder.generate("a", *PROMPT, max_tokens=1, stream=False)
    handed_off = loads_around(holder, lambda: list(holder.generate("b", *PROMPT, max_tokens=1)))
    assert (handed_off.finished_total, handed_off.ttft_count) == (2, 1)
    assert holder.stop() == 0
    codes: list[grpc.StatusCode] = []
    offer = json.loads(reply.complete.kv_transfer_params_json)

    def serve() -> None:
        for index in range(48):
            list(worker.generate(f"g{index}", 5, 6, 7, stream=False))
        codes.extend(decode(worker, json.dumps({**offer, "transfer_id": "other"}), 2))

    load = loads_around(worker, serve)
    assert set(codes) == {grpc.StatusCode.UNAVAILABLE}
    assert (load.finished_total, load.failed_total, load.ttft_count) == (50, 2, 48)
    assert 0 < load.ttft_seconds < TIMEOUT
    assert worker.stop() == 0
    assert "4.0% of its requests failed" in rolled_back(load)


def rolled_back(load: WorkerLoad) -> str:
    """Why the planner gives a new revision up whose decode worker tells `load`."""

    class Told(World):
        def _load_of(self, owner: Set, pod: Pod) -> WorkerLoad | None:
            played = super()._load_of(owner, pod)
            is_new = owner.revision == new and owner.role is Role.DECODE
            return load if played is not None and is_new and pod.is_routable else played

    new = ""
    world = Told(service(prefill=1, decode=1, model=ONE))
    assert world.run(600, until=lambda: is_settled(world))
    (old,) = world.revisions
    world.change(service(prefill=1, decode=1, model=TWO))
    world.run(1)
    (new,) = world.revisions.keys() - {old}
    assert world.run(1000, until=lambda: bool(world.revisions[new].failed))
    assert world.run(1000, until=lambda: settled_at(world, old, {Role.PREFILL: 1, Role.DECODE: 1}))
    return world.revisions[new].failed
