"""The plan of local mode, as tables: what runs, with which words, and what is refused."""

from __future__ import annotations

import itertools
import json
from pathlib import Path
from typing import Any

import pytest
import yaml
from proa_operator.api.service import DisaggregatedService
from proa_operator.errors import PlanError
from proa_operator.local.gpus import Gpus
from proa_operator.local.options import Options
from proa_operator.local.plan import plan
from proa_operator.local.process import LocalPlan, Process
from proa_operator.local.programs import Programs

TINY = """
apiVersion: proa.dev/v1alpha1
kind: DisaggregatedService
metadata: {name: tiny}
spec:
  model: {uri: "bundled://tiny-moe", name: tiny-moe}
  engine: {type: native}
  pools: {prefill: {replicas: 1}, decode: {replicas: 2}}
"""


def _plan(options: Options | None = None, /, **spec: Any) -> LocalPlan:
    document = yaml.safe_load(TINY)
    document["spec"] |= spec
    ports = itertools.count(9001)
    return plan(
        DisaggregatedService.model_validate_json(json.dumps(document)),
        options or Options(),
        programs=Programs(worker=("proa-worker",), gateway=("smg", "launch")),
        model=Path("/models/tiny-moe"),
        state_dir=Path("/state"),
        next_port=lambda: next(ports),
        control_key="k",
    )


def _flag(process: Process, name: str) -> str:
    return process.argv[process.argv.index(f"--{name}") + 1]


@pytest.mark.parametrize(
    ("options", "spec", "names"),
    [
        pytest.param(Options(), {}, "prefill-0 decode-0 decode-1", id="as in the manifest"),
        pytest.param(Options(prefill=2, decode=1), {}, "prefill-0 prefill-1 decode-0", id="options win"),
        pytest.param(Options(is_aggregated=True), {}, "worker-0 worker-1 worker-2", id="as many workers in one pool"),
        pytest.param(Options(is_aggregated=True, workers=1), {}, "worker-0", id="one pool of one"),
        pytest.param(
            Options(), {"topology": "Aggregated", "pools": {"decode": {}}}, "worker-0", id="aggregated manifest"
        ),
        pytest.param(
            Options(workers=2), {"topology": "Aggregated", "pools": {"decode": {}}}, "worker-0 worker-1", id="sized"
        ),
    ],
)
def test_processes(options: Options, spec: dict[str, Any], names: str) -> None:
    processes = _plan(options, **spec).processes
    assert [process.name for process in processes] == [*names.split(), "gateway"]
    assert processes[-1].needs == tuple(names.split())


def test_every_port_is_given_once() -> None:
    words = [word for process in _plan().processes for word in process.argv]
    ports = [words[idx + 1] for idx, word in enumerate(words) if word.endswith("port") and word != "--transport"]
    assert len(ports) == len(set(ports)) == 3 * 5 + 2


@pytest.mark.parametrize(
    ("spec", "flag", "value"),
    [
        ({}, "transport", "shm"),
        ({"kvTransfer": {"backend": "tcp"}}, "transport", "tcp"),
        ({"kvTransfer": {"leaseSeconds": 7}}, "lease-seconds", "7"),
        ({"kvTransfer": {"failurePolicy": "fail"}}, "kv-failure-policy", "fail"),
        ({"drain": {"timeoutSeconds": 99}}, "drain-timeout-seconds", "99"),
        ({"engine": {"type": "sim"}}, "engine", "sim"),
        ({}, "dtype", "auto"),
        ({}, "served-model-name", "tiny-moe"),
        ({}, "model", "/models/tiny-moe"),
        ({}, "device", "auto"),
        ({}, "role", "prefill"),
        ({}, "engine-id", "prefill-0"),
        ({}, "host", "127.0.0.1"),
    ],
)
def test_worker_flags(spec: dict[str, Any], flag: str, value: str) -> None:
    assert _flag(_plan(**spec).processes[0], flag) == value


def test_engine_arguments_come_last_and_environment_is_added() -> None:
    engine = {"type": "native", "args": ["--block-size", "32"], "env": [{"name": "OMP_NUM_THREADS", "value": "1"}]}
    worker = _plan(engine=engine).processes[0]
    assert worker.argv[-2:] == ("--block-size", "32")
    assert worker.env == (("OMP_NUM_THREADS", "1"),)


@pytest.mark.parametrize(
    ("options", "words"),
    [
        pytest.param(
            Options(),
            "--pd-disaggregation --prefill-policy cache_aware --decode-policy least_load "
            "--prefill grpc://127.0.0.1:9001 --decode grpc://127.0.0.1:9006 --decode grpc://127.0.0.1:9011",
            id="pools",
        ),
        pytest.param(
            Options(is_aggregated=True, workers=2),
            "--policy cache_aware --worker-urls grpc://127.0.0.1:9001 grpc://127.0.0.1:9006",
            id="one pool",
        ),
    ],
)
def test_gateway_routes_to_the_workers(options: Options, words: str) -> None:
    assert " ".join(_plan(options).processes[-1].argv).endswith(words)


@pytest.mark.parametrize(
    ("options", "spec", "flag", "value"),
    [
        (Options(), {}, "cb-failure-threshold", "2"),
        (Options(prefill=2), {}, "cb-failure-threshold", "1"),
        (Options(prefill=2, decode=1), {}, "cb-failure-threshold", "2"),
        (Options(is_aggregated=True), {}, "cb-failure-threshold", "1"),
        (Options(is_aggregated=True, workers=1), {}, "cb-failure-threshold", "2"),
        (Options(), {}, "cb-timeout-duration-secs", "5"),
        (Options(), {}, "health-check-interval-secs", "2"),
        (Options(), {}, "model-path", "/models/tiny-moe"),
        (Options(), {}, "port", "8000"),
        (Options(), {"gateway": {"port": 8080}}, "port", "8080"),
        (Options(port=9), {"gateway": {"port": 8080}}, "port", "9"),
        (Options(host="0.0.0.0"), {}, "host", "0.0.0.0"),
        (Options(host="0.0.0.0"), {}, "prometheus-host", "127.0.0.1"),
        (Options(), {"gateway": {"toolParser": "deepseek"}}, "tool-call-parser", "deepseek"),
        (Options(), {"gateway": {"reasoningParser": "qwen3"}}, "reasoning-parser", "qwen3"),
    ],
)
def test_gateway_flags(options: Options, spec: dict[str, Any], flag: str, value: str) -> None:
    assert _flag(_plan(options, **spec).processes[-1], flag) == value


@pytest.mark.parametrize(
    ("host", "url"),
    [("127.0.0.1", "http://127.0.0.1:8000"), ("0.0.0.0", "http://127.0.0.1:8000"), ("::1", "http://[::1]:8000")],
)
def test_url_for_clients(host: str, url: str) -> None:
    assert _plan(Options(host=host)).url == url


@pytest.mark.parametrize(
    ("options", "spec", "message"),
    [
        (Options(is_aggregated=True, prefill=1), {}, "use --workers instead"),
        (Options(decode=1), {"topology": "Aggregated"}, "use --workers instead"),
        (Options(workers=1), {}, "add --aggregated"),
        (Options(), {"pools": {"prefill": {"replicas": 0}, "decode": {}}}, "the prefill pool has no replicas"),
        (Options(), {"engine": {"type": "vllm"}}, "spec.engine.type: proa up does not run vllm yet"),
        (Options(), {"kvTransfer": {"backend": "mori"}}, "spec.kvTransfer.backend: .* not by mori"),
        (Options(), {"model": {"uri": "bundled://x", "name": "x", "dtype": "fp8"}}, "spec.model.dtype"),
    ],
)
def test_refused(options: Options, spec: dict[str, Any], message: str) -> None:
    with pytest.raises(PlanError, match=message):
        _plan(options, **spec)


@pytest.mark.parametrize(
    ("pool", "field"),
    [
        ({"nodesPerGroup": 2}, "nodesPerGroup"),
        ({"parallelism": {"tp": 2}}, "parallelism.tp"),
        ({"parallelism": {"pp": 2}}, "parallelism.pp"),
        ({"parallelism": {"cp": 2}}, "parallelism.cp"),
        ({"parallelism": {"dp": 2}}, "parallelism.dp"),
        ({"parallelism": {"ep": 2}}, "parallelism.ep"),
        ({"overlap": {"twoBatch": "on"}}, "overlap.twoBatch"),
        ({"overlap": {"prefillDelayer": "on"}}, "overlap.prefillDelayer"),
        ({"overlap": {"farskip": "force"}}, "overlap.farskip"),
        ({"speculative": {"mtp": 1}}, "speculative.mtp"),
    ],
)
def test_pool_settings_of_larger_machines_are_refused(pool: dict[str, Any], field: str) -> None:
    with pytest.raises(PlanError, match=f"spec.pools.decode.{field}: "):
        _plan(pools={"prefill": {}, "decode": pool})


@pytest.mark.parametrize("number", ["prefill", "decode", "workers"])
def test_a_pool_of_none_is_refused(number: str) -> None:
    with pytest.raises(PlanError, match=f"--{number} is 0"):
        Options(**{number: 0})


def test_cluster_fields_are_named_in_one_line() -> None:
    spec = {"security": {"profile": "Rdma"}, "slo": {"ttftMs": 100}, "gateway": {"tls": {"secretName": "x"}}}
    assert _plan(**spec).notes == ("used in a cluster only, ignored here: gateway.tls, security",)
    assert _plan().notes == ()


@pytest.mark.parametrize(
    ("options", "env"),
    [
        (Options(), [{}, {}, {}]),
        (Options(num_cores=16), [{"OMP_NUM_THREADS": "5"}] * 3),
        (Options(num_cores=2), [{"OMP_NUM_THREADS": "1"}] * 3),
        (Options(num_cores=2, is_aggregated=True, workers=1), [{"OMP_NUM_THREADS": "1"}]),
        (Options(gpus=Gpus(variable="HIP_VISIBLE_DEVICES", ids=("0",))), [{}, {}, {}]),
        (
            Options(gpus=Gpus(variable="HIP_VISIBLE_DEVICES", ids=("4", "6"))),
            [{"HIP_VISIBLE_DEVICES": gpu} for gpu in ("4", "6", "4")],
        ),
    ],
)
def test_workers_share_the_machine(options: Options, env: list[dict[str, str]]) -> None:
    assert [dict(process.env) for process in _plan(options).processes[:-1]] == env


@pytest.mark.parametrize(
    ("ids", "args", "is_told"),
    [("0", [], True), ("012", [], False), ("0", ["--kv-cache-memory", "1GiB"], False)],
    ids=["shared", "one each", "divided"],
)
def test_a_shared_gpu_is_told(ids: str, args: list[str], is_told: bool) -> None:
    gpus = Gpus(variable="CUDA_VISIBLE_DEVICES", ids=tuple(ids))
    notes = _plan(Options(gpus=gpus), engine={"type": "native", "args": args}).notes
    assert any("3 workers share 1 GPU" in note for note in notes) is is_told


@pytest.mark.parametrize(("host", "is_told"), [("127.0.0.1", False), ("::1", False), ("0.0.0.0", True)])
def test_an_open_port_is_told(host: str, is_told: bool) -> None:
    assert any("asks for no key" in note for note in _plan(Options(host=host)).notes) is is_told
